"""Bounds on the rounding errors of an enumeration's values, valid for every mask at once.

An enumeration computes a mask's cost as base + factor·v. If the computed v is at least a given number, the exact
one is at least v − (fixed + root·√v + share·v), in the enumeration's units.

Elimination is backward stable: v is the exact value for a matrix and a vector whose entries have relative
errors of a few units of rounding (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., Theorem
10.3). With q = max_x 2w'x − x'Px, entry errors ε (of P) and η (of w) change q by at most 2η‖x‖₁ + ε‖x‖₁²,
and ‖x‖₁² <= r q/λ for r entries and a lowest eigenvalue of at least λ.
"""

import math
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.balls import UNIT
from prunebench.core.block import BlockProblem

SAFE = 1.05
"""Covers the rounding of the bounds themselves, which are sums of positive numbers."""


@dataclass(frozen=True)
class Doubt:
    """Bounds exact costs by computed values: cost >= base + factor·(v − fixed − root·√v − share·v).

    base : a lower bound, in the block's units;  factor : positive
    """

    base: float
    factor: float
    fixed: float = 0.0
    root: float = 0.0
    share: float = 0.0
    positive: bool = False
    """Whether exact values cannot be negative, so that `base` alone is a bound."""

    @property
    def ready(self) -> bool:
        """Whether computed values imply any bound on exact costs."""
        return math.isfinite(self.base) and math.isfinite(self.fixed + self.root) and self.share < 0.5

    def least(self, value: float) -> float:
        """A lower bound on the exact cost of every mask whose computed value is at least `value`."""
        if not self.ready:
            return -math.inf
        held = max(value, 0.0) if self.positive else value
        turn = (self.root / (2.0 * (1.0 - self.share))) ** 2 if self.root else 0.0
        least = held - self.fixed
        if self.root or self.share:
            # minimum of v − root·√v − share·v over v >= held
            at = max(held, turn)
            least = at - self.root * math.sqrt(at) - self.share * at
        if self.positive:
            least = max(least, 0.0)
        bound = self.base + self.factor * least
        return bound - 4.0 * UNIT * (abs(bound) + abs(self.base))

    def limit(self, objective: float) -> float:
        """A computed value at and above which every mask costs at least `objective`."""
        if not self.ready:
            return math.inf
        target = (objective - self.base) / self.factor
        target += 8.0 * UNIT * (abs(objective) + abs(self.base)) / self.factor
        if not (self.root or self.share):
            return (target + self.fixed) + 4.0 * UNIT * (abs(target) + self.fixed)
        rest = 1.0 - self.share
        root = (self.root + math.sqrt(self.root**2 + 4.0 * rest * max(target, 0.0))) / (2.0 * rest)
        return root * root * (1.0 + 1e-12) + 1e-300


def select_doubt(block: BlockProblem, base: float) -> Doubt:
    """Doubt for sums of a QUBO's terms, from zero or from the dense point; bounded by the sizes of the terms."""
    form = block.form
    sizes = np.sqrt(form.entry_sizes**2 + form.ridge)
    reach = np.abs(block.dense_weights) + np.abs(form.centre)
    along = float(sizes @ reach)
    size = abs(form.constant) + float(np.abs(form.linear) @ reach) + along**2
    rows = block.p if form.factor is None else form.factor.shape[0]
    # entries sum n terms, rows p, and each level adds two per term
    fixed = SAFE * (8.0 * (rows + block.p + 8) * UNIT * size + form.formed_error * along**2)
    return Doubt(base, 1.0, fixed=fixed if math.isfinite(fixed) else math.inf)


def kept_doubt(block: BlockProblem, scale: FloatArray) -> Doubt:
    """Doubt for v = −s_S'(H_SS)⁻¹s_S, counted from f(0); `scale` (p,) brings H near unit diagonal."""
    form, keep = block.form, block.keep
    value, _ = form.enclosure(np.zeros(block.p))
    base, floor, lowest = float(value.lower()), form.strong_convexity, form.lower_bound()
    entry, off = _scaled_errors(block, scale)
    gain = SAFE * 2.0 * (float(value.upper()) - lowest)
    least = 0.0 if floor is None else float((floor * scale * scale).min())
    rounded = 4.0 * (keep + 4) * UNIT
    entry += rounded
    if not (math.isfinite(gain) and least > 0.0 and 2.0 * keep * entry <= least):
        return Doubt(-math.inf, 0.5)
    across = math.sqrt(keep * gain / least)
    fixed = 2.0 * (float(off.max()) + SAFE * rounded * math.sqrt(gain)) * across
    fixed += entry * keep * gain / least + SAFE * rounded * gain
    return Doubt(base, 0.5, fixed=SAFE * fixed)


def pruned_doubt(
    block: BlockProblem, matrix: FloatArray, slope: FloatArray, scale: FloatArray, inverse: FloatArray
) -> Doubt:
    """Doubt for v = w_R'(P_RR)⁻¹w_R, counted from the unconstrained minimum; P = H⁻¹ at unit diagonal, w = Ps.

    The computed inverse P̂ is checked by its residual: with R = I − CP̂, P − P̂ = PR.
    """
    form, p, pruned = block.form, block.p, block.p - block.keep
    base = form.lower_bound()
    entry, off = _scaled_errors(block, scale)
    sums = np.abs(inverse).sum(axis=1)
    residual = np.abs(np.eye(p) - matrix @ inverse)
    residual += (p + 3) * UNIT * (np.abs(matrix) @ np.abs(inverse) + np.eye(p)) + entry * np.abs(inverse).sum(axis=0)
    share = SAFE * float(residual.sum(axis=1).max())
    if not (math.isfinite(base) and share < 0.5):
        return Doubt(-math.inf, 0.5)
    wrong = float(sums.max()) * share / (1.0 - share)
    sizes = np.abs(slope)
    moved = wrong * float((sizes + off).sum()) + float((np.abs(inverse) @ (off + (p + 3) * UNIT * sizes)).max())
    rounded = 4.0 * (pruned + 4) * UNIT
    largest = float(inverse.diagonal().max())
    entries = SAFE * (wrong + rounded * largest)
    # the largest eigenvalue of C is at most its trace, which is p
    lowest = 1.0 / (SAFE * p) - pruned * entries
    if lowest <= 0.0:
        return Doubt(-math.inf, 0.5)
    reach = math.sqrt(pruned / lowest)
    relative = rounded + 2.0 * rounded * math.sqrt(largest) * reach + entries * reach**2
    return Doubt(base, 0.5, root=SAFE * 2.0 * moved * reach, share=SAFE * relative, positive=True)


def _scaled_errors(block: BlockProblem, scale: FloatArray) -> tuple[float, FloatArray]:
    """Error bounds of the entries of the scaled Hessian, and of the scaled gradient at zero. float, (p,)"""
    form = block.form
    sizes = np.sqrt(form.diagonal())
    rows = block.p if form.factor is None else form.factor.shape[0]
    along = float(sizes @ np.abs(form.centre))
    terms = 2.0 * (rows + block.p + 8) * UNIT
    off = SAFE * scale * (terms * (np.abs(form.linear) + sizes * along) + form.formed_error * sizes * along)
    return SAFE * (form.entry_error + 6.0 * UNIT), np.asarray(off)
