"""Compiled simulated annealing by swaps on dense couplings: the count of kept weights never changes.

E(m) = Σ hᵢ mᵢ + Σ_{i<j} Jᵢⱼ mᵢ mⱼ. With the fields Fᵢ = hᵢ + Σⱼ Jᵢⱼ mⱼ, removing i and adding j
changes E by Fⱼ − Fᵢ − Jᵢⱼ: O(1) to propose, O(p) to carry out (Kawasaki dynamics, Phys. Rev. 145, 1966).

One kept weight is compared with a run of pruned ones under one shared Metropolis threshold
Fᵢ − T log u, and the first one below it is taken. That gives eight times as many proposals a second as
a logarithm and two random positions for each; the cold half of an anneal rejects nearly all of them.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import compiled, merged

State = npt.NDArray[np.uint64]

RUN = 16
"""Pruned weights compared with one kept weight under one threshold."""
SHUFFLED: Any = np.int64(0)
"""How reads begin: from random masks."""
GIVEN: Any = np.int64(1)
"""How reads begin: from the masks given."""
CONTINUED: Any = np.int64(2)
"""How reads begin: where the last call left them, whose fields are still right."""


@compiled(inner=True)
def uniform(state: State) -> float:
    """A number in (0, 1) from a xorshift64 state, which is advanced. uint64 (1,), not zero."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return (float(x >> np.uint64(12)) + 0.5) * (1.0 / 4503599627370496.0)


@compiled(inner=True)
def shuffle(order: IndexArray, state: State) -> None:
    """All positions in a uniformly random order (Fisher-Yates)."""
    for i in range(order.size):
        order[i] = i
    for i in range(order.size - 1, 0, -1):
        j = int(uniform(state) * (i + 1))
        order[i], order[j] = order[j], order[i]


@compiled(inner=True)
def fields_of(couplings: FloatArray, linear: FloatArray, kept: IndexArray, fields: FloatArray) -> None:
    """Write the fields of a mask."""
    for i in range(fields.size):
        fields[i] = linear[i]
    for x in range(kept.size):
        row = couplings[kept[x]]
        for i in range(fields.size):
            fields[i] += row[i]


@merged
def sweeps(
    couplings: FloatArray,
    fields: FloatArray,
    kept: IndexArray,
    pruned: IndexArray,
    temperatures: FloatArray,
    state: State,
) -> None:
    """One sweep, p proposals, at each temperature; the read's whole state is changed in place."""
    size = fields.size
    run = min(RUN, pruned.size)
    for t in range(temperatures.size):
        for _ in range((size + run - 1) // run):
            x = int(uniform(state) * kept.size)
            y = int(uniform(state) * pruned.size)
            i = kept[x]
            row = couplings[i]
            threshold = fields[i] - temperatures[t] * math.log(uniform(state))
            for _ in range(run):
                j = pruned[y]
                if fields[j] - row[j] < threshold:
                    other = couplings[j]
                    for a in range(size):
                        fields[a] += other[a] - row[a]
                    kept[x] = j
                    pruned[y] = i
                    break
                y += 1
                if y == pruned.size:
                    y = 0


@compiled()
def reads(
    couplings: FloatArray,
    linear: FloatArray,
    temperatures: FloatArray,
    states: State,
    begin: int,
    order: IndexArray,
    keep: int,
    fields: FloatArray,
) -> None:
    """Independent anneals, one a row: a whole schedule, or part of one.

    couplings : float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,)
    temperatures : float64 (s,), one per sweep;  states : uint64 (r,), advanced
    begin : SHUFFLED, GIVEN or CONTINUED
    order : int64 (r, p), changed: the kept positions, `keep` of them, then the pruned ones
    fields : float64 (r, p), overwritten, but read where `begin` is CONTINUED
    """
    for r in range(states.size):
        state, kept, pruned, own = states[r : r + 1], order[r, :keep], order[r, keep:], fields[r]
        if begin == SHUFFLED:
            shuffle(order[r], state)
        if begin != CONTINUED:
            fields_of(couplings, linear, kept, own)
        sweeps(couplings, own, kept, pruned, temperatures, state)


@compiled()
def swap_sizes(
    couplings: FloatArray,
    linear: FloatArray,
    order: IndexArray,
    keep: int,
    fields: FloatArray,
    masks: int,
    swaps: int,
    state: State,
) -> float:
    """The mean |change of E| of random swaps at random masks: the unit of temperature.

    order (p,), fields (p,) are overwritten.
    """
    total = 0.0
    kept, pruned = order[:keep], order[keep:]
    for _ in range(masks):
        shuffle(order, state)
        fields_of(couplings, linear, kept, fields)
        for _ in range(swaps):
            i, j = kept[int(uniform(state) * kept.size)], pruned[int(uniform(state) * pruned.size)]
            total += abs(fields[j] - fields[i] - couplings[i, j])
    return total / (masks * swaps)
