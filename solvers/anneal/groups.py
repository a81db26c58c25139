"""Compiled simulated annealing by swaps within the groups of a quota: no group's count changes.

The moves are those of prunebench.solvers.anneal.dense and factor, except that the run of pruned
weights compared with a kept one comes from its own group. Kept and pruned positions are sorted by
group, and swaps preserve that layout.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.keeping import Counted
from prunebench.kernels.compiled import compiled
from prunebench.solvers.anneal.dense import RUN, State, uniform
from prunebench.solvers.anneal.factor import dot, residual_of


@compiled()
def drawn(state: State) -> float:
    """A number in (0, 1), for Python."""
    return uniform(state)


@dataclass(frozen=True)
class Layout:
    """The ranges of a quota's groups among the kept and among the pruned positions.

    order : int64 (p,)           positions sorted by group;  offsets, kept_at, pruned_at : int64 (g + 1,)
    group : int64 (keep,)        the group of each kept place
    places : int64               the kept places whose group has both kept and pruned weights
    """

    order: IndexArray
    offsets: IndexArray
    kept_at: IndexArray
    pruned_at: IndexArray
    group: IndexArray
    places: IndexArray

    @staticmethod
    def of(quota: Counted) -> "Layout":
        """The layout of a quota with more than one feasible mask."""
        pruned = quota.sizes - quota.counts
        group = np.repeat(np.arange(quota.counts.size), quota.counts)
        starts = [np.concatenate(([0], np.cumsum(part))).astype(np.int64) for part in (quota.counts, pruned)]
        places = np.flatnonzero(pruned[group] > 0)
        return Layout(np.array(quota.order), quota.offsets, starts[0], starts[1], group, places)

    def shuffled(self, state: State) -> tuple[IndexArray, IndexArray]:
        """Kept and pruned positions of a uniformly random mask within the quota."""
        kept, pruned = np.empty(self.kept_at[-1], np.int64), np.empty(self.pruned_at[-1], np.int64)
        shuffle(np.array(self.order), self.offsets, self.kept_at, self.pruned_at, kept, pruned, state)
        return kept, pruned

    def at(self, kept: IndexArray, pruned: IndexArray) -> "Split":
        """Kept and pruned positions, sorted by group, in the form that the sweeps take."""
        return Split(kept, pruned, self.group, self.places, self.pruned_at)

    def split(self, mask: BoolArray) -> tuple[IndexArray, IndexArray]:
        """Kept and pruned positions of a mask within the quota."""
        inside = mask[self.order]
        return self.order[inside], self.order[~inside]


@compiled()
def shuffle(
    mixed: IndexArray,
    offsets: IndexArray,
    kept_at: IndexArray,
    pruned_at: IndexArray,
    kept: IndexArray,
    pruned: IndexArray,
    state: State,
) -> None:
    """Write a uniformly random split of every group into kept and pruned (Fisher-Yates).

    mixed : int64 (p,), positions sorted by group; overwritten
    """
    for g in range(offsets.size - 1):
        first = offsets[g]
        for i in range(offsets[g + 1] - first - 1, 0, -1):
            j = int(uniform(state) * (i + 1))
            mixed[first + i], mixed[first + j] = mixed[first + j], mixed[first + i]
        count = kept_at[g + 1] - kept_at[g]
        for x in range(count):
            kept[kept_at[g] + x] = mixed[first + x]
        for y in range(pruned_at[g + 1] - pruned_at[g]):
            pruned[pruned_at[g] + y] = mixed[first + count + y]


class Split(NamedTuple):
    """A mask within a quota, with the ranges of its groups.

    kept, pruned : int64 (keep,), (p − keep,)   positions, sorted by group; changed in place
    group, places, pruned_at                    as in Layout
    """

    kept: IndexArray
    pruned: IndexArray
    group: IndexArray
    places: IndexArray
    pruned_at: IndexArray


@compiled()
def sweeps(couplings: FloatArray, fields: FloatArray, split: Split, temperatures: FloatArray, state: State) -> None:
    """One sweep, p proposals, at each temperature, on dense couplings; the read's state is changed in place."""
    kept, pruned, group, places, pruned_at = split
    size = fields.size
    for t in range(temperatures.size):
        proposed = 0
        while proposed < size:
            x = places[int(uniform(state) * places.size)]
            first, last = pruned_at[group[x]], pruned_at[group[x] + 1]
            run = min(RUN, last - first)
            y = first + int(uniform(state) * (last - first))
            i = kept[x]
            row = couplings[i]
            threshold = fields[i] - temperatures[t] * math.log(uniform(state))
            proposed += run
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
                if y == last:
                    y = first


@compiled()
def factor_sweeps(
    columns: FloatArray,
    linear: FloatArray,
    residual: FloatArray,
    without: FloatArray,
    split: Split,
    temperatures: FloatArray,
    state: State,
) -> None:
    """The same on the factor's scaled columns, float64 (p, n); residual : r (n,) of the mask; without (n,): scratch."""
    kept, pruned, group, places, pruned_at = split
    size = linear.size
    for t in range(temperatures.size):
        proposed = 0
        while proposed < size:
            x = places[int(uniform(state) * places.size)]
            first, last = pruned_at[group[x]], pruned_at[group[x] + 1]
            run = min(RUN, last - first)
            y = first + int(uniform(state) * (last - first))
            i = kept[x]
            column = columns[i]
            for a in range(residual.size):
                without[a] = residual[a] - column[a]
            threshold = linear[i] + dot(column, without) - temperatures[t] * math.log(uniform(state))
            proposed += run
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
                if y == last:
                    y = first


def swap_sizes(
    couplings: FloatArray, linear: FloatArray, layout: Layout, masks: int, swaps: int, state: State
) -> float:
    """The mean |change of E| of random swaps within groups at random masks: the unit of temperature."""
    total = 0.0
    for _ in range(masks):
        kept, pruned = layout.shuffled(state)
        fields = linear + couplings[kept].sum(axis=0)
        for _ in range(swaps):
            i, j = _pair(layout, kept, pruned, state)
            total += abs(fields[j] - fields[i] - couplings[i, j])
    return float(total / (masks * swaps))


def factor_swap_sizes(
    columns: FloatArray, linear: FloatArray, layout: Layout, masks: int, swaps: int, state: State
) -> float:
    """The same on the factor's scaled columns."""
    residual, total = np.empty(columns.shape[1]), 0.0
    for _ in range(masks):
        kept, pruned = layout.shuffled(state)
        residual_of(columns, linear, kept, residual)
        for _ in range(swaps):
            i, j = _pair(layout, kept, pruned, state)
            without = residual - columns[i]
            total += abs(linear[j] - linear[i] + (columns[j] - columns[i]) @ without)
    return float(total / (masks * swaps))


def _pair(layout: Layout, kept: IndexArray, pruned: IndexArray, state: State) -> tuple[int, int]:
    """A random kept weight and a random pruned one of its group."""
    place = layout.places[int(drawn(state) * layout.places.size)]
    first, last = layout.pruned_at[layout.group[place]], layout.pruned_at[layout.group[place] + 1]
    return int(kept[place]), int(pruned[first + int(drawn(state) * (last - first))])
