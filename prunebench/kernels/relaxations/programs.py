"""The block as a small dense program for bounds and exact solvers, with bounds on its rounding.

select: with x = 1 − m (1 = pruned) the move from the dense point is −x·w̄, and as xᵢ² = xᵢ

    f = constant + linear'x + ½ x'Qx,     Q = diag(w̄) A'A diag(w̄),   Σx = p − keep.

refit:  f(w) = constant − slope'w + ½ w'Hw   with w = 0 off the mask.

Both are scaled by a power of two, which is exact, so that the incumbent's distance from the
constant is near 1000: tolerances and interior-point steps then mean the same on every block.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Counted

HALF_ULP = 0.5 * float(np.finfo(np.float64).eps)
"""Unit roundoff of float64: the largest relative error of one operation."""
TARGET = 1000.0
"""Approximate distance of the incumbent from the constant, in a program's units."""
SECOND_ORDER = 0.1
"""Weights are eliminated only if the second-order error is at most this share of the first-order one."""


@dataclass(frozen=True, eq=False)
class SelectProgram:
    """min linear'x + ½ x'Qx over binaries with Σx = count: the block's problem times `scale`, without `constant`.

    quadratic : Q (p, p), linear : (p,)   scaled;  count = p − keep; with a budget the least that must be pruned
    constant : f at the dense weights, not scaled
    rounding : scaled bound on the rounding of the arrays and the constant, for every feasible x
    """

    quadratic: FloatArray
    linear: FloatArray
    count: int
    constant: float
    scale: float
    rounding: float

    @staticmethod
    def of(block: BlockProblem, upper: float) -> "SelectProgram":
        """The program of a block; `upper` is the incumbent's objective. O(np²)."""
        form, dense = block.form, block.dense_weights
        gram = form.gram(np.arange(block.p))
        norms = np.sqrt(form.entry_sizes**2 + form.ridge)
        gram[np.diag_indices(block.p)] -= form.ridge
        if form.hessian is not None:
            gram = np.array(form.hessian)
        quadratic = gram * dense[:, None] * dense
        slope = form.gradient(dense)
        linear = 0.5 * form.ridge * dense * dense - dense * slope
        constant = form.value(dense)
        rows = block.p if form.factor is None else form.factor.shape[0]
        unit = HALF_ULP * (rows + block.p + 16)
        move = np.abs(dense - form.centre)
        reach = float(norms @ move)
        # a mask within a budget may prune any number of weights
        most = block.p - block.keep if block.budget is None else block.p
        largest = np.sort(np.abs(dense) * norms)[::-1][:most]
        lost = float(np.abs(dense) @ (np.abs(form.linear) + norms * reach)) + float(np.abs(linear).sum())
        lost += float(largest.sum()) ** 2 + abs(form.constant) + float(np.abs(form.linear) @ move) + reach**2
        scale = _scale(max(abs(upper - constant), 1e-9 * float(np.abs(quadratic).max(initial=0.0))))
        return SelectProgram(
            quadratic * scale, linear * scale, block.p - block.keep, constant, scale, unit * lost * scale
        )

    def widened(self, block: BlockProblem) -> "SelectProgram":
        """The program with more rounding, for an indefinite Hessian or one formed from a factor."""
        form = block.form
        rows = block.p if form.factor is None else form.factor.shape[0]
        reach = float(form.entry_sizes @ (np.abs(block.dense_weights) + np.abs(form.centre)))
        lost = (form.formed_error + HALF_ULP * (rows + block.p + 16)) * reach**2 * self.scale
        return replace(self, rounding=self.rounding + lost)

    def within(self, keeping: Counted, weight: float) -> "SelectProgram":
        """The program plus weight·(Σ_g x − r_g)² for every group, r_g being how many weights it prunes.

        The term is zero if the quota is kept. Otherwise at least two groups miss their counts, so it is at
        least 2·weight. Its constant Σ weight·r_g² is spread over the entries by Σx = count, which keeps
        values near their old size.
        """
        pruned = (keeping.sizes - keeping.counts).astype(np.float64)
        offset = weight * float(pruned @ pruned)
        quadratic = self.quadratic + 2.0 * weight * (keeping.group[:, None] == keeping.group)
        linear = self.linear - 2.0 * weight * pruned[keeping.group] + offset / self.count
        lost = 4.0 * HALF_ULP * (float(np.abs(quadratic).sum()) + float(np.abs(linear).sum()) + offset)
        return replace(self, quadratic=quadratic, linear=linear, rounding=self.rounding + lost)

    def inner(self, objective: float) -> float:
        """An objective of the block, converted to the program's units."""
        return (objective - self.constant) * self.scale

    def outer(self, bound: float) -> float:
        """A bound of the program, converted to the block's units and lowered by the program's rounding."""
        return _lowered(self.constant + (bound - self.rounding) / self.scale)


