"""The block as the two small dense programs that bounds and exact solvers work on, with their rounding.

select: with x = 1 − m (pruned) the move from the dense point is −x·w̄, and with xᵢ² = xᵢ

    f = constant + linear'x + ½ x'Qx,     Q = diag(w̄) A'A diag(w̄),   Σx = p − keep.

refit:  f(w) = constant − slope'w + ½ w'Hw   with w = 0 off the mask.

Both are multiplied by a power of two, which rounds nothing, so that the incumbent's distance from
the constant is near 1000: tolerances and interior-point steps then mean the same on every block.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Counted

HALF_ULP = 0.5 * float(np.finfo(np.float64).eps)
"""Half a unit in the last place of 1.0: the most that one operation in float64 rounds, relative to its result."""
TARGET = 1000.0
"""The incumbent's distance from the constant in a program's units, about."""
SECOND_ORDER = 0.1
"""Weights are eliminated as long as an error of second order is at most this part of those of first order."""


@dataclass(frozen=True, eq=False)
class SelectProgram:
    """min constant/scale-free linear'x + ½ x'Qx over binaries with Σx = count, times `scale`.

    quadratic : (p, p), linear : (p,)   scaled;  count = p − keep
    constant : f at the dense weights, unscaled
    rounding : scaled bound on what forming the arrays and the constant rounded, for every feasible x
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
        largest = np.sort(np.abs(dense) * norms)[::-1][: block.p - block.keep]
        lost = float(np.abs(dense) @ (np.abs(form.linear) + norms * reach)) + float(np.abs(linear).sum())
        lost += float(largest.sum()) ** 2 + abs(form.constant) + float(np.abs(form.linear) @ move) + reach**2
        scale = _scale(max(abs(upper - constant), 1e-9 * float(np.abs(quadratic).max(initial=0.0))))
        return SelectProgram(
            quadratic * scale, linear * scale, block.p - block.keep, constant, scale, unit * lost * scale
        )

    def within(self, keeping: Counted, weight: float) -> "SelectProgram":
        """The program with weight·(Σ_g x − r_g)² added for every group, r_g how many weights it prunes.

        Nothing changes where the quota is kept. Elsewhere on the count's plane two groups at least
        miss their counts, so the value rises by at least 2·weight. The constant Σ weight·r_g² is
        spread over the entries by Σx = count, which keeps values near their old size.
        """
        pruned = (keeping.sizes - keeping.counts).astype(np.float64)
        offset = weight * float(pruned @ pruned)
        quadratic = self.quadratic + 2.0 * weight * (keeping.group[:, None] == keeping.group)
        linear = self.linear - 2.0 * weight * pruned[keeping.group] + offset / self.count
        lost = 4.0 * HALF_ULP * (float(np.abs(quadratic).sum()) + float(np.abs(linear).sum()) + offset)
        return replace(self, quadratic=quadratic, linear=linear, rounding=self.rounding + lost)

    def inner(self, objective: float) -> float:
        """An objective of the block in the program's units."""
        return (objective - self.constant) * self.scale

    def outer(self, bound: float) -> float:
        """A bound of the program in the block's units, lowered by the program's rounding."""
        return _lowered(self.constant + (bound - self.rounding) / self.scale)


@dataclass(frozen=True, eq=False)
class RefitProgram:
    """min −slope'w + ½ w'Hw with at most keep entries not zero, times `scale`.

    hessian : (p, p) with the ridge, slope : (p,)   scaled
    constant : f(0), unscaled;  rounding : scaled bound on what the constant rounded
    relative : relative error of the entries, |δH_ij| <= relative reach_i reach_j, |δslope_i| <= relative height_i
    reach, height : (p,)   √H_ii and |slope_i|, or more
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
        """The program of the `free` weights, with those in `kept` where they follow to and all others zero.

        Returns the program, how much higher its values are than this one's (negative where they are
        lower), and what that is off by at most; None where rounding could be too much. With R the
        kept rows' system and X = R⁻¹H_kf, an error E of H changes the rest to first order by
        (I, −X')E(I, −X')', so it is relative to reach_f + |X|'reach_k.
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
        # Cholesky's backward error and that of its two solves are relative to the diagonal (Higham, Accuracy and
        # Stability of Numerical Algorithms, §10.1); the products with X come on top
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
        """An objective of the block in the program's units."""
        return (objective - self.constant) * self.scale

    def outer(self, bound: float) -> float:
        """A bound of the program in the block's units, lowered by the program's rounding."""
        return _lowered(self.constant + (bound - self.rounding) / self.scale)


def _scale(size: float) -> float:
    """The power of two that brings `size` near TARGET; 1 where there is nothing to scale."""
    if not size > 0.0 or not math.isfinite(size):
        return 1.0
    return 2.0 ** max(-900, min(900, round(math.log2(TARGET) - math.log2(size))))


def _lowered(bound: float) -> float:
    """The bound less the two roundings of computing it."""
    return bound - 4.0 * HALF_ULP * abs(bound) if math.isfinite(bound) else bound
