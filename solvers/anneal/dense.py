"""Compiled simulated annealing by swaps on dense couplings: the count of kept weights never changes.

E(m) = Σ hᵢ mᵢ + Σ_{i<j} Jᵢⱼ mᵢ mⱼ. With the fields Fᵢ = hᵢ + Σⱼ Jᵢⱼ mⱼ, removing i and adding j
changes E by Fⱼ − Fᵢ − Jᵢⱼ: O(1) to propose, O(p) to carry out (Kawasaki dynamics, Phys. Rev. 145, 1966).

One kept weight is compared with a run of pruned ones under one shared Metropolis threshold
Fᵢ − T log u, and the first one below it is taken. That gives eight times as many proposals a second as
a logarithm and two random positions for each; the cold half of an anneal rejects nearly all of them.
"""

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray

State = npt.NDArray[np.uint64]

RUN = 16
"""Pruned weights compared with one kept weight under one threshold."""


@njit(cache=True, nogil=True, inline="always")
def uniform(state: State) -> float:
    """A number in (0, 1) from a xorshift64 state, which is advanced. uint64 (1,), not zero."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return (float(x >> np.uint64(12)) + 0.5) * (1.0 / 4503599627370496.0)


@njit(cache=True, nogil=True)
def split(mask: BoolArray, kept: IndexArray, pruned: IndexArray) -> None:
    """Write the positions of the kept and of the pruned weights."""
    x, y = 0, 0
    for i in range(mask.size):
        if mask[i]:
            kept[x] = i
            x += 1
        else:
            pruned[y] = i
            y += 1


@njit(cache=True, nogil=True)
def shuffle(kept: IndexArray, pruned: IndexArray, state: State) -> None:
    """A uniformly random split of all positions into kept and pruned (Fisher-Yates)."""
    count = kept.size
    size = count + pruned.size
    order = np.empty(size, np.int64)
    for i in range(size):
        order[i] = i
    for i in range(size - 1, 0, -1):
        j = int(uniform(state) * (i + 1))
        order[i], order[j] = order[j], order[i]
    kept[:] = order[:count]
    pruned[:] = order[count:]


@njit(cache=True, nogil=True)
def fields_of(couplings: FloatArray, linear: FloatArray, kept: IndexArray, fields: FloatArray) -> float:
    """Write the fields of a mask and return its energy."""
    fields[:] = linear
    for x in range(kept.size):
        row = couplings[kept[x]]
        for i in range(fields.size):
            fields[i] += row[i]
    energy = 0.0
    for x in range(kept.size):
        energy += 0.5 * (linear[kept[x]] + fields[kept[x]])
    return energy


@njit(cache=True, nogil=True)
def sweeps(
    couplings: FloatArray,
    fields: FloatArray,
    kept: IndexArray,
    pruned: IndexArray,
    temperatures: FloatArray,
    state: State,
) -> float:
    """One sweep, p proposals, at each temperature; the read's whole state is changed in place.

    Returns
    -------
    the change of E, summed over the accepted swaps
    """
    size = fields.size
    run = min(RUN, pruned.size)
    change = 0.0
    for temperature in temperatures:
        for _ in range((size + run - 1) // run):
            x = int(uniform(state) * kept.size)
            y = int(uniform(state) * pruned.size)
            i = kept[x]
            row = couplings[i]
            threshold = fields[i] - temperature * math.log(uniform(state))
            for _ in range(run):
                j = pruned[y]
                field = fields[j] - row[j]
                if field < threshold:
                    change += field - fields[i]
                    other = couplings[j]
                    for a in range(size):
                        fields[a] += other[a] - row[a]
                    kept[x] = j
                    pruned[y] = i
                    break
                y += 1
                if y == pruned.size:
                    y = 0
    return change


@njit(cache=True, nogil=True)
def reads(
    couplings: FloatArray,
    linear: FloatArray,
    temperatures: FloatArray,
    seeds: State,
    start: BoolArray,
    masks: BoolArray,
    energies: FloatArray,
) -> None:
    """Independent anneals, one per seed, from random masks or all from `start`.

    couplings : float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,)
    temperatures : float64 (s,), one per sweep;  seeds : uint64 (r,), none zero
    start : bool (p,)        without ones for random masks
    masks : bool (r, p)      overwritten; on entry each row's count says how many weights are kept
    energies : float64 (r,)  overwritten; recomputed at the end of each read
    """
    size = linear.size
    for r in range(seeds.size):
        count = masks[r].sum()
        kept, pruned = np.empty(count, np.int64), np.empty(size - count, np.int64)
        fields = np.empty(size)
        state = seeds[r : r + 1].copy()
        if start.any():
            split(start, kept, pruned)
        else:
            shuffle(kept, pruned, state)
        fields_of(couplings, linear, kept, fields)
        sweeps(couplings, fields, kept, pruned, temperatures, state)
        energies[r] = fields_of(couplings, linear, kept, fields)
        masks[r] = False
        for x in range(count):
            masks[r, kept[x]] = True


@njit(cache=True, nogil=True)
def swap_sizes(couplings: FloatArray, linear: FloatArray, count: int, masks: int, swaps: int, state: State) -> float:
    """The mean |change of E| of random swaps at random masks: the unit of temperature."""
    size = linear.size
    kept, pruned, fields = np.empty(count, np.int64), np.empty(size - count, np.int64), np.empty(size)
    total = 0.0
    for _ in range(masks):
        shuffle(kept, pruned, state)
        fields_of(couplings, linear, kept, fields)
        for _ in range(swaps):
            i, j = kept[int(uniform(state) * count)], pruned[int(uniform(state) * (size - count))]
            total += abs(fields[j] - fields[i] - couplings[i, j])
    return total / (masks * swaps)
