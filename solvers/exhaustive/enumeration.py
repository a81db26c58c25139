"""Compiled enumeration of all subsets of a given size, depth first, O(1) a subset.

A subset is grown in rising order of its positions. What the chosen positions do to those after
them is carried along (fields in mode select, a Schur complement in mode refit), and the last two
positions are never chosen one by one: every pair is evaluated in closed form. No update is ever
undone, so rounding does not add up over the subsets. (Chase sequences and revolving doors, Knuth
7.2.1.3, touch all p fields at every subset.)

Levels may be confined to ranges: with groups in consecutive ranges and levels shared out among them,
the same walk goes through the product of the groups' combinations.

State arrays live outside, so that a call can stop after a number of subsets and be continued.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray


class SelectEnumeration:
    """min over subsets R of size `chosen` of Σ_R linear + Σ_{i<j in R} couplings.

    couplings : float64 (p, p), symmetric;  linear : float64 (p,);  ranges : of the levels, or none
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
        """Go through at least `subsets` more, or to the end."""
        at = self._walk
        if not at.finished:
            at.done += int(
                _advance_select(
                    self._couplings,
                    self._fields,
                    at.values,
                    at.level,
                    at.next,
                    at.subset,
                    at.best,
                    at.best_subset,
                    at.ranges.low,
                    at.ranges.high,
                    at.limit,
                    at.held,
                    at.found,
                    subsets,
                )
            )
        return at


