"""Swap descent in mode select on the factor, for blocks whose couplings are too large to form.

All quantities follow from r = C m with C = A diag(w̄): F = h + C'r - m·|c|². A working set of the most
promising weights (with a quota, of pairs within groups) gets its own small coupling matrix and
is solved by the dense kernel with all other weights fixed, which is exact. When no working set
improves, a scan over all pairs that |J_ij| <= |c_i||c_j| cannot rule out either finds new ones or
proves that no swap improves.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import (
    BoolArray,
    Factor,
    FloatArray,
    IndexArray,
    column_squares,
    times,
    transposed_times,
)
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.stop import Stop
from prunebench.kernels.local_search import select_kernel

WORKING_SET = 256
"""Most kept and most pruned weights exchanged at a time."""
REFRESH_ROUNDS = 16
"""Working sets between two recomputations of r."""
TILE_KEPT = 2048
"""Kept weights in a tile of pairs."""
TILE_PRUNED = 4096
"""Pruned weights in a tile of pairs; with TILE_KEPT, 64 MB of couplings in float64."""
NORM_LEVELS = 64
"""Number of levels of the pruned columns' norms for which the bound on a tile is computed."""
SCAN_OPERATIONS = 5e11
"""Most multiply-adds of one scan over all pairs; if it needs more, optimality stays unproved."""
ROUNDING = 32.0 * float(np.finfo(np.float64).eps)
"""Rounding that a gain must exceed, relative to the terms whose difference it is."""
SOURCE = "swaps"
"""The source of this search's masks, as the incumbent names it."""
UNPROVED = "no working set improves; the scan over all pairs would cost too much"
"""Why a descent ended without a proof of local optimality."""


