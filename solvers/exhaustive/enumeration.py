"""Compiled depth-first enumeration of all subsets of a given size, O(1) per subset.

Subsets grow by ascending positions. The effect of the chosen positions on later ones is updated at each
level (fields in mode select, a Schur complement in mode refit). The last two positions are not chosen one
by one: every pair is evaluated in closed form. No update is undone, so rounding does not accumulate over
subsets. (Chase sequences and revolving doors, Knuth 7.2.1.3, update all p fields at every subset.)

Levels can be confined to ranges. If groups are consecutive ranges and each level belongs to one, the same
walk enumerates the product of the groups' combinations.

The state is kept in arrays outside, so that a call can stop after some subsets and be continued.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import compiled, copy

ANY_ORDER = {"nnan", "nsz", "contract", "reassoc"}
"""Freedoms for the compiler where a minimum is only searched for: any order, and no NaN, so that it vectorises.
Values below the bound are recomputed without them."""


class SelectEnumeration:
    """min over subsets R of size `chosen` of Σ_R linear + Σ_{i<j in R} couplings.

    couplings : float64 (p, p), symmetric;  linear : float64 (p,);  ranges : of the levels, or None
    """

    def __init__(
        self,
        couplings: FloatArray,
        linear: FloatArray,
        chosen: int,
        ranges: "Ranges | None" = None,
        collected: "Collected | None" = None,
    ) -> None:
        self._couplings = couplings
        self._walk = Walk(chosen, linear, ranges, collected)
        self._fields = np.zeros((max(1, chosen - 1), linear.size))
        self._fields[0] = linear

    def advance(self, subsets: int) -> "Walk":
        """Enumerate at least `subsets` more, or up to the end."""
        at = self._walk
        if not at.finished:
            at.done += int(_advance_select(self._couplings, self._fields, at.place, subsets))
        return at


class RefitEnumeration:
    """min over subsets R of size `chosen` of sign · v_R' (matrix_RR)⁻¹ v_R.

    matrix : float64 (p, p), positive definite;  vector : float64 (p,);  sign : 1 or −1
    ranges : of the levels, or None
    """

    def __init__(
        self,
        matrix: FloatArray,
        vector: FloatArray,
        chosen: int,
        sign: float,
        ranges: "Ranges | None" = None,
        collected: "Collected | None" = None,
    ) -> None:
        self._sign = sign
        self._walk = Walk(chosen, sign * vector**2 / matrix.diagonal(), ranges, collected)
        self._matrices = np.zeros((max(1, chosen - 1), vector.size, vector.size))
        self._vectors = np.zeros((max(1, chosen - 1), vector.size))
        self._matrices[0], self._vectors[0] = matrix, vector

    def advance(self, subsets: int) -> "Walk":
        """Enumerate at least `subsets` more, or up to the end."""
        at = self._walk
        if not at.finished:
            at.done += int(_advance_refit(self._matrices, self._vectors, self._sign, at.place, subsets))
        return at


class Ranges:
    """Level d of a subset takes a position in low[d]:high[d] above the previous one. int64 (chosen,)

    sizes, counts : int64 (g,), of the groups' consecutive ranges, and how many positions each contributes
    """

    def __init__(self, sizes: IndexArray, counts: IndexArray) -> None:
        starts = np.cumsum(sizes) - sizes
        group = np.repeat(np.arange(starts.size), counts)
        left = np.repeat(np.cumsum(counts), counts) - np.arange(group.size) - 1
        self.low = np.asarray(starts[group], dtype=np.int64)
        self.high = np.asarray((starts + sizes)[group] - left, dtype=np.int64)


@dataclass(frozen=True)
class Collected:
    """Which subsets a walk collects: the first `most` with a value below `limit`."""

    limit: float
    most: int


class Place(NamedTuple):
    """The state of a walk, in arrays that the compiled loops change; a subset has `chosen` positions, one per level.

    level : int64 (1,)              the current level; −1: the walk is finished
    following : int64 (levels,)     the next position to try at each level but the last
    subset : int64 (chosen,)        the positions chosen at the levels above
    values : float64 (levels,)      the value of the positions chosen above each level
    best, best_subset : float64 (1,), int64 (chosen,)   the lowest value so far, and its subset
    low, high : int64 (chosen,)     the range of each level
    limit : float                   subsets with a value below it are collected
    held : int64 (most, chosen)     the first of these;  found : int64 (1,), how many there are, held or not
    """

    level: IndexArray
    following: IndexArray
    subset: IndexArray
    values: FloatArray
    best: FloatArray
    best_subset: IndexArray
    low: IndexArray
    high: IndexArray
    limit: float
    held: npt.NDArray[np.int64]
    found: IndexArray


class Walk:
    """The progress of an enumeration.

    chosen : size of the subsets;  ranges : of the levels;  singles : float64 (p,), the values of subsets of
    size one; sizes zero and one are evaluated here
    done : subsets enumerated;  finished : whether these are all
    lowest, best_subset : the best so far
    collected : which subsets are held (int64 (most, chosen));  found : how many there are, held or not
    """

    def __init__(
        self, chosen: int, singles: FloatArray, ranges: Ranges | None, collected: Collected | None = None
    ) -> None:
        collected = collected or Collected(-np.inf, 0)
        ranges = ranges or Ranges(np.array([singles.size]), np.array([chosen]))
        levels = max(1, chosen - 1)
        self.done = 0
        self.place = place = Place(
            np.zeros(1, np.int64), np.zeros(levels, np.int64), np.arange(chosen), np.zeros(levels),
            np.full(1, np.inf), np.arange(chosen), ranges.low, ranges.high, collected.limit,
            np.zeros((collected.most, chosen), np.int64), np.zeros(1, np.int64),
        )  # fmt: skip
        place.following[0] = ranges.low[0] if chosen else 0
        if chosen < 2:
            place.level[0] = -1
            low, high = (ranges.low[0], ranges.high[0]) if chosen else (0, 1)
            self.done = int(high - low)
            place.best[0] = singles[low:high].min() if chosen else 0.0
            place.best_subset[:] = low + singles[low:high].argmin()
            below = low + np.flatnonzero((singles[low:high] if chosen else np.zeros(1)) < collected.limit)
            place.found[0] = below.size
            if chosen:
                place.held[: below.size, 0] = below[: collected.most]

    @property
    def finished(self) -> bool:
        """Whether all subsets were enumerated."""
        return bool(self.place.level[0] < 0)

    @property
    def lowest(self) -> float:
        """The lowest value so far."""
        return float(self.place.best[0])

    @property
    def best_subset(self) -> IndexArray:
        """The subset with the lowest value so far."""
        return self.place.best_subset

    @property
    def held(self) -> npt.NDArray[np.int64]:
        """The collected subsets."""
        return self.place.held

    @property
    def found(self) -> int:
        """How many subsets were collected, or would have been with enough space."""
        return int(self.place.found[0])


@compiled(inner=True)
def consider(place: Place, value: float, b: int) -> None:
    """Update the best subset, and the collected ones, by the subset that ends with position b."""
    subset, found, last = place.subset, place.found, place.subset.size - 1
    if value < place.best[0]:
        place.best[0] = value
        subset[last] = b
        copy(subset, place.best_subset)
    if value < place.limit:
        subset[last] = b
        if found[0] < place.held.shape[0]:
            copy(subset, place.held[found[0]])
        found[0] += 1


@njit(cache=True, nogil=True, fastmath=ANY_ORDER)
def _lowest_partner(fields: FloatArray, row: FloatArray, start: int, stop: int) -> float:
    lowest = np.inf
    for b in range(start, stop):
        lowest = min(lowest, fields[b] + row[b])
    return lowest


@compiled()
def _advance_select(couplings: FloatArray, fields: FloatArray, place: Place, subsets: int) -> int:
    """Continue for `subsets` or a few more. Returns how many.

    fields (levels, p) : each position's contribution given the positions chosen above the level
    """
    following, subset, values, low, high = place.following, place.subset, place.values, place.low, place.high
    size, chosen = couplings.shape[0], subset.size
    last, depth, done, stop = chosen - 2, place.level[0], 0, high[chosen - 1]
    while depth >= 0 and done < subsets:
        start = following[depth]
        if depth == last:
            field = fields[depth]
            for a in range(start, high[depth]):
                base, first = values[depth] + field[a], max(a + 1, low[last + 1])
                done += stop - first
                if base + _lowest_partner(field, couplings[a], first, stop) < max(place.best[0], place.limit):
                    subset[chosen - 2] = a
                    for b in range(first, stop):
                        consider(place, base + (field[b] + couplings[a, b]), b)
            depth -= 1
        elif start >= high[depth]:
            depth -= 1
        else:
            following[depth] = start + 1
            following[depth + 1] = max(start + 1, low[depth + 1])
            subset[depth] = start
            values[depth + 1] = values[depth] + fields[depth, start]
            for j in range(start + 1, size):
                fields[depth + 1, j] = fields[depth, j] + couplings[start, j]
            depth += 1
    place.level[0] = depth
    return done


@njit(cache=True, nogil=True, fastmath=ANY_ORDER, error_model="numpy")
def _best_partner(matrix: FloatArray, vector: FloatArray, a: int, start: int, stop: int, sign: float) -> float:
    lowest = np.inf
    row, pivot, own = matrix[a], matrix[a, a], vector[a] / matrix[a, a]
    for b in range(start, stop):
        rest = vector[b] - own * row[b]
        lowest = min(lowest, sign * rest * rest / (matrix[b, b] - row[b] * row[b] / pivot))
    return lowest


@compiled()
def _advance_refit(matrices: FloatArray, vectors: FloatArray, sign: float, place: Place, subsets: int) -> int:
    """Continue for `subsets` or a few more. Returns how many.

    matrices (levels, p, p), vectors (levels, p) : Schur complements after the positions chosen above each level
    """
    following, subset, values, low, high = place.following, place.subset, place.values, place.low, place.high
    chosen = subset.size
    last, depth, done, stop = chosen - 2, place.level[0], 0, high[chosen - 1]
    while depth >= 0 and done < subsets:
        start = following[depth]
        matrix, vector = matrices[depth], vectors[depth]
        if depth == last:
            for a in range(start, high[depth]):
                base = values[depth] + sign * vector[a] * vector[a] / matrix[a, a]
                first = max(a + 1, low[last + 1])
                done += stop - first
                if base + _best_partner(matrix, vector, a, first, stop, sign) < max(place.best[0], place.limit):
                    subset[chosen - 2] = a
                    for b in range(first, stop):
                        rest = vector[b] - vector[a] / matrix[a, a] * matrix[a, b]
                        schur = matrix[b, b] - matrix[a, b] * matrix[a, b] / matrix[a, a]
                        consider(place, base + sign * rest * rest / schur, b)
            depth -= 1
        elif start >= high[depth]:
            depth -= 1
        else:
            following[depth] = start + 1
            following[depth + 1] = max(start + 1, low[depth + 1])
            subset[depth] = start
            values[depth + 1] = values[depth] + sign * vector[start] * vector[start] / matrix[start, start]
            eliminate(matrix, vector, start, matrices[depth + 1], vectors[depth + 1])
            depth += 1
    place.level[0] = depth
    return done


@compiled(inner=True)
def eliminate(matrix: FloatArray, vector: FloatArray, start: int, out: FloatArray, out_vector: FloatArray) -> None:
    """The Schur complement of position `start`, for the positions after it."""
    pivot = matrix[start, start]
    for i in range(start + 1, vector.size):
        factor = matrix[start, i] / pivot
        out_vector[i] = vector[i] - factor * vector[start]
        for j in range(start + 1, vector.size):
            out[i, j] = matrix[i, j] - factor * matrix[start, j]
