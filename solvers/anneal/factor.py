"""Compiled simulated annealing by swaps on the factor: nothing of size p² is formed.

With C = A diag(w̄) and r = C m, the field of weight j for a mask without i is hⱼ + cⱼ'(r − cᵢ):
one dot product of length n per proposal, one vector sum of length n per accepted swap.
"""

import math

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.solvers.anneal.dense import RUN, State, shuffle, uniform

REASSOCIATE = {"reassoc", "contract"}
"""Lets the compiler split sums into vector lanes; NaN and infinity keep their meaning."""


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def dot(a: FloatArray, b: FloatArray) -> float:
    """a'b, summed in vector lanes. (n,), (n,) -> float"""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True)
def residual_of(columns: FloatArray, linear: FloatArray, kept: IndexArray, residual: FloatArray) -> float:
    """Write r = Σ cᵢ over the kept weights and return the mask's energy."""
    residual[:] = 0.0
    for x in range(kept.size):
        column = columns[kept[x]]
        for a in range(residual.size):
            residual[a] += column[a]
    energy = 0.5 * dot(residual, residual)
    for x in range(kept.size):
        i = kept[x]
        energy += linear[i] - 0.5 * dot(columns[i], columns[i])
    return energy


@njit(cache=True, nogil=True)
def sweeps(
    columns: FloatArray,
    linear: FloatArray,
    residual: FloatArray,
    kept: IndexArray,
    pruned: IndexArray,
    temperatures: FloatArray,
    state: State,
) -> float:
    """One sweep, p proposals, at each temperature; the read's whole state is changed in place.

    columns : float64 (p, n), the factor's scaled columns as rows;  linear : float64 (p,)
    residual : float64 (n,), r of the mask

    Returns
    -------
    the change of E, summed over the accepted swaps
    """
    size = linear.size
    run = min(RUN, pruned.size)
    without = np.empty_like(residual)
    change = 0.0
    for temperature in temperatures:
        for _ in range((size + run - 1) // run):
            x = int(uniform(state) * kept.size)
            y = int(uniform(state) * pruned.size)
            i = kept[x]
            column = columns[i]
            for a in range(residual.size):
                without[a] = residual[a] - column[a]
            own = linear[i] + dot(column, without)
            threshold = own - temperature * math.log(uniform(state))
            for _ in range(run):
                j = pruned[y]
                field = linear[j] + dot(columns[j], without)
                if field < threshold:
                    change += field - own
                    other = columns[j]
                    for a in range(residual.size):
                        residual[a] = without[a] + other[a]
                    kept[x] = j
                    pruned[y] = i
                    break
                y += 1
                if y == pruned.size:
                    y = 0
    return change


@njit(cache=True, nogil=True)
def swap_sizes(columns: FloatArray, linear: FloatArray, count: int, masks: int, swaps: int, state: State) -> float:
    """The mean |change of E| of random swaps at random masks: the unit of temperature."""
    size = linear.size
    kept, pruned, residual = np.empty(count, np.int64), np.empty(size - count, np.int64), np.empty(columns.shape[1])
    total = 0.0
    for _ in range(masks):
        shuffle(kept, pruned, state)
        residual_of(columns, linear, kept, residual)
        for _ in range(swaps):
            i, j = kept[int(uniform(state) * count)], pruned[int(uniform(state) * (size - count))]
            without = residual - columns[i]
            total += abs(linear[j] - linear[i] + dot(columns[j], without) - dot(columns[i], without))
    return total / (masks * swaps)
