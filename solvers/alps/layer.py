"""ALPS: the support of a whole layer by the alternating direction method of multipliers, then swaps row by row.

Meng, Behdin, Wang, Mazumder: ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
Language Models, NeurIPS 2024, §3.1 and §3.2: in units in which the Hessian has unit diagonal,

    U ← (H + ρ)⁻¹ (−Q − V + ρD),   D ← U + V/ρ on the support kept,   V ← V + ρ (U − D),

with one eigendecomposition of H for all rows and all penalties ρ. With a quota, the support is the best one
within its groups.
"""

import numpy as np
import scipy.linalg

from prunebench.core import row_products
from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.block import BlockProblem
from prunebench.core.stop import StopCheck
from prunebench.kernels.linear_algebra.layer_view import LayerView, row_groups

STEPS_PER_PENALTY = 3
"""Steps between two updates of the penalty, as published."""
LARGE, MODERATE = 0.1, 0.005
"""Changes of the support in one step, as shares of it, above which the penalty grows fast or moderately."""
GROWTH = (1.3, 1.2, 1.1)
"""Factors of the penalty after a large, a moderate and a small change of the support, as published."""
SETTLED_STEPS, SETTLED_SHARE = 30, 3e-4
"""After SETTLED_STEPS the search ends once a step changes less than SETTLED_SHARE of the support."""
LOWERING, LOWERINGS = 5.0, 6
"""While the support equals the start, the penalty is divided by LOWERING, at most LOWERINGS times."""


class Search:
    """ADMM on one layer, in its own precision; all starts share its eigendecomposition."""

    def __init__(self, block: BlockProblem, view: LayerView) -> None:
        self._block, self._view = block, view
        self._matrix, self._slope = view.scaled_matrix(), view.scaled_slope
        self._values, self._vectors = scipy.linalg.eigh(self._matrix, driver="evd", check_finite=False)
        self._values = np.maximum(self._values, 0.0)
        self._inverse: tuple[float, RealArray] | None = None
        """(H + shift)⁻¹ of the last shift, where there are so many rows that making it pays."""
        self._minimiser = self._solve(-self._slope, 0.0)

    def run(self, penalty: float, most: int, stop: StopCheck) -> tuple[BoolArray, RealArray, int]:
        """A support, from the initial penalty ρ = `penalty`. -> bool (p,), its weights in scaled units (r, c), steps

        stop : given the steps so far, why to stop now, or None
        """
        keep = max(1, self._block.keep)
        split = self._minimiser.copy()
        start = support = self._top(split)
        split *= support
        multipliers = np.zeros_like(split)
        rho, moved, lowered = penalty, False, 0
        for step in range(most):
            if stop(step):
                return support.reshape(-1), split, step
            weights = rho * split
            weights -= multipliers
            weights -= self._slope
            weights = self._solve(weights, rho)
            pulled = weights + multipliers / rho
            before, support = support, self._top(pulled)
            # multipliers + rho·(weights − split) is rho·pulled off the support, and zero on it
            multipliers = np.where(support, 0.0, rho * pulled).astype(weights.dtype)
            split = np.where(support, pulled, 0.0).astype(weights.dtype)
            if step % STEPS_PER_PENALTY < STEPS_PER_PENALTY - 1:
                continue
            share = int((support & ~before).sum()) / keep
            moved = moved or not np.array_equal(support, start)
            if share == 0.0 and not moved and lowered < LOWERINGS:
                # with too high a penalty the support cannot change, which says nothing about the start
                rho, lowered = rho / LOWERING, lowered + 1
                multipliers[:] = 0.0
            elif share == 0.0 or (step >= SETTLED_STEPS and share < SETTLED_SHARE):
                return support.reshape(-1), weights * support, step + 1
            else:
                rho *= GROWTH[0] if share > LARGE else GROWTH[1] if share > MODERATE else GROWTH[2]
        return support.reshape(-1), split, most

    def refitted(self, support: BoolArray, start: RealArray) -> FloatArray | None:
        """The best weights on a support, all rows at once from `start`, (r, c) in scaled units; (p,) in the layer's.

        None where conjugate gradients do not converge.
        """
        mask = support.reshape(start.shape)
        no_ridge = np.zeros(self._matrix.shape[0], dtype=start.dtype)
        found, done = row_products.solve_on_supports(self._matrix, no_ridge, mask, -self._slope * mask, start)
        return np.asarray((found * self._view.scale).reshape(-1)) if done.all() else None

    def _solve(self, right: RealArray, shift: float) -> RealArray:
        """(H + shift)⁻¹ applied to every row. (r, c) -> (r, c)"""
        least = np.finfo(self._values.dtype).eps * self._values[-1]
        values = np.maximum(self._values + self._values.dtype.type(shift), least)
        rows, columns = right.shape
        if columns > STEPS_PER_PENALTY * rows:
            return np.asarray((right @ self._vectors / values) @ self._vectors.T)
        if self._inverse is None or self._inverse[0] != shift:
            self._inverse = shift, (self._vectors / values) @ self._vectors.T
        return np.asarray(right @ self._inverse[1])

    def _top(self, values: RealArray) -> BoolArray:
        return self._block.top_mask(np.abs(values).reshape(-1)).reshape(values.shape)


def swap_rows(block: BlockProblem, view: LayerView, mask: BoolArray, stop: StopCheck) -> tuple[BoolArray, int]:
    """`mask` improved by exact refit swaps within each row and group until none improves. -> mask, swaps made

    stop : given the swaps examined, why to stop now, or None
    """
    from prunebench.kernels.local_search.refit_kernel import descend

    matrix, slope = view.scaled_wide()
    out, made, tried = mask.copy(), 0, 0.0
    rows, columns = view.shape
    for row in range(rows):
        if stop(tried):
            break
        part = slice(row * columns, (row + 1) * columns)
        order, offsets = row_groups(block, row, columns, out)
        inner = out[part][order]
        spent = tried
        moves, evaluations, _, _ = descend(
            matrix[np.ix_(order, order)],
            slope[row, order],
            inner,
            lambda looked, spent=spent: stop(spent + looked),  # type: ignore[misc]  # bound now
            offsets=offsets,
        )
        out[row * columns + order] = inner
        made, tried = made + moves, tried + evaluations
    return out, made
