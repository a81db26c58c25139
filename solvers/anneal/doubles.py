"""Descent by double swaps: two kept weights leave and two pruned ones enter at once.

Where few samples or one dominant direction make the energy a sum to be hit (subset sum), single swaps change it in
a few thousand sizes only, none of them small enough; pairs of swaps have a thousand times as many. With the fields F
of dense.py, exchanging i and k for j and l changes E by

    Fⱼ + Fₗ − Fᵢ − Fₖ + Jᵢₖ + Jⱼₗ − Jᵢⱼ − Jᵢₗ − Jₖⱼ − Jₖₗ.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.compiled import compiled

CANDIDATES = 64
"""Most kept and most pruned weights that take part, those that cost least to exchange: 64 of each are four million
double swaps, of which bounds leave a fraction; some milliseconds."""
LEAST_GAIN = 1e-13
"""A double swap must lower the energy by this share of the largest field: less is rounding."""


def descended(
    couplings: FloatArray, linear: FloatArray, mask: BoolArray, stop: StopCheck = never
) -> tuple[BoolArray, float]:
    """The mask after double swaps, the best one of all candidates at a time, until none lowers the energy.

    couplings : J, float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,)
    stop : says between swaps why to end earlier, or None
    Returns the mask, bool (p,), and its energy.
    """
    held, lowest = mask, np.inf
    while True:
        fields = linear + couplings @ mask
        energy = 0.5 * float(mask @ (linear + fields))
        # rounding can make a swap look as if it lowered the energy, and a cycle of such swaps would not end
        if not energy < lowest:
            return held, lowest
        held, lowest = mask, energy
        if stop(0.0):
            return held, lowest
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        leaving = kept[np.argsort(-fields[kept], kind="stable")[:CANDIDATES]]
        entering = pruned[np.argsort(fields[pruned], kind="stable")[:CANDIDATES]]
        chosen = np.empty(4, np.int64)
        change = best_double_swap(
            fields[leaving], fields[entering], couplings[np.ix_(leaving, leaving)],
            couplings[np.ix_(entering, entering)], couplings[np.ix_(leaving, entering)],
            np.empty(entering.size), chosen,
        )  # fmt: skip
        if not change < -LEAST_GAIN * float(np.abs(fields).max()):
            return held, lowest
        mask = mask.copy()
        mask[leaving[chosen[:2]]] = False
        mask[entering[chosen[2:]]] = True


@compiled(fast=True)
def best_double_swap(
    leaving: FloatArray, entering: FloatArray, among: FloatArray, between: FloatArray, across: FloatArray,
    costs: FloatArray, chosen: np.ndarray,
) -> float:  # fmt: skip
    """The change of E by the best double swap, 0 if none lowers it; `chosen` (4,) receives its rows and columns.

    leaving, entering : fields of a kept and b pruned candidates;  costs : float64 (b,), overwritten
    among (a, a), between (b, b), across (a, b) : couplings of the kept, of the pruned, and of kept with pruned ones
    """
    best = 0.0
    lowest = 0.0
    for j in range(entering.size):
        for m in range(j):
            lowest = min(lowest, between[j, m])
    for i in range(leaving.size):
        for k in range(i):
            base = among[i, k] - leaving[i] - leaving[k]
            least = np.inf
            for j in range(entering.size):
                costs[j] = entering[j] - across[i, j] - across[k, j]
                least = min(least, costs[j])
            for j in range(entering.size):
                partial = base + costs[j]
                if partial + least + lowest < best:
                    for m in range(j):
                        change = partial + costs[m] + between[j, m]
                        if change < best:
                            best = change
                            chosen[0], chosen[1], chosen[2], chosen[3] = i, k, j, m
    return best
