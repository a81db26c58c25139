"""Swap descent in mode refit, on dense curvature: best improvement until no swap lowers the refitted objective."""

import numpy as np
from scipy.linalg import LinAlgError

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import Stop, StopCheck, never
from prunebench.kernels.local_search import refit_rows

MOVES_TIMES_WORK = 30_000_000
"""Moves of compiled code between two looks at the clock, times the k·p operations of one: some tens of milliseconds."""
LEAST_MOVES = 16
"""Least moves between two looks at the clock."""
MOVES_A_WEIGHT = 0.5
"""The state is computed anew after that many moves for each weight, at least LEAST_MOVES."""
SINGULAR = "the curvature is singular on the support in floating point"
"""Why a descent ended without a proof of local optimality."""


class RefitDescent:
    """Descents on one matrix.

    matrix : float64 (p, p)     H, positive definite, scaled to unit diagonal
    slope : float64 (p,)        q, the gradient at w = 0, in the same scale
    offsets : int64 (g + 1,)    swaps stay within offsets[g]:offsets[g + 1]; None: one group of all
    """

    def __init__(self, matrix: FloatArray, slope: FloatArray, offsets: IndexArray | None = None) -> None:
        self.matrix = refit_rows.bordered(matrix, slope)
        self.ranges = refit_rows.ranges_of(slope.size, offsets)
        self.spaces = np.empty((refit_rows.SPACES, slope.size + 1))
        self._draws, self._banned = refit_rows.seeded(0), np.zeros(slope.size, np.int64)
        self._end: refit_rows.State | None = None

    def at(self, kept: IndexArray) -> refit_rows.State:
        """The state at a sorted support, computed anew, for the caller to change. LinAlgError as of `refit_rows.fresh`

        That at the end of a descent is not computed twice.
        """
        held, self._end = self._end, None
        return held if held is not None and np.array_equal(held.kept, kept) else refit_rows.fresh(self.matrix, kept)

    def run(self, mask: BoolArray, stop: StopCheck, max_evaluations: float) -> tuple[int, float, bool, Stop]:
        """Improve `mask` in place; as `descend`."""
        size, count = mask.size, int(mask.sum())
        if count in (0, size):
            return 0, 0.0, True, Stop.finished("there is nothing to swap")
        moves, evaluations, since = 0, 0.0, 0
        at_once = moves_at_once(size, count)
        interval = max(LEAST_MOVES, round(MOVES_A_WEIGHT * size))
        try:
            state = self.at(np.flatnonzero(mask))
            value = state.value
            while not (stopped := stop(evaluations)):
                limits = refit_rows.Limits(min(at_once, interval - since), max_evaluations - evaluations)
                made, tried, optimal = refit_rows.walk(
                    self.matrix, state, state.kept, self.ranges, self.spaces, limits, self._draws, self._banned, 0
                )
                evaluations += tried
                since += int(made)
                if optimal and since == 0:
                    self._end = state
                    return moves, evaluations, True, Stop.finished("no swap improves")
                if optimal or since >= interval:
                    state = self.at(np.sort(state.kept))
                    if state.value >= value:
                        return moves, evaluations, True, Stop.finished("no swap improves beyond rounding")
                    value, moves, since = state.value, moves + since, 0
                    _set(mask, state.kept)
        except LinAlgError:
            return moves, evaluations, False, Stop.finished(SINGULAR)
        _set(mask, state.kept)
        return moves + since, evaluations, False, stopped


def descend(
    matrix: FloatArray,
    slope: FloatArray,
    mask: BoolArray,
    stop: StopCheck = never,
    max_evaluations: float = np.inf,
    offsets: IndexArray | None = None,
) -> tuple[int, float, bool, Stop]:
    """Improve `mask` in place by the best refit swap until none lowers f beyond rounding.

    Parameters
    ----------
    matrix, slope, offsets :    as of RefitDescent
    mask : bool (p,)            changed in place, its count kept
    stop : StopCheck            called with the swaps examined; returns why to stop now, or None
    max_evaluations : float     no scan begins after this many swaps

    Returns
    -------
    moves, swaps examined, whether proved that no swap improves f, and why it stopped.
    The state is recomputed at intervals; an interval that does not lower f is undone.
    """
    return RefitDescent(matrix, slope, offsets).run(mask, stop, max_evaluations)


def moves_at_once(size: int, count: int) -> int:
    """Moves of compiled code between two looks at the clock, with `count` of `size` weights kept."""
    return max(LEAST_MOVES, MOVES_TIMES_WORK // (size * count))


def swap_changes(state: refit_rows.State) -> FloatArray:
    """The change of the refitted f for every (kept i, pruned j); zero elsewhere. -> float64 (p, p)"""
    size, count = state.table.shape[1] - 1, state.kept.size
    free = np.setdiff1d(np.arange(size), state.kept)
    diagonal, gradient = state.table[count + 1, free], state.table[count, free]
    coupling = state.table[:count, free]
    weight, inverse = -state.table[:count, size, None], -state.table[count + 1, state.kept, None]
    numerator = weight**2 * diagonal - gradient**2 * inverse + 2.0 * gradient * weight * coupling
    out = np.zeros((size, size))
    out[np.ix_(state.kept, free)] = 0.5 * numerator / (inverse * diagonal + coupling**2)
    return out


def _set(mask: BoolArray, kept: IndexArray) -> None:
    mask[:] = False
    mask[kept] = True
