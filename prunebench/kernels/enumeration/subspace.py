"""The feasible subspace: the C(p, k) masks with exactly k ones, numbered, and the state pairs that mixers rotate.

A state of the subspace is a vector over these masks. A mixer that preserves the number of ones is a
product of rotations of coordinate pairs, so a table of row-number pairs describes it; nothing of size
2^p and no matrix is formed. Hadfield et al.: From the Quantum Approximate
Optimization Algorithm to a Quantum Alternating Operator Ansatz, Algorithms 12 (2019), §4.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, IndexArray, frozen

TableArray = npt.NDArray[np.int32]

MAX_BITS = 62
"""A mask is stored as a 64-bit integer; the successor step needs the two highest bits free."""


@dataclass(frozen=True, eq=False)
class Space:
    """The basis states of a simulation and, for each factor of the mixer, the pairs it rotates.

    p : number of binary variables
    states : int64 (N,)            masks as integers, ascending; bit i is variable i
    first, second : int32 (E, M)   row numbers; factor e rotates rows first[e, t] and second[e, t]
    """

    p: int
    states: IndexArray
    first: TableArray
    second: TableArray

    @property
    def size(self) -> int:
        """Number of basis states."""
        return int(self.states.size)

    def masks(self) -> BoolArray:
        """The basis states as masks. bool (N, p)."""
        return masks_of(self.states, self.p)


def masks_of(states: IndexArray, p: int) -> BoolArray:
    """Integers as masks; bit i becomes position i. int64 (s,) -> bool (s, p)."""
    return np.asarray((states[:, None] >> np.arange(p)) & 1, dtype=np.bool_)


def state_count(p: int, keep: int) -> int:
    """C(p, keep): the number of feasible masks."""
    return math.comb(p, keep)


def pair_count(p: int, keep: int) -> int:
    """C(p−2, keep−1): how many pairs of masks differ by exchanging two given weights, one kept and one pruned."""
    return math.comb(p - 2, keep - 1) if p >= 2 and keep >= 1 else 0


def memory_needed(p: int, keep: int, factors: int, layers: int = 1) -> int:
    """Peak bytes of a simulation: pair tables, two states, each layer's phases, values, masks during evaluation."""
    return 8 * factors * pair_count(p, keep) + state_count(p, keep) * (8 * (12 + 2 * layers) + p)


def largest_block(keep_share: float, factors_at: "dict[int, int]", limit: float) -> int:
    """The largest p among the keys of `factors_at` that fits `limit` bytes at density `keep_share`; 0 if none."""
    fitting = [p for p, factors in factors_at.items() if memory_needed(p, round(keep_share * p), factors) <= limit]
    return max(fitting, default=0)


def feasible_space(p: int, keep: int, pairs: IndexArray) -> Space:
    """The subspace with `keep` ones and the pair tables of a mixer.

    Parameters
    ----------
    p : at most 62
    keep : 0 to p
    pairs : int64 (E, 2)   the variable pairs that the mixer exchanges, in its order; E may be 0

    Cost O(N·E) steps and 8·E·C(p−2, keep−1) bytes.
    """
    from prunebench.kernels.enumeration import loops

    states = frozen(loops.enumerate_states(p, keep, state_count(p, keep)))
    chosen = np.ascontiguousarray(pairs, dtype=np.int64).reshape(-1, 2)
    first, second = loops.pair_tables(states, chosen, pair_count(p, keep))
    return Space(p, states, frozen(first), frozen(second))


def whole_space(p: int) -> Space:
    """All 2^p masks and the pairs that differ in one bit: the space of the penalty encoding with its X mixer."""
    states = np.arange(1 << p, dtype=np.int64)
    first = np.empty((p, 1 << (p - 1)), dtype=np.int32)
    for bit in range(p):
        first[bit] = states[((states >> bit) & 1) == 0]
    second = first + (1 << np.arange(p, dtype=np.int32))[:, None]
    return Space(p, frozen(states), frozen(first), frozen(second))
