"""The feasible subspace: the C(p, k) masks with exactly k ones, numbered, and the state pairs that mixers rotate.

A state of the subspace is a vector over these masks. A mixer that preserves the number of ones is a
product of rotations of coordinate pairs, so tables of row numbers describe it; nothing of size
2^p and no matrix is formed. Hadfield et al.: From the Quantum Approximate
Optimization Algorithm to a Quantum Alternating Operator Ansatz, Algorithms 12 (2019), §4.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, IndexArray, frozen

TableArray = npt.NDArray[np.uint32]

MAX_BITS = 62
"""A mask is stored as a 64-bit integer; the successor step needs the two highest bits free."""


class Pairs(NamedTuple):
    """The pairs of rows that the factors of a mixer rotate, factor by factor, as runs of neighbouring rows.

    runs : uint32 (R, 4)   (one, two, begin, end): rows one + first[t] and two + second[t] for begin <= t < end; in a
                          first row of a pair, the factor's first variable is 1
    first, second : uint32 (T,), shared by many runs

    Masks with the same high bits follow each other. What a factor does to their low bits is the same for all high bits
    with as many ones, so that a few short tables serve all; they stay in the nearest cache, and the state is read row
    by row.
    """

    runs: TableArray
    first: TableArray
    second: TableArray


@dataclass(frozen=True, eq=False)
class Space:
    """The basis states of a simulation and the pairs that the mixer rotates.

    p : number of binary variables
    states : int64 (N,)   masks as integers, ascending; bit i is variable i
    """

    p: int
    states: IndexArray
    pairs: Pairs

    @property
    def size(self) -> int:
        """Number of basis states."""
        return int(self.states.size)

    def masks(self) -> BoolArray:
        """The basis states as masks. bool (N, p)."""
        return masks_of(self.states, self.p)


def masks_of(states: IndexArray, p: int) -> BoolArray:
    """Integers as masks; bit i becomes position i. int64 (s,) -> bool (s, p)."""
    masks = np.empty((states.size, p), dtype=np.bool_)
    # bit by bit: all at once would be integers, eight times the memory
    for bit in range(p):
        masks[:, bit] = states & (1 << bit)
    return masks


def state_count(p: int, keep: int) -> int:
    """C(p, keep): the number of feasible masks."""
    return math.comb(p, keep)


def memory_needed(p: int, keep: int, factors: int, layers: int = 1) -> int:
    """Peak bytes of a simulation with its loop: runs of pairs, states, phases of each layer, values, chances, masks."""
    count = state_count(p, keep)
    return 100 * factors * math.isqrt(count) + count * (8 * (22 + 2 * layers) + p)


def largest_block(keep_share: float, factors_at: "dict[int, int]", limit: float) -> int:
    """The largest p among the keys of `factors_at` that fits `limit` bytes at density `keep_share`; 0 if none."""
    fitting = [p for p, factors in factors_at.items() if memory_needed(p, round(keep_share * p), factors) <= limit]
    return max(fitting, default=0)


def feasible_space(p: int, keep: int, pairs: IndexArray) -> Space:
    """The subspace with `keep` ones and the pairs of a mixer.

    Parameters
    ----------
    p : at most 62
    keep : 0 to p
    pairs : int64 (E, 2)   the variable pairs that the mixer exchanges, in its order; E may be 0

    Cost O(N + E·√N) steps, and some 100·E·√N bytes.
    """
    from prunebench.kernels.enumeration import loops

    states = frozen(loops.enumerate_states(p, keep, state_count(p, keep)))
    low = next(low for low in range(p, -1, -1) if low == 0 or _prefixes(p - low, keep) ** 2 >= states.size)
    return Space(p, states, _pairs(states, np.asarray(pairs, dtype=np.int64).reshape(-1, 2), low))


def _prefixes(bits: int, keep: int) -> int:
    """How many values the first `bits` bits of a mask can have at most."""
    return sum(math.comb(bits, ones) for ones in range(min(bits, keep) + 1))


def _pairs(states: IndexArray, pairs: IndexArray, low: int) -> Pairs:
    """The runs of all pairs of variables, with masks cut into their `low` lowest bits and the others."""
    high, begins = np.unique(states >> low, return_index=True)
    rest = np.unique(states & ((1 << low) - 1))
    by_ones = {ones: rest[_ones(rest) == ones] for ones in np.unique(_ones(rest)).tolist()}
    # ones among the low bits
    left = _ones(states[begins]) - _ones(high)
    tables: dict[tuple[int, int, int], tuple[int, int]] = {}
    first: list[IndexArray] = []
    second: list[IndexArray] = []
    runs: list[IndexArray] = []
    filled = 0

    def table(ones: int, added: int, removed: int) -> tuple[int, int]:
        """Where in the tables the low bits are that lack `added` and have `removed`, with those after the exchange."""
        nonlocal filled
        key = (ones, added, removed)
        if key not in tables:
            held = by_ones[ones]
            at = np.flatnonzero((held & (added | removed)) == removed)
            after = held[at] ^ (added | removed)
            gained = ones + bool(added) - bool(removed)
            first.append(at)
            second.append(np.searchsorted(by_ones[gained], after) if at.size else at)
            tables[key] = filled, filled + at.size
            filled += at.size
        return tables[key]

    for one, two in pairs.tolist():
        # the first variable is given up for the second; either is a high or a low bit
        removed, added = ((0, 1 << bit - low) if bit >= low else (1 << bit, 0) for bit in (one, two))
        rows = np.flatnonzero((high & (removed[1] | added[1])) == removed[1])
        partners = np.searchsorted(high, high[rows] ^ (removed[1] | added[1]))
        for ones in np.unique(left[rows]).tolist():
            begin, end = table(ones, added[0], removed[0])
            same = left[rows] == ones
            if end > begin:
                bounds = np.broadcast_to((begin, end), (int(same.sum()), 2))
                runs.append(np.column_stack([begins[rows[same]], begins[partners[same]], bounds]))
    return Pairs(
        frozen(np.concatenate([np.empty((0, 4)), *runs]).astype(np.uint32)),
        frozen(np.concatenate([np.empty(0), *first]).astype(np.uint32)),
        frozen(np.concatenate([np.empty(0), *second]).astype(np.uint32)),
    )


def _ones(values: IndexArray) -> IndexArray:
    """The number of ones of each integer."""
    return np.bitwise_count(values).astype(np.int64)


def whole_space(p: int) -> Space:
    """All 2^p masks and the pairs that differ in one bit: the space of the penalty encoding with its X mixer."""
    states = np.arange(1 << p, dtype=np.int64)
    first = np.concatenate([states[(states >> bit) & 1 == 0] for bit in range(p)])
    half = 1 << (p - 1)
    second = first + np.repeat(1 << np.arange(p), half)
    begins = half * np.arange(p)
    runs = np.column_stack([np.zeros((p, 2), dtype=np.int64), begins, begins + half])
    return Space(p, frozen(states), Pairs(*(frozen(table.astype(np.uint32)) for table in (runs, first, second))))
