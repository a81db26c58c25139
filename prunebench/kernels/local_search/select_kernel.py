"""Compiled best-improvement swap descent in mode select, on dense couplings.

With the fields F_i = h_i + Σ_j J_ij m_j, removing i and adding j changes E by F_j - F_i - J_ij.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import Stop, StopCheck, never
from prunebench.kernels.compiled import compiled
from prunebench.kernels.local_search.iterated import any_below

REFRESH_MOVES = 64
"""Moves between two recomputations of the fields, so that their rounding does not accumulate."""
MOVES_TIMES_PAIRS = 50_000_000
"""Moves between two looks at the clock, times p²: about 10 ms."""


def descend(
    couplings: FloatArray,
    linear: FloatArray,
    tolerance: FloatArray,
    mask: BoolArray,
    stop: StopCheck = never,
    max_evaluations: float = np.inf,
    offsets: IndexArray | None = None,
) -> tuple[int, float, bool, Stop]:
    """Improve `mask` in place by the best swap until none lowers E by more than its rounding.

    Parameters
    ----------
    couplings : float64 (p, p)    symmetric, zero diagonal
    linear : float64 (p,)
    tolerance : float64 (p,)      rounding of each field; a swap must gain more than the sum of its two
    mask : bool (p,)              changed in place, its count kept
    stop : StopCheck              called with the swaps examined; returns why to stop now, or None
    max_evaluations : float       no scan begins after this many swaps
    offsets : int64 (g + 1,)      swaps stay within offsets[g]:offsets[g + 1]; None: one group of all

    Returns
    -------
    moves, swaps examined, whether proved that no swap improves E, and why it stopped.
    """
    groups = np.array([0, mask.size]) if offsets is None else offsets
    row_largest = couplings.max(axis=1)
    at_once = max(16, MOVES_TIMES_PAIRS // mask.size**2)
    work = np.empty((4, mask.size + 8))
    moves, evaluations = 0, 0.0
    while not (stopped := stop(evaluations)):
        left = max_evaluations - evaluations
        made, tried, optimal = _descend(couplings, linear, tolerance, row_largest, mask, groups, at_once, left, work)
        moves, evaluations = moves + int(made), evaluations + float(tried)
        if optimal:
            return moves, evaluations, True, Stop.finished("no swap improves")
    return moves, evaluations, False, stopped


def swap_changes(couplings: FloatArray, linear: FloatArray, mask: BoolArray) -> FloatArray:
    """The change of E for every (kept i, pruned j), as the descent computes it; zero elsewhere. -> (p, p)"""
    fields = linear + couplings[mask].sum(axis=0)
    return np.where(mask[:, None] & ~mask, fields - fields[:, None] - couplings, 0.0)


@compiled(inner=True)
def _refresh(couplings: FloatArray, linear: FloatArray, mask: BoolArray, fields: FloatArray) -> None:
    for i in range(mask.size):
        fields[i] = linear[i]
    for i in range(mask.size):
        if mask[i]:
            for j in range(mask.size):
                fields[j] += couplings[i, j]


@compiled(fast=True, nan=False, inner=True)
def _row_minimum(row: FloatArray, value: FloatArray) -> float:
    lowest = np.inf
    for j in range(row.size):
        lowest = min(lowest, value[j] - row[j])
    return lowest


@compiled(inner=True)
def _best_swap(
    couplings: FloatArray,
    out_value: FloatArray,
    in_value: FloatArray,
    row_largest: FloatArray,
    bounds: FloatArray,
    start: int,
    stop: int,
    best: float,
) -> tuple[int, int, float]:
    """The pair in start:stop with the lowest in_value_j - out_value_i - J_ij, if below `best`.

    Rows that cannot win are skipped; bounds (p,) is overwritten.
    """
    lowest_in = np.inf
    for j in range(start, stop):
        lowest_in = in_value[j] if in_value[j] < lowest_in else lowest_in
    first, best_out = -1, -1
    for i in range(start, stop):
        bounds[i] = lowest_in - out_value[i] - row_largest[i]
        if first < 0 or bounds[i] < bounds[first]:
            first = i
    for step in range(start - 1, stop):
        i = first if step < start else step
        if bounds[i] < best and (step < start or i != first):
            row, values = couplings[i, start:stop], in_value[start:stop]
            if not any_below(values, row, best + out_value[i]):
                continue
            value = _row_minimum(row, values) - out_value[i]
            if value < best:
                best, best_out = value, i
    best_in = -1
    if best_out >= 0:
        lowest = np.inf
        for j in range(start, stop):
            value = in_value[j] - couplings[best_out, j]
            if value < lowest:
                lowest, best_in = value, j
    return best_out, best_in, best


@compiled()
def _descend(
    couplings: FloatArray,
    linear: FloatArray,
    tolerance: FloatArray,
    row_largest: FloatArray,
    mask: BoolArray,
    offsets: IndexArray,
    max_moves: int,
    max_evaluations: float,
    work: FloatArray,
) -> tuple[int, float, bool]:
    """At most so many moves and swaps; work (4, p) is overwritten. -> moves, swaps examined, whether none improves"""
    size = mask.size
    pairs = 0.0
    for group in range(offsets.size - 1):
        kept = 0
        for i in range(offsets[group], offsets[group + 1]):
            kept += mask[i]
        pairs += float(kept) * float(offsets[group + 1] - offsets[group] - kept)
    fields, out_value, in_value, bounds = work[0], work[1], work[2], work[3]
    moves, stale, evaluations = 0, REFRESH_MOVES, 0.0
    if pairs == 0.0:
        return moves, evaluations, True
    while moves < max_moves and evaluations < max_evaluations:
        if stale >= REFRESH_MOVES:
            _refresh(couplings, linear, mask, fields)
            stale = 0
        for i in range(size):
            out_value[i] = fields[i] - tolerance[i] if mask[i] else -np.inf
            in_value[i] = np.inf if mask[i] else fields[i] + tolerance[i]
        leaving, entering, best = -1, -1, 0.0
        for group in range(offsets.size - 1):
            leaves, enters, value = _best_swap(
                couplings, out_value, in_value, row_largest, bounds, offsets[group], offsets[group + 1], best
            )
            if leaves >= 0:
                leaving, entering, best = leaves, enters, value
        evaluations += pairs
        if leaving < 0:
            if stale == 0:
                return moves, evaluations, True
            stale = REFRESH_MOVES
            continue
        mask[leaving] = False
        mask[entering] = True
        moves += 1
        stale += 1
        for j in range(size):
            fields[j] += couplings[entering, j] - couplings[leaving, j]
    return moves, evaluations, False
