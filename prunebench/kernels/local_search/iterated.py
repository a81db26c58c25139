"""Compiled iterated descent in mode select: kicks of a few random swaps, each followed by a descent by single swaps.

Lourenço, Martin, Stützle: Iterated local search, Handbook of Metaheuristics (2003). With the fields
Fᵢ = linearᵢ + Σⱼ Jᵢⱼ mⱼ, exchanging the kept i for the pruned j changes E by Fⱼ − Fᵢ − Jᵢⱼ. A pass over all pairs is
one comparison of each kept weight's row with a threshold, which processors do for many entries at once; the lowest
entry is looked for only in rows that have one below it.

Half of the descents take the best swap of all, half the best swap of one row after the other: the first end lower
where few samples make the energy a sum to be hit, the second need a quarter of the time and end lower elsewhere.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.compiled import compiled

SEED = np.uint64(88172645463325252)
"""Where the kicks of an exact solver's first incumbent begin: any number, always the same, so that the incumbent is."""
MOST_PAIRS = 4
"""Most pairs that a kick exchanges, at least one: 8 leave the basin too far, 1 too rarely."""
KICKS_TIMES_PAIRS = 50_000_000
"""Kicks between two looks at the clock, times p²: some hundredths of a second."""
REFRESH_SLICES = 16
"""Slices between two computations of the fields from nothing, which take p² operations each."""
TAKEN = 1e300
"""In place of the field of a weight that is kept already, so that it is never the best to add."""
ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
"""A swap must gain more than this share of the sizes that are summed to its weights' fields."""


