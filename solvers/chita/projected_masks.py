"""Projected gradient on masks in mode select, with an exact line search over all breakpoints.

Let F be the gradient of E. The projection of m − τF onto masks with k ones exchanges the kept weights of
largest F for the pruned ones of smallest F, one pair at each breakpoint of τ (with a quota in each group,
the largest differences first). The path is thus one nested sequence of swaps, and cumulative sums give E
along it, so the best breakpoint is found exactly.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, times, transposed_times
from prunebench.core.block import BlockProblem
from prunebench.core.stop import StopCheck

PAIRS_AT_ONCE = 256
"""Exchanges along the path evaluated together."""
ROUNDING = 1e-12
"""Share of the sum of the kept weights' fields that a step must gain; less is rounding."""


class MaskDescent:
    """Projected gradient steps on one block's masks."""

    def __init__(self, block: BlockProblem) -> None:
        self._root = block.form.square_root()
        self._qubo = block.to_qubo()
        self._scale = block.dense_weights
        squares = block.form.diagonal() - block.form.ridge
        self._own = self._scale**2 * squares
        self._keeping = block.keeping

    def run(self, mask: BoolArray, steps: int, stop: StopCheck) -> tuple[BoolArray, int]:
        """Make steps until none lowers E. bool (p,) -> bool (p,), and the steps made."""
        held, made = mask.copy(), 0
        while made < steps and not stop(made):
            made += 1
            if not self._step(held):
                break
        return held, made

    def _step(self, mask: BoolArray) -> bool:
        """The best breakpoint of the path from `mask`, applied in place; False if none lowers E."""
        residual = times(self._root, np.where(mask, self._scale, 0.0))
        inner = self._scale * transposed_times(self._root, residual)
        # the change when one weight leaves or enters alone gives the order of the pairs along the path
        fields = self._qubo.linear + inner - np.where(mask, self._own, 0.0)
        leaving, entering = self._pairs(mask, fields)
        count = min(leaving.size, entering.size)
        worthwhile = int((fields[entering[:count]] < fields[leaving[:count]]).sum())
        best, best_pairs, before = 0.0, 0, 0.0
        tolerance = ROUNDING * float(np.abs(fields[mask]).sum())
        path = residual.copy()
        for first in range(0, worthwhile, PAIRS_AT_ONCE):
            out, into = leaving[first : first + PAIRS_AT_ONCE], entering[first : first + PAIRS_AT_ONCE]
            out, into = out[: worthwhile - first], into[: worthwhile - first]
            changes, path = self._along(residual, path, out, into, before)
            before = float(changes[-1][1])
            lowest = int(np.argmin(changes[:, 0]))
            if changes[lowest, 0] < best - tolerance:
                best, best_pairs = float(changes[lowest, 0]), first + lowest + 1
            elif first > 2 * best_pairs + PAIRS_AT_ONCE:
                break
        mask[leaving[:best_pairs]] = False
        mask[entering[:best_pairs]] = True
        return best_pairs > 0

    def _pairs(self, mask: BoolArray, fields: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Leaving and entering weights in the order of the path; the r-th of each are exchanged together."""
        return self._keeping.ranked(mask, -fields, -fields)

    def _along(
        self, residual: FloatArray, path: FloatArray, out: IndexArray, into: IndexArray, before: float
    ) -> tuple[FloatArray, FloatArray]:
        """After each pair, E minus E at the start and the linear part of that, (pairs, 2); r after the last pair."""
        steps = self._root[:, into] * self._scale[into] - self._root[:, out] * self._scale[out]
        along = path[:, None] + np.cumsum(steps, axis=1, dtype=np.float64)
        linear = before + np.cumsum(self._pure(into) - self._pure(out))
        squares = np.einsum("ij,ij->j", along, along) - float(residual @ residual)
        return np.column_stack((linear + 0.5 * squares, linear)), along[:, -1]

    def _pure(self, chosen: IndexArray) -> FloatArray:
        """A weight's contribution to E besides ½‖r‖²."""
        return np.asarray(self._qubo.linear[chosen] - 0.5 * self._own[chosen])