class RefitEnumeration:
    """min over subsets R of size `chosen` of sign · v_R' (matrix_RR)⁻¹ v_R.

    matrix : float64 (p, p), positive definite;  vector : float64 (p,);  sign : 1 or −1
    ranges : of the levels, or none
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
        """Go through at least `subsets` more, or to the end."""
        at = self._walk
        if not at.finished:
            at.done += int(
                _advance_refit(
                    self._matrices,
                    self._vectors,
                    at.values,
                    self._sign,
                    at.level,
                    at.next,
                    at.subset,
                    at.best,
                    at.best_subset,
                    at.ranges.low,
                    at.ranges.high,
                    at.limit,
                    at.held,
                    at.found,
                    subsets,
                )
            )
        return at


class Ranges:
    """Level d of a subset takes a position in low[d]:high[d] above the last one. int64 (chosen,)

    sizes, counts : int64 (g,), the groups' consecutive ranges and how many positions each gives
    """

    def __init__(self, sizes: IndexArray, counts: IndexArray) -> None:
        starts = np.cumsum(sizes) - sizes
        group = np.repeat(np.arange(starts.size), counts)
        left = np.repeat(np.cumsum(counts), counts) - np.arange(group.size) - 1
        self.low = np.asarray(starts[group], dtype=np.int64)
        self.high = np.asarray((starts + sizes)[group] - left, dtype=np.int64)


@dataclass(frozen=True)
class Collected:
    """Which subsets a walk holds on to: those of a value below `limit`, the first `most` of them."""

    limit: float
    most: int


class Walk:
    """Where an enumeration stands.

    chosen : the subsets' size;  ranges : of the levels;  singles : float64 (p,), the values of the
    subsets of size one, which with size zero are settled here.
    done : subsets gone through;  finished : whether those were all
    lowest, best_subset : the best so far
    collected : which subsets are held (int64 (most, chosen)); found : how many there are, held or not
    """

    def __init__(
        self, chosen: int, singles: FloatArray, ranges: Ranges | None, collected: Collected | None = None
    ) -> None:
        collected = collected or Collected(-np.inf, 0)
        self.limit = collected.limit
        self.held: npt.NDArray[np.int64] = np.zeros((collected.most, chosen), dtype=np.int64)
        self.found: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.ranges = ranges or Ranges(np.array([singles.size]), np.array([chosen]))
        levels = max(1, chosen - 1)
        self.done = 0
        self.level: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.next: npt.NDArray[np.int64] = np.zeros(levels, dtype=np.int64)
        self.next[0] = self.ranges.low[0] if chosen else 0
        self.subset: npt.NDArray[np.int64] = np.arange(chosen)
        self.values: FloatArray = np.zeros(levels)
        self.best: FloatArray = np.full(1, np.inf)
        self.best_subset: npt.NDArray[np.int64] = np.arange(chosen)
        if chosen < 2:
            self.level[0] = -1
            low, high = (self.ranges.low[0], self.ranges.high[0]) if chosen else (0, 1)
            self.done = int(high - low)
            self.best[0] = singles[low:high].min() if chosen else 0.0
            self.best_subset[:] = low + singles[low:high].argmin()
            below = low + np.flatnonzero((singles[low:high] if chosen else np.zeros(1)) < self.limit)
            self.found[0] = below.size
            if chosen:
                self.held[: below.size, 0] = below[: collected.most]

    @property
    def finished(self) -> bool:
        """Whether all subsets were gone through."""
        return bool(self.level[0] < 0)

    @property
    def lowest(self) -> float:
        """The lowest value so far."""
        return float(self.best[0])


@njit(cache=True, nogil=True)
def hold(subset: IndexArray, held: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> None:
    """Count a subset, and keep it while there is room."""
    if found[0] < held.shape[0]:
        held[found[0]] = subset
    found[0] += 1


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"})
def _lowest_partner(fields: FloatArray, row: FloatArray, start: int, stop: int) -> float:
    lowest = np.inf
    for b in range(start, stop):
        lowest = min(lowest, fields[b] + row[b])
    return lowest


@njit(cache=True, nogil=True, error_model="numpy")
def _advance_select(
    couplings: FloatArray,
    fields: FloatArray,
    values: FloatArray,
    level: IndexArray,
    following: IndexArray,
    subset: IndexArray,
    best: FloatArray,
    best_subset: IndexArray,
    low: IndexArray,
    high: IndexArray,
    limit: float,
    held: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
    subsets: int,
) -> int:
    size, chosen = couplings.shape[0], subset.size
    last, depth, done, stop = chosen - 2, level[0], 0, high[chosen - 1]
    while depth >= 0 and done < subsets:
        start = following[depth]
        if depth == last:
            for a in range(start, high[depth]):
                base, first = values[depth] + fields[depth, a], max(a + 1, low[last + 1])
                done += stop - first
                if base + _lowest_partner(fields[depth], couplings[a], first, stop) < max(best[0], limit):
                    subset[chosen - 2] = a
                    for b in range(first, stop):
                        value = base + (fields[depth, b] + couplings[a, b])
                        if value < best[0]:
                            best[0] = value
                            subset[chosen - 1] = b
                            best_subset[:] = subset
                        if value < limit:
                            subset[chosen - 1] = b
                            hold(subset, held, found)
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
    level[0] = depth
    return done


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "contract", "reassoc"}, error_model="numpy")
def _best_partner(matrix: FloatArray, vector: FloatArray, a: int, start: int, stop: int, sign: float) -> float:
    lowest = np.inf
    row, pivot, own = matrix[a], matrix[a, a], vector[a] / matrix[a, a]
    for b in range(start, stop):
        rest = vector[b] - own * row[b]
        lowest = min(lowest, sign * rest * rest / (matrix[b, b] - row[b] * row[b] / pivot))
    return lowest


@njit(cache=True, nogil=True, error_model="numpy")
def _advance_refit(
    matrices: FloatArray,
    vectors: FloatArray,
    values: FloatArray,
    sign: float,
    level: IndexArray,
    following: IndexArray,
    subset: IndexArray,
    best: FloatArray,
    best_subset: IndexArray,
    low: IndexArray,
    high: IndexArray,
    limit: float,
    held: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
    subsets: int,
) -> int:
    size, chosen = vectors.shape[1], subset.size
    last, depth, done, stop = chosen - 2, level[0], 0, high[chosen - 1]
    while depth >= 0 and done < subsets:
        start = following[depth]
        matrix, vector = matrices[depth], vectors[depth]
        if depth == last:
            for a in range(start, high[depth]):
                base = values[depth] + sign * vector[a] * vector[a] / matrix[a, a]
                first = max(a + 1, low[last + 1])
                done += stop - first
                if base + _best_partner(matrix, vector, a, first, stop, sign) < max(best[0], limit):
                    subset[chosen - 2] = a
                    for b in range(first, stop):
                        rest = vector[b] - vector[a] / matrix[a, a] * matrix[a, b]
                        schur = matrix[b, b] - matrix[a, b] * matrix[a, b] / matrix[a, a]
                        value = base + sign * rest * rest / schur
                        if value < best[0]:
                            best[0] = value
                            subset[chosen - 1] = b
                            best_subset[:] = subset
                        if value < limit:
                            subset[chosen - 1] = b
                            hold(subset, held, found)
            depth -= 1
        elif start >= high[depth]:
            depth -= 1
        else:
            following[depth] = start + 1
            following[depth + 1] = max(start + 1, low[depth + 1])
            subset[depth] = start
            pivot = matrix[start, start]
            values[depth + 1] = values[depth] + sign * vector[start] * vector[start] / pivot
            for i in range(start + 1, size):
                factor = matrix[start, i] / pivot
                vectors[depth + 1, i] = vector[i] - factor * vector[start]
                for j in range(start + 1, size):
                    matrices[depth + 1, i, j] = matrix[i, j] - factor * matrix[start, j]
            depth += 1
    level[0] = depth
    return done