class Iterated:
    """An iterated descent of E(m) = linear'm + ½ m'Jm over masks that keep as many weights as their start."""

    def __init__(self, couplings: FloatArray, linear: FloatArray, seed: np.uint64) -> None:
        """couplings : J, float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,);  seed : of kicks, not 0"""
        self.couplings, self.linear = couplings, linear
        sizes = np.abs(linear) + np.abs(couplings).sum(axis=1)
        self._tolerance = ROUNDING * float(sizes.max(initial=0.0))
        self._state = np.array([seed], dtype=np.uint64)
        self._work = np.empty((4, linear.size))
        self._at_once = max(1, KICKS_TIMES_PAIRS // linear.size**2)

    @staticmethod
    def of(block: BlockProblem, seed: np.uint64 = SEED) -> "Iterated":
        """For a block in mode select with one count."""
        qubo = block.to_qubo()
        return Iterated(qubo.couplings, np.array(qubo.linear), seed)

    def run(self, mask: BoolArray, kicks: int, stop: StopCheck = never) -> BoolArray:
        """The best mask of a descent from `mask`, and of as many kicks of it; never worse, but for rounding.

        mask : bool (p,), of which at least one weight is kept and one pruned
        stop : asked after every hundredth of a second or two, with the kicks made
        """
        kept = np.flatnonzero(mask)
        held, made, slices = np.empty(kept.size, np.int64), 0, 0
        while True:
            part = min(self._at_once, kicks - made)
            if slices % REFRESH_SLICES == 0:
                # computed anew, so that rounding does not add up
                self._work[0] = self.linear + self.couplings @ chosen_mask(kept, mask.size).astype(np.float64)
            slices += 1
            _kicked(self.couplings, self._work, kept, held, part, self._tolerance, self._state)
            made += part
            if made >= kicks or stop(made):
                break
        return chosen_mask(kept, mask.size)


def chosen_mask(kept: IndexArray, size: int) -> BoolArray:
    """The mask with ones at these positions. bool (size,)"""
    mask = np.zeros(size, dtype=np.bool_)
    mask[kept] = True
    return mask


@compiled(inner=True)
def any_below(costs: FloatArray, row: FloatArray, threshold: float) -> bool:
    """Whether costs − row has an entry below the threshold. A sum of comparisons is vectorised; a minimum is not."""
    found = np.int32(0)
    for k in range(row.size):
        found += np.int32(costs[k] - row[k] < threshold)
    return bool(found > 0)


@compiled(inner=True)
def lowest(costs: FloatArray, row: FloatArray) -> int:
    """The position of the least entry of costs − row, the first if several are equal."""
    at = 0
    least = costs[0] - row[0]
    for k in range(1, row.size):
        value = costs[k] - row[k]
        if value < least:
            at, least = k, value
    return at


@compiled(inner=True)
def _exchange(couplings: FloatArray, work: FloatArray, kept: IndexArray, x: int, j: int) -> None:
    """The kept weight at place x leaves and j enters."""
    i = kept[x]
    row, other = couplings[i], couplings[j]
    fields, adding = work[0], work[1]
    for k in range(fields.size):
        fields[k] += other[k] - row[k]
        adding[k] += other[k] - row[k]
    adding[i] = fields[i]
    adding[j] = TAKEN
    kept[x] = j


@compiled(inner=True)
def _descended(
    couplings: FloatArray, work: FloatArray, kept: IndexArray, first: bool, x: int, tolerance: float
) -> float:
    """Descent in place by the best swap, or, with `first`, by the best of each row in turn from place x. -> change"""
    fields, adding = work[0], work[1]
    change = 0.0
    # rows since the last swap, the best gain since then, and its place
    seen, best, at = 0, -tolerance, -1
    while True:
        i = kept[x]
        if any_below(adding, couplings[i], best + fields[i]):
            j = lowest(adding, couplings[i])
            gain = fields[j] - fields[i] - couplings[i, j]
            if gain < best:
                best, at = gain, x
        seen += 1
        x += 1
        if x == kept.size:
            x = 0
        if at >= 0 and (first or seen == kept.size):
            j = lowest(adding, couplings[kept[at]])
            _exchange(couplings, work, kept, at, j)
            change += best
            seen, best, at = 0, -tolerance, -1
        elif seen == kept.size:
            return change


@compiled()
def _kicked(
    couplings: FloatArray,
    work: FloatArray,
    kept: IndexArray,
    held: IndexArray,
    kicks: int,
    tolerance: float,
    state: np.ndarray,
) -> None:
    """Descend, then kick and descend so many times, each from the best point so far, which `kept` ends with.

    work : (4, p), its first row the fields of the mask, the others overwritten
    kept : the kept positions;  held : as long, overwritten;  state : uint64 (1,), advanced
    """
    fields, adding, best_fields, best_adding = work[0], work[1], work[2], work[3]
    for k in range(fields.size):
        adding[k] = fields[k]
    for x in range(kept.size):
        adding[kept[x]] = TAKEN
    _descended(couplings, work, kept, False, 0, tolerance)
    for _ in range(kicks):
        for k in range(fields.size):
            best_fields[k], best_adding[k] = fields[k], adding[k]
        for x in range(kept.size):
            held[x] = kept[x]
        change = 0.0
        for _ in range(1 + _below(state, MOST_PAIRS)):
            x = _below(state, kept.size)
            j = _below(state, fields.size)
            while adding[j] == TAKEN:
                j = _below(state, fields.size)
            change += fields[j] - fields[kept[x]] - couplings[kept[x], j]
            _exchange(couplings, work, kept, x, j)
        first = _below(state, 2) == 1
        change += _descended(couplings, work, kept, first, _below(state, kept.size), tolerance)
        if change > 0.0:
            for k in range(fields.size):
                fields[k], adding[k] = best_fields[k], best_adding[k]
            for x in range(kept.size):
                kept[x] = held[x]


@compiled(inner=True)
def _below(state: np.ndarray, count: int) -> int:
    """A whole number from 0 to count − 1 from a xorshift64 state, which is advanced."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return int((float(x >> np.uint64(12)) + 0.5) * (1.0 / 4503599627370496.0) * count)
