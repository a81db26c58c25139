"""Compiled simulated annealing by swaps on the factor: nothing of size p² is formed.

With C = A diag(w̄) and r = C m, the field of weight j for a mask without i is hⱼ + cⱼ'(r − cᵢ):
one dot product of length n per proposal, one vector sum of length n per accepted swap.
"""

import math

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import compiled
from prunebench.solvers.anneal.dense import RUN, State, shuffle, uniform


@compiled(fast=True, inner=True)
def dot(a: FloatArray, b: FloatArray) -> float:
    """a'b, summed in vector lanes. (n,), (n,) -> float"""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@compiled()
def residual_of(columns: FloatArray, linear: FloatArray, kept: IndexArray, residual: FloatArray) -> float:
    """Write r = Σ cᵢ over the kept weights and return the mask's energy."""
    for a in range(residual.size):
        residual[a] = 0.0
    for x in range(kept.size):
        column = columns[kept[x]]
        for a in range(residual.size):
            residual[a] += column[a]
    energy = 0.5 * dot(residual, residual)
    for x in range(kept.size):
        i = kept[x]
        energy += linear[i] - 0.5 * dot(columns[i], columns[i])
    return energy


@compiled()
def sweeps(
    columns: FloatArray,
    linear: FloatArray,
    residual: FloatArray,
    without: FloatArray,
    kept: IndexArray,
    pruned: IndexArray,
    temperatures: FloatArray,
    state: State,
) -> None:
    """One sweep, p proposals, at each temperature; the read's whole state is changed in place.

    columns : float64 (p, n), the factor's scaled columns as rows;  linear : float64 (p,)
    residual : float64 (n,), r of the mask;  without : float64 (n,), overwritten
    """
    size = linear.size
    run = min(RUN, pruned.size)
    for t in range(temperatures.size):
        for _ in range((size + run - 1) // run):
            x = int(uniform(state) * kept.size)
            y = int(uniform(state) * pruned.size)
            i = kept[x]
            column = columns[i]
            for a in range(residual.size):
                without[a] = residual[a] - column[a]
            threshold = linear[i] + dot(column, without) - temperatures[t] * math.log(uniform(state))
            for _ in range(run):
                j = pruned[y]
                if linear[j] + dot(columns[j], without) < threshold:
                    other = columns[j]
                    for a in range(residual.size):
                        residual[a] = without[a] + other[a]
                    kept[x] = j
                    pruned[y] = i
                    break
                y += 1
                if y == pruned.size:
                    y = 0


@compiled()
def swap_sizes(
    columns: FloatArray,
    linear: FloatArray,
    order: IndexArray,
    keep: int,
    residual: FloatArray,
    without: FloatArray,
    masks: int,
    swaps: int,
    state: State,
) -> float:
    """The mean |change of E| of random swaps at random masks: the unit of temperature.

    order (p,), residual and without (n,) are overwritten.
    """
    total = 0.0
    kept, pruned = order[:keep], order[keep:]
    for _ in range(masks):
        shuffle(order, state)
        residual_of(columns, linear, kept, residual)
        for _ in range(swaps):
            i, j = kept[int(uniform(state) * kept.size)], pruned[int(uniform(state) * pruned.size)]
            for a in range(residual.size):
                without[a] = residual[a] - columns[i, a]
            total += abs(linear[j] - linear[i] + dot(columns[j], without) - dot(columns[i], without))
    return total / (masks * swaps)


@compiled()
def shuffled(order: IndexArray, state: State) -> None:
    """All positions in a uniformly random order."""
    shuffle(order, state)
