"""Compiled best-improvement swap descent in mode refit, on the sweep-operator tableau.

Swept on the support S, the symmetric matrix [[H, q], [q', 0]] becomes (P = inverse of H_SS)

    T_SS = -P,   T_SR = P H_SR,   T_RR = H_RR - H_RS P H_SR,
    T_S,last = -w_S,   T_R,last = gradient at the refit,   T_last,last = 2 (f - f(0)),

so with u = T_ij, D = T_jj, g = T_j,last the exact change of the refitted objective when i leaves
and j enters is (w_i² D - g² P_ii + 2 g w_i u) / (2 (P_ii D + u²)): O(1) a proposal, O(p²) a move.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import Stop, StopCheck, never
from prunebench.kernels.compiled import compiled

RELATIVE_ROUNDING = 1e-13
"""A move must lower f by this share of the difference between f(0) and f at the refit."""
MOVES_BETWEEN_CLOCK_READS = 16
"""Moves of compiled code between two looks at the clock; an eighth of p if that is more."""
PIVOTS_AT_ONCE = 8
"""Positions swept in one pass over the tableau, a multiple of 4: memory passes, not operations, dominate the time."""


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
    matrix : float64 (p, p)     H, positive definite, scaled to unit diagonal
    slope : float64 (p,)        q, the gradient at w = 0, in the same scale
    mask : bool (p,)            changed in place, its count kept
    stop : StopCheck            called with the swaps examined; returns why to stop now, or None
    max_evaluations : float     no scan begins after this many swaps
    offsets : int64 (g + 1,)    swaps stay within offsets[g]:offsets[g + 1]; None: one group of all

    Returns
    -------
    moves, swaps examined, whether proved that no swap improves f, and why it stopped.
    The tableau is recomputed at intervals; an interval that does not lower f is undone.
    """
    size = mask.size
    moves, evaluations, since = 0, 0.0, 0
    if int(mask.sum()) in (0, size):
        return moves, evaluations, True, Stop.finished("there is nothing to swap")
    groups = np.array([0, size]) if offsets is None else offsets
    tableau = swept(matrix, slope, mask)
    value = float(tableau[size, size])
    trial, space = mask.copy(), np.empty((2, size + 1))
    while not (stopped := stop(evaluations)):
        left = min(MOVES_BETWEEN_CLOCK_READS, max(MOVES_BETWEEN_CLOCK_READS, size // 8) - since)
        made, tried, finished = _improve(
            tableau, trial, groups, left, max_evaluations - evaluations, space[0], space[1]
        )
        evaluations += tried
        since += int(made)
        if finished and since == 0:
            return moves, evaluations, True, Stop.finished("no swap improves")
        if finished or since >= max(MOVES_BETWEEN_CLOCK_READS, size // 8):
            tableau = swept(matrix, slope, trial)
            if tableau[size, size] >= value:
                return moves, evaluations, True, Stop.finished("no swap improves beyond rounding")
            value = float(tableau[size, size])
            mask[:] = trial
            moves, since = moves + since, 0
    mask[:] = trial
    return moves + since, evaluations, False, stopped


def swept(matrix: FloatArray, slope: FloatArray, mask: BoolArray) -> FloatArray:
    """The tableau of (matrix, slope) swept on the mask, computed afresh. -> float64 (p + 1, p + 1)"""
    size = mask.size
    full = np.zeros((size + 1, size + 1))
    full[:size, :size] = matrix
    full[size, :size] = full[:size, size] = slope
    rows, inverse = np.zeros((PIVOTS_AT_ONCE, size + 1)), np.empty((PIVOTS_AT_ONCE, PIVOTS_AT_ONCE))
    _sweep(full, np.flatnonzero(mask), rows, inverse, np.empty((size + 1, PIVOTS_AT_ONCE)))
    return full


def swap_changes(tableau: FloatArray, mask: BoolArray) -> FloatArray:
    """The change of the refitted f for every (kept i, pruned j); zero elsewhere. -> float64 (p, p)"""
    size = mask.size
    schur, gradient, coupling = tableau.diagonal()[:size], tableau[:size, size], tableau[:size, :size]
    weight, inverse = -gradient[:, None], -schur[:, None]
    numerator = weight**2 * schur - gradient**2 * inverse + 2.0 * gradient * weight * coupling
    chosen = mask[:, None] & ~mask
    return np.where(chosen, 0.5 * numerator / np.where(chosen, inverse * schur + coupling**2, 1.0), 0.0)


@compiled(inner=True)
def _inverse(out: FloatArray, size: int) -> None:
    """Gauss-Jordan in place, without pivoting, which positive definite matrices do not need; exactly symmetric."""
    for k in range(size):
        pivot = out[k, k]
        out[k, k] = 1.0
        for j in range(size):
            out[k, j] /= pivot
        for i in range(size):
            if i != k:
                factor = out[i, k]
                out[i, k] = 0.0
                for j in range(size):
                    out[i, j] -= factor * out[k, j]
    for i in range(size):
        for j in range(i):
            out[i, j] = 0.5 * (out[i, j] + out[j, i])
            out[j, i] = out[i, j]


@compiled()
def _sweep(
    tableau: FloatArray, support: IndexArray, rows: FloatArray, inverse: FloatArray, factors: FloatArray
) -> None:
    """Sweep the tableau in place on all of `support`, PIVOTS_AT_ONCE at once; the upper triangle is filled at the end.

    inverse (PIVOTS_AT_ONCE, PIVOTS_AT_ONCE), factors (p + 1, PIVOTS_AT_ONCE) are overwritten, and so is
    rows (PIVOTS_AT_ONCE, p + 1), which holds finite numbers on entry
    """
    size = tableau.shape[0]
    for first in range(0, support.size, PIVOTS_AT_ONCE):
        count = min(PIVOTS_AT_ONCE, support.size - first)
        for a in range(count):
            at = support[first + a]
            for i in range(size):
                rows[a, i] = tableau[at, i] if i <= at else tableau[i, at]
        for a in range(count):
            for b in range(count):
                inverse[a, b] = rows[a, support[first + b]]
        _inverse(inverse, count)
        for i in range(size):
            for a in range(PIVOTS_AT_ONCE):
                factors[i, a] = 0.0
            for a in range(count):
                for b in range(count):
                    factors[i, a] += inverse[a, b] * rows[b, i]
            _subtract(tableau[i, : i + 1], factors[i], rows)
        for a in range(count):
            at = support[first + a]
            for i in range(size):
                if i < at:
                    tableau[at, i] = factors[i, a]
                else:
                    tableau[i, at] = factors[i, a]
        for a in range(count):
            for b in range(count):
                tableau[support[first + a], support[first + b]] = -inverse[a, b]
    for i in range(size):
        for j in range(i):
            tableau[j, i] = tableau[i, j]


@compiled(fast=True, inner=True)
def _subtract(row: FloatArray, factors: FloatArray, rows: FloatArray) -> None:
    """row -= factors @ rows, four rows per pass."""
    for a in range(0, PIVOTS_AT_ONCE, 4):
        f0, f1, f2, f3 = factors[a], factors[a + 1], factors[a + 2], factors[a + 3]
        r0, r1, r2, r3 = rows[a], rows[a + 1], rows[a + 2], rows[a + 3]
        for j in range(row.size):
            row[j] -= f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]


@compiled()
def exchange(tableau: FloatArray, leaving: int, entering: int, alpha: FloatArray, beta: FloatArray) -> None:
    """Sweep `leaving` out of the support and `entering` into it, in place, as one rank-two update.

    alpha, beta (p + 1,) are overwritten.
    """
    size = tableau.shape[0]
    inverse, coupling = -tableau[leaving, leaving], tableau[leaving, entering]
    for a in range(size):
        alpha[a] = tableau[a, leaving]
        beta[a] = tableau[a, entering] + alpha[a] * coupling / inverse
    beta[leaving] = coupling / inverse
    schur = beta[entering]
    for a in range(size):
        left, right = alpha[a] / inverse, beta[a] / schur
        for b in range(size):
            tableau[a, b] += left * alpha[b] - right * beta[b]
    for a in range(size):
        tableau[a, leaving] = alpha[a] / inverse - beta[a] * beta[leaving] / schur
        tableau[a, entering] = beta[a] / schur
    tableau[leaving, leaving] = 1.0 / inverse - beta[leaving] * beta[leaving] / schur
    tableau[leaving, entering] = beta[leaving] / schur
    tableau[entering, entering] = -1.0 / schur
    tableau[entering, leaving] = beta[leaving] / schur
    for a in range(size):
        tableau[leaving, a] = tableau[a, leaving]
        tableau[entering, a] = tableau[a, entering]


@compiled(fast=True, nan=False, inner=True)
def _row_minimum(row: FloatArray, schur: FloatArray, gradient: FloatArray, weight: float, inverse: float) -> float:
    lowest = np.inf
    for j in range(schur.size):
        numerator = weight * (weight * schur[j] + 2.0 * gradient[j] * row[j]) - gradient[j] * gradient[j] * inverse
        lowest = min(lowest, numerator / (inverse * schur[j] + row[j] * row[j]))
    return lowest


@compiled(inner=True)
def _best_swap(
    tableau: FloatArray, mask: BoolArray, offsets: IndexArray, schur: FloatArray, gradient: FloatArray
) -> tuple[int, int, float]:
    size = mask.size
    for j in range(size):
        # neutral values for a kept j let the row loop run without a branch
        schur[j] = 1.0 if mask[j] else tableau[j, j]
        gradient[j] = 0.0 if mask[j] else tableau[j, size]
    best, leaving, entering, lowest = np.inf, -1, -1, np.inf
    first, last = 0, 0
    for group in range(offsets.size - 1):
        start, stop = offsets[group], offsets[group + 1]
        for i in range(start, stop):
            if mask[i]:
                value = _row_minimum(
                    tableau[i, start:stop], schur[start:stop], gradient[start:stop], -tableau[i, size], -tableau[i, i]
                )
                if value < best:
                    best, leaving, first, last = value, i, start, stop
    weight, inverse = -tableau[leaving, size], -tableau[leaving, leaving]
    for j in range(first, last):
        if not mask[j]:
            row = tableau[leaving, j]
            numerator = weight * (weight * schur[j] + 2.0 * gradient[j] * row) - gradient[j] * gradient[j] * inverse
            value = numerator / (inverse * schur[j] + row * row)
            if value < lowest:
                lowest, entering = value, j
    return leaving, entering, 0.5 * lowest


@compiled()
def _improve(
    tableau: FloatArray,
    mask: BoolArray,
    offsets: IndexArray,
    max_moves: int,
    max_evaluations: float,
    alpha: FloatArray,
    beta: FloatArray,
) -> tuple[int, float, bool]:
    """At most so many moves and swaps; alpha, beta (p + 1,): space. -> moves, swaps examined, whether none improves"""
    size = mask.size
    pairs = 0.0
    for group in range(offsets.size - 1):
        kept = 0
        for i in range(offsets[group], offsets[group + 1]):
            kept += mask[i]
        pairs += float(kept) * float(offsets[group + 1] - offsets[group] - kept)
    rounding = RELATIVE_ROUNDING * 0.5 * abs(tableau[size, size])
    moves, evaluations = 0, 0.0
    while moves < max_moves and evaluations < max_evaluations:
        leaving, entering, change = _best_swap(tableau, mask, offsets, alpha, beta)
        evaluations += pairs
        if not change < -rounding:
            return moves, evaluations, True
        exchange(tableau, leaving, entering, alpha, beta)
        mask[leaving] = False
        mask[entering] = True
        moves += 1
    return moves, evaluations, False