@dataclass(frozen=True, eq=False)
class RefitProgram:
    """min −slope'w + ½ w'Hw with at most `keep` nonzero entries: the block's problem times `scale`, without `constant`.

    hessian : H (p, p) with the ridge, slope : (p,)   scaled
    constant : f(0), not scaled;  rounding : scaled bound on the rounding of the constant
    relative : relative error of the entries, |δH_ij| <= relative reach_i reach_j, |δslope_i| <= relative height_i
    reach, height : (p,)   at least √H_ii and |slope_i|
    """

    hessian: FloatArray
    slope: FloatArray
    keep: int
    constant: float
    scale: float
    rounding: float
    relative: float
    reach: FloatArray
    height: FloatArray

    @staticmethod
    def of(block: BlockProblem, upper: float, reference: float | None = None) -> "RefitProgram":
        """The program of a block, scaled by the distance of the incumbent's objective `upper` from `reference`.

        The reference is f(0) by default. O(np²).
        """
        form = block.form
        hessian = form.gram(np.arange(block.p))
        zero = np.zeros(block.p)
        slope = -form.gradient(zero)
        constant = form.value(zero)
        rows = block.p if form.factor is None else form.factor.shape[0]
        unit = HALF_ULP * (rows + block.p + 16)
        reach = float(np.sqrt(np.maximum(hessian.diagonal(), 0.0)) @ np.abs(form.centre))
        lost = abs(form.constant) + float(np.abs(form.linear) @ np.abs(form.centre)) + reach**2
        distance = abs(upper - (constant if reference is None else reference))
        scale = _scale(max(distance, 1e-9 * abs(upper - constant), 1e-12 * abs(constant)))
        hessian, slope = hessian * scale, slope * scale
        return RefitProgram(
            hessian, slope, block.keep, constant, scale, unit * lost * scale, unit,
            np.sqrt(np.maximum(hessian.diagonal(), 0.0)), np.abs(slope),
        )  # fmt: skip

    def below(self, kept: IndexArray, free: IndexArray) -> "tuple[RefitProgram, float, float] | None":
        """The program of the `free` weights, with those in `kept` eliminated by minimisation and all others zero.

        Returns the program, how much higher its values are than this one's (possibly negative), and the error
        bound of that difference; None if rounding could be too large. With R the kept rows' system and
        X = R⁻¹H_kf, an error E of H changes the result to first order by (I, −X')E(I, −X')', so it is relative
        to reach_f + |X|'reach_k.
        """
        hessian, slope = self.hessian[np.ix_(free, free)], self.slope[free]
        left = self.keep - kept.size
        if kept.size == 0:
            part = replace(
                self, hessian=hessian, slope=slope, keep=left, reach=self.reach[free], height=self.height[free]
            )
            return part, 0.0, 0.0
        unit = 1.0 / self.reach[kept]
        factor, info = lapack.dpotrf(self.hessian[np.ix_(kept, kept)] * unit[:, None] * unit, lower=1, clean=1)
        if info:
            return None
        across = self.hessian[np.ix_(kept, free)]
        right = np.column_stack((across, self.slope[kept])) * unit[:, None]
        solved = lapack.dpotrs(factor, right, lower=1)[0] * unit[:, None]
        inverse, _ = lapack.dpotri(factor, lower=1)
        # Backward errors of Cholesky and its two solves are relative to the diagonal (Higham, Accuracy and
        # Stability of Numerical Algorithms, §10.1); the products with X add theirs
        relative = self.relative + HALF_ULP * (5 * kept.size + 16)
        second_order = 2.0 * relative * kept.size * float(np.linalg.norm(np.tril(inverse)))
        if second_order > SECOND_ORDER:
            return None
        relative *= 1.0 + 2.0 * second_order
        follow, rest = solved[:, :-1], solved[:, -1]
        share = np.abs(follow).T
        reach = self.reach[free] + share @ self.reach[kept]
        span = float(self.reach[kept] @ np.abs(rest))
        height = self.height[free] + share @ self.height[kept] + reach * span
        part = replace(
            self, hessian=hessian - across.T @ follow, slope=slope - follow.T @ self.slope[kept], keep=left,
            relative=relative, reach=reach, height=height,
        )  # fmt: skip
        part.hessian[:] = 0.5 * (part.hessian + part.hessian.T)
        doubt = relative * (float(self.height[kept] @ np.abs(rest)) + span**2)
        return part, 0.5 * float(self.slope[kept] @ rest), doubt

    def inner(self, objective: float) -> float:
        """An objective of the block, converted to the program's units."""
        return (objective - self.constant) * self.scale

    def outer(self, bound: float) -> float:
        """A bound of the program, converted to the block's units and lowered by the program's rounding."""
        return _lowered(self.constant + (bound - self.rounding) / self.scale)


def _scale(size: float) -> float:
    """The power of two that brings `size` near TARGET; 1 if it is zero."""
    if not size > 0.0 or not math.isfinite(size):
        return 1.0
    return 2.0 ** max(-900, min(900, round(math.log2(TARGET) - math.log2(size))))


def _lowered(bound: float) -> float:
    """The bound minus the two roundings of computing it."""
    return bound - 4.0 * HALF_ULP * abs(bound) if math.isfinite(bound) else bound
