"""Compiled swap search in mode refit, on the rows of the sweep-operator tableau that a search reads.

Swept on the support S, the symmetric matrix [[H, q], [q', 0]] becomes (P = inverse of H_SS)

    T_SS = -P,   T_SR = P H_SR,   T_RR = H_RR - H_RS P H_SR,
    T_S,last = -w_S,   T_R,last = gradient at the refit,   T_last,last = 2 (f - f(0)),

so with u = T_ij, D = T_jj, g = T_j,last the exact change of the refitted objective when i leaves
and j enters is (w_i² D - g² P_ii + 2 g w_i u) / (2 (P_ii D + u²)). This needs the rows of S, the last row and the
diagonal; T_jR of a weight that enters follows from H, S and T_Sj. A move so costs O(kp) instead of O(p²), and of all
proposals only those that beat the best so far need the division.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.linalg import LinAlgError

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.lapack import dpotrf, dpotrs
from prunebench.kernels.compiled import compiled, merged

NEVER = 1e60
"""Stands for the curvature of a column that must not enter: no proposal with it can win."""
RELATIVE_ROUNDING = 1e-13
"""A move must lower f by this share of the difference between f(0) and f at the refit."""
ROAM = 2.0
"""A tabu search takes any swap that changes f by less than this share of the difference between f(0) and f: every one,
as no support is above f(0)."""
SPACES = 5
"""Vectors of p + 1 numbers that a search overwrites."""


class State(NamedTuple):
    """Where a search stands.

    table : float64 (k + 2, p + 1)   the rows of T of the kept weights, its last row, and its diagonal
    kept : int64 (k,)                the kept weight of each row
    """

    table: FloatArray
    kept: IndexArray

    @property
    def value(self) -> float:
        """2 (f - f(0)) at the refit."""
        return float(self.table[self.kept.size, -1])


class Limits(NamedTuple):
    """What ends a call, and how a tabu search chooses.

    moves : most exchanges;  evaluations : no scan begins after this many swaps examined
    stay, away : a weight that entered may not leave, and one that left not return, for about so many moves; both 0: one
                 descent
    best : a tabu search ends when f falls below this
    """

    moves: int
    evaluations: float
    stay: int = 0
    away: int = 0
    best: float = -np.inf


def bordered(matrix: FloatArray, slope: FloatArray) -> FloatArray:
    """[[H, q], [q', 0]]: float64 (p, p), (p,) -> (p + 1, p + 1)"""
    size = slope.size
    out = np.zeros((size + 1, size + 1))
    out[:size, :size] = matrix
    out[size, :size] = out[:size, size] = slope
    return out


def fresh(matrix: FloatArray, kept: IndexArray) -> State:
    """The state at a support, computed anew. `matrix` : as from `bordered`

    Raises
    ------
    LinAlgError   H is not positive definite on the support in floating point
    """
    count = kept.size
    rows = matrix[kept]
    lower, info = dpotrf(rows[:, kept], lower=1, clean=0)
    if info:
        raise LinAlgError(f"the leading minor of order {info} is not positive definite")
    table = np.empty((count + 2, matrix.shape[0]))
    table[:count] = dpotrs(lower, rows, lower=1)[0]
    table[count] = matrix[-1] - rows[:, -1] @ table[:count]
    table[count + 1] = matrix.diagonal() - np.einsum("ij,ij->j", rows, table[:count])
    inverse = dpotrs(lower, np.eye(count), lower=1)[0]
    table[:count, kept] = -0.5 * (inverse + inverse.T)
    table[count, kept] = table[:count, -1]
    table[count + 1, kept] = -inverse.diagonal()
    return State(table, kept.copy())


@compiled(fast=True, inner=True)
def _better(
    row: FloatArray, schur: FloatArray, gradient: FloatArray, squared: FloatArray, weight: float, inverse: float,
    bound: float,
) -> int:  # fmt: skip
    """How many proposals of a row are below `bound`, in units of twice f; counts, unlike minima, are vectorised."""
    found = 0
    own, slope = weight * weight - bound * inverse, 2.0 * weight
    for j in range(schur.size):
        found += own * schur[j] - inverse * squared[j] + row[j] * (slope * gradient[j] - bound * row[j]) < 0.0
    return found


@merged
def _best_swap(
    table: FloatArray, kept: IndexArray, ranges: IndexArray, spaces: FloatArray, bound: float, banned: IndexArray,
    move: int,
) -> tuple[int, int]:  # fmt: skip
    """The row and the entering weight of the swap with the lowest f, if its change is below `bound`; else -1, -1.

    ranges (2, p) : of the weights that may replace each one;  banned (p,) : no swap with one that is banned until later
    than this move
    """
    count, size = kept.size, table.shape[1] - 1
    gradients, diagonal = table[count], table[count + 1]
    schur, gradient, squared = spaces[2], spaces[3], spaces[4]
    for j in range(size):
        # neutral values for a kept weight let the loop over a row run without a branch
        free = diagonal[j] > 0.0 and banned[j] <= move
        schur[j] = diagonal[j] if free else NEVER
        gradient[j] = gradients[j] if free else 0.0
        squared[j] = gradient[j] * gradient[j]
    best, entering = -1, -1
    for row in range(count):
        if banned[kept[row]] > move:
            continue
        weight, inverse = -table[row, size], -diagonal[kept[row]]
        first, last = ranges[0, kept[row]], ranges[1, kept[row]]
        if _better(
            table[row, first:last], schur[first:last], gradient[first:last], squared[first:last], weight, inverse, bound
        ):
            for j in range(first, last):
                if schur[j] < NEVER:
                    coupling = table[row, j]
                    above = weight * (weight * schur[j] + 2.0 * gradient[j] * coupling) - squared[j] * inverse
                    below = inverse * schur[j] + coupling * coupling
                    if above < bound * below:
                        bound, best, entering = above / below, row, j
    return best, entering


@compiled(fast=True, inner=True)
def _add(row: FloatArray, left: float, alpha: FloatArray, right: float, beta: FloatArray) -> None:
    """row += left·alpha - right·beta"""
    for a in range(row.size):
        row[a] += left * alpha[a] - right * beta[a]


@merged
def exchange(
    matrix: FloatArray, table: FloatArray, kept: IndexArray, row: int, entering: int, spaces: FloatArray
) -> None:
    """Replace the kept weight of a row by `entering`, in place: T swept on both, as one update of rank two."""
    size, count, leaving = table.shape[1], kept.size, kept[row]
    alpha, beta, diagonal = spaces[0], spaces[1], table[count + 1]
    inverse, coupling = -diagonal[leaving], table[row, entering]
    for a in range(size):
        alpha[a], beta[a] = table[row, a], matrix[entering, a]
    # T_jR = H_jR - T_jS H_SR, two rows at a time: what is written costs more than what is read
    for r in range(0, count - 1, 2):
        _add(beta, -table[r, entering], matrix[kept[r]], table[r + 1, entering], matrix[kept[r + 1]])
    if count % 2:
        _add(beta, -table[count - 1, entering], matrix[kept[count - 1]], 0.0, alpha)
    for r in range(count):
        beta[kept[r]] = table[r, entering]
    ratio = coupling / inverse
    _add(beta, ratio, alpha, 0.0, alpha)
    beta[leaving] = ratio
    schur = beta[entering]
    for r in range(count + 1):
        place = kept[r] if r < count else size - 1
        if r != row:
            left, right = alpha[place] / inverse, beta[place] / schur
            _add(table[r], left, alpha, right, beta)
            table[r, leaving], table[r, entering] = left - right * ratio, right
    for a in range(size):
        diagonal[a] += alpha[a] * alpha[a] / inverse - beta[a] * beta[a] / schur
        table[row, a] = beta[a] / schur
    table[row, leaving], table[row, entering] = ratio / schur, -1.0 / schur
    diagonal[leaving], diagonal[entering] = 1.0 / inverse - ratio * ratio / schur, -1.0 / schur
    kept[row] = entering


@compiled(inner=True)
def _drawn(draws: npt.NDArray[np.uint64], below: int) -> int:
    """A number in [0, below) by Marsaglia's xorshift, whose state is draws[0]."""
    state = draws[0]
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    state ^= state << np.uint64(17)
    draws[0] = state
    return np.int64((state >> np.uint64(11)) % np.uint64(below))  # type: ignore[return-value]  # an int once compiled


@compiled()
def walk(
    matrix: FloatArray, state: State, lowest: IndexArray, ranges: IndexArray, spaces: FloatArray, limits: Limits,
    draws: npt.NDArray[np.uint64], banned: IndexArray, made: int,
) -> tuple[int, float, bool]:  # fmt: skip
    """The best swap again and again: a descent while it lowers f, or a tabu search, which also takes what raises f.

    -> exchanges made, swaps examined, whether the descent ended where no swap improves, or the search below `best`

    matrix : as from `bordered`;  state : changed in place;  ranges (2, p) : what may replace each weight;
    spaces (SPACES, p + 1) : overwritten;  lowest (k,) : receives the support where a search ends below `best`
    draws (1,) : the state of the random numbers, not zero;  banned (p,) : the move until which each weight stays as it
    is, changed in place;  made : moves of the search so far
    """
    table, kept = state.table, state.kept
    count, size = kept.size, table.shape[1] - 1
    pairs = 0.0
    for r in range(count):
        for j in range(ranges[0, kept[r]], ranges[1, kept[r]]):
            pairs += table[count + 1, j] > 0.0
    moves, evaluations, roaming = 0, 0.0, limits.away > 0
    best, found = limits.best, False
    while moves < limits.moves and evaluations < limits.evaluations:
        value = abs(table[count, size])
        bound = ROAM * value if roaming else -RELATIVE_ROUNDING * value
        row, entering = _best_swap(table, kept, ranges, spaces, bound, banned, made + moves)
        evaluations += pairs
        moves += 1
        if row < 0 and not roaming:
            return moves - 1, evaluations, True
        if row >= 0:
            leaving = kept[row]
            exchange(matrix, table, kept, row, entering, spaces)
            if roaming:
                banned[entering] = made + moves + limits.stay + _drawn(draws, limits.stay + 1)
                banned[leaving] = made + moves + limits.away + _drawn(draws, limits.away + 1)
                if table[count, size] < best:
                    best, found = table[count, size], True
                    for r in range(count):
                        lowest[r] = kept[r]
    return moves, evaluations, found


def seeded(seed: int) -> npt.NDArray[np.uint64]:
    """The state of `walk`'s random numbers for a seed in [0, 2⁶²). uint64 (1,)"""
    return np.array([2 * seed + 1], dtype=np.uint64)


def ranges_of(size: int, offsets: IndexArray | None) -> npt.NDArray[np.int64]:
    """The first weight that may replace each one, and the one after the last: those of its group. int64 (2, p)"""
    groups: Any = np.array([0, size]) if offsets is None else offsets
    return np.repeat(np.array([groups[:-1], groups[1:]], dtype=np.int64), np.diff(groups), axis=1)