@dataclass
class SelectFactorSearch:
    """Swap descent on one block; keeps what its restarts share.

    block : a select problem whose form holds a factor
    """

    block: BlockProblem
    scan_operations: float = SCAN_OPERATIONS
    _linear: FloatArray = field(init=False)
    _column_norms: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        assert self.block.form.factor is not None
        self._factor: Factor = self.block.form.factor
        self._linear = self.block.to_qubo().linear
        self._column_norms = np.sqrt(column_squares(self._factor))
        self._scale = self.block.dense_weights
        self._norms = self._column_norms * np.abs(self._scale)
        self._keeping = self.block.keeping
        self._packs = self._keeping.packs(2 * WORKING_SET)

    def run(self, mask: BoolArray, best: Incumbent, spent: float = 0.0) -> tuple[int, float, bool, Stop]:
        """Improve `mask` in place. -> moves, swaps examined, whether proved 1-swap optimal, why it stopped.

        `best` is offered every better mask; `spent` evaluations count towards its budget.
        """
        state = _State(self, mask)
        moves, evaluations = 0, 0.0
        while True:
            while not (stop := best.stop(spent + evaluations)):
                made, tried = self._working_set(state, *state.promising())
                moves, evaluations = moves + made, evaluations + tried
                if made == 0:
                    break
                best.offer(mask, SOURCE)
            if stop:
                return moves, evaluations, False, stop
            state.refresh()
            if self._scan_cost(state) > self.scan_operations:
                return moves, evaluations, False, Stop.finished(UNPROVED)
            made, tried, stop = self._scan_all(state, best, spent + evaluations)
            moves, evaluations = moves + made, evaluations + tried
            if stop:
                return moves, evaluations, False, stop
            if made == 0:
                return moves, evaluations, True, Stop.finished("no swap improves")

    def _working_set(self, state: "_State", kept: IndexArray, pruned: IndexArray) -> tuple[int, float]:
        chosen, offsets = self._keeping.grouped(np.concatenate((kept, pruned)))
        columns = self._factor[:, chosen].astype(np.float64, copy=False) * self._scale[chosen]
        couplings = columns.T @ columns
        np.fill_diagonal(couplings, 0.0)
        before = state.mask[chosen]
        linear = state.fields[chosen] - couplings[:, before].sum(axis=1)
        after = before.copy()
        moves, tried, _, _ = select_kernel.descend(couplings, linear, state.tolerance[chosen], after, offsets=offsets)
        if moves:
            state.apply(chosen, after, columns @ (after.astype(np.float64) - before))
        return moves, tried

    def _tiles(self, state: "_State", members: IndexArray) -> Iterator[tuple[IndexArray, IndexArray]]:
        """Pairs of kept and pruned positions that may hold an improving swap, by |J_ij| <= |c_i||c_j|."""
        kept, pruned = members[state.mask[members]], members[~state.mask[members]]
        if kept.size == 0 or pruned.size == 0:
            return
        norms = self._norms[pruned]
        worth = (state.fields + state.tolerance)[pruned]
        levels = np.quantile(norms, np.linspace(0.0, 1.0, NORM_LEVELS))
        level = np.minimum(np.searchsorted(levels, norms), NORM_LEVELS - 1)
        kept = kept[np.argsort(-(state.fields[kept] + self._norms[kept] * norms.mean()), kind="stable")]
        for start in range(0, kept.size, TILE_KEPT):
            rows = kept[start : start + TILE_KEPT]
            reach = (state.fields - state.tolerance)[rows, None] + self._norms[rows, None] * levels
            columns = pruned[worth < reach.max(axis=0)[level]]
            for first in range(0, columns.size, TILE_PRUNED):
                yield rows, columns[first : first + TILE_PRUNED]

    def _scan_cost(self, state: "_State") -> float:
        rows, total = float(self._factor.shape[0]), 0.0
        for members in self._packs:
            if self._is_small(members):
                total += rows * float(members.size) ** 2
            else:
                total += sum(rows * kept.size * pruned.size for kept, pruned in self._tiles(state, members))
        return total

    def _is_small(self, members: IndexArray) -> bool:
        """Whether these weights are whole groups that fit one working set."""
        return not self._keeping.one_count and members.size <= 2 * WORKING_SET

    def _scan_all(self, state: "_State", best: Incumbent, spent: float) -> tuple[int, float, Stop | None]:
        """One scan over all pairs, group by group. -> moves, swaps examined, why it was cut short."""
        moves, evaluations = 0, 0.0
        for members in self._packs:
            if stop := best.stop(spent + evaluations):
                return moves, evaluations, stop
            if self._is_small(members):
                made, tried = self._working_set(state, members[state.mask[members]], members[~state.mask[members]])
            else:
                made, tried, stop = self._scan(state, members, best, spent + evaluations)
            moves, evaluations = moves + made, evaluations + tried
            if stop:
                return moves, evaluations, stop
        return moves, evaluations, None

    def _scan(
        self, state: "_State", members: IndexArray, best: Incumbent, spent: float
    ) -> tuple[int, float, Stop | None]:
        """One scan over the pairs of `members` that applies the swaps found; returns as `_scan_all`."""
        moves, evaluations = 0, 0.0
        held: tuple[IndexArray, FloatArray] | None = None
        for kept, pruned in list(self._tiles(state, members)):
            if stop := best.stop(spent + evaluations):
                return moves, evaluations, stop
            rows, columns = kept[state.mask[kept]], pruned[~state.mask[pruned]]
            if rows.size == 0 or columns.size == 0:
                continue
            if held is None or not np.array_equal(held[0], rows):
                held = rows, self._unit_columns(rows)
            best_in, change = self._improving(state, rows, columns, held[1])
            evaluations += float(rows.size) * columns.size
            found = np.flatnonzero(change < 0.0)
            if found.size:
                order = found[np.argsort(change[found], kind="stable")][:WORKING_SET]
                made, tried = self._working_set(state, rows[order], np.unique(columns[best_in[order]]))
                moves, evaluations = moves + made, evaluations + tried
        return moves, evaluations, None

    def _unit_columns(self, chosen: IndexArray) -> FloatArray:
        """The columns scaled to unit length, one per row, float64 (b, n)."""
        norms = self._column_norms[chosen]
        columns = np.ascontiguousarray(self._factor[:, chosen].T).astype(np.float64, copy=False)
        return np.asarray(columns / np.where(norms > 0.0, norms, 1.0)[:, None])

    def _improving(
        self, state: "_State", rows: IndexArray, columns: IndexArray, left: FloatArray
    ) -> tuple[IndexArray, FloatArray]:
        """For every row the best improving column (position, change); change 0 if there is none."""
        right = self._unit_columns(columns)
        cosines: npt.NDArray[np.float32] = left.astype(np.float32) @ right.astype(np.float32).T
        error = (self._factor.shape[0] + 8) * float(np.finfo(np.float32).eps)
        signed = self._scale * self._column_norms
        found: tuple[IndexArray, FloatArray] = _improving_pairs(
            cosines,
            (state.fields - state.tolerance)[rows],
            (state.fields + state.tolerance)[columns],
            signed[rows],
            signed[columns],
            left,
            right,
            error,
        )
        return found


class _State:
    """Mask, r = C m and fields, updated together."""

    def __init__(self, search: SelectFactorSearch, mask: BoolArray) -> None:
        self.mask = mask
        self._search = search
        self.refresh()

    def refresh(self) -> None:
        """Recompute r from the mask."""
        self._residual = times(self._search._factor, np.where(self.mask, self._search._scale, 0.0))
        self._age = 0
        self._update_fields()

    def apply(self, chosen: IndexArray, kept: BoolArray, step: FloatArray) -> None:
        """Set the mask at `chosen`; `step` is the resulting change of r."""
        self.mask[chosen] = kept
        self._residual += step
        self._age += 1
        if self._age >= REFRESH_ROUNDS:
            self.refresh()
        else:
            self._update_fields()

    def promising(self) -> tuple[IndexArray, IndexArray]:
        """The kept weights that cost most and the pruned weights that cost least, judged by their fields alone."""
        if not self._search._keeping.one_count:
            leaving, entering = self._search._keeping.exchanges(self.mask, -self.fields, -self.fields)
            return leaving[:WORKING_SET], entering[:WORKING_SET]
        kept, pruned = np.flatnonzero(self.mask), np.flatnonzero(~self.mask)
        return _smallest(kept, -self.fields[kept]), _smallest(pruned, self.fields[pruned])

    def _update_fields(self) -> None:
        search = self._search
        inner = search._scale * transposed_times(search._factor, self._residual)
        self.fields = search._linear + inner - np.where(self.mask, search._norms**2, 0.0)
        size = float(np.linalg.norm(self._residual))
        self.tolerance = ROUNDING * (np.abs(search._linear) + search._norms * (size + search._norms))


def _smallest(positions: IndexArray, values: FloatArray) -> IndexArray:
    if positions.size <= WORKING_SET:
        return positions
    return np.sort(positions[np.argpartition(values, WORKING_SET)[:WORKING_SET]])


@njit(cache=True, nogil=True)
def _improving_pairs(
    cosines: npt.NDArray[np.float32],
    out_value: FloatArray,
    in_value: FloatArray,
    out_scale: FloatArray,
    in_scale: FloatArray,
    left: FloatArray,
    right: FloatArray,
    error: float,
) -> tuple[IndexArray, FloatArray]:
    """Filter pairs by float32 cosines and their error bound; decide the remaining ones in float64."""
    best_in = np.zeros(out_value.size, dtype=np.int64)
    best = np.zeros(out_value.size)
    for i in range(out_value.size):
        for j in range(in_value.size):
            scale = out_scale[i] * in_scale[j]
            change = in_value[j] - out_value[i] - scale * cosines[i, j]
            if change < best[i] + error * abs(scale):
                exact = 0.0
                for row in range(left.shape[1]):
                    exact += left[i, row] * right[j, row]
                change = in_value[j] - out_value[i] - scale * exact
                if change < best[i]:
                    best[i], best_in[i] = change, j
    return best_in, best
