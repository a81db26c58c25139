"""Constraints on how many weights are kept, in total or in each of several disjoint groups.

A quota's groups are rows, layers, or M consecutive weights of which N are kept. Budgets of costs: `core.cost`.

N:M groups: Zhou et al.: Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch,
ICLR 2021 (2:4 keeps 2 of every 4 consecutive weights). Equal counts in every output row: Sun et al.,
A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024, §3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, frozen, numeric, whole_number
from prunebench.core.constraint import MaskConstraint
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, keep_per_layer, top_mask, top_of_each

Groups = Sequence[tuple[npt.ArrayLike, int]]
"""((indices, count), …): each group's weights and how many of them are kept."""

PIECE = 1 << 18
"""Groups of a large quota that are looked at together: 2 MiB of counts."""
HELD = 1 << 20
"""Up to this many weights (8 MiB) the group of each is kept once it has been made; of more it is made each time."""

FEW_GROUPS = 16
"""Up to this many groups are ranked one by one, more of them all at once."""


@dataclass(frozen=True)
class Count:
    """Σ m = keep, exactly. It has the interface of a quota with one group.

    Raises
    ------
    InvalidInput   no weights, or a keep count outside 0 to p
    """

    p: int
    keep: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", whole_number("p", self.p, 1))
        object.__setattr__(self, "keep", whole_number("keep", self.keep, 0))
        if self.keep > self.p:
            raise InvalidInput(f"keep is {self.keep} but there are {self.p} weights; choose 0 to {self.p}")

    @property
    def most(self) -> int:
        """`keep`."""
        return self.keep

    @property
    def settled(self) -> bool:
        """Whether no weight or every weight is kept."""
        return self.keep in (0, self.p)

    @property
    def mask_count(self) -> int:
        """p choose keep."""
        return math.comb(self.p, self.keep)

    @property
    def shares(self) -> FloatArray:
        """keep / p, for every weight. float64 (p,)"""
        return np.full(self.p, self.keep / self.p)

    def violation(self, mask: BoolArray) -> str:
        """How many weights a mask keeps if that is not `keep`; "" otherwise."""
        kept = int(np.count_nonzero(mask))
        return "" if kept == self.keep else f"keeps {kept} weights; its quota is exactly {self.keep}"

    def feasible(self, mask: BoolArray) -> bool:
        """Whether a mask keeps `keep` weights. bool (p,)"""
        return not self.violation(mask)

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """True at the `keep` highest scores; ties go to the lower position. (p,) -> (p,)"""
        return top_mask(scores, self.keep)

    def repair(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """Drop the lowest scores of the mask, or add the highest outside, until `keep` are kept. (p,), (p,)"""
        out_of_question = (~mask, -np.inf) if np.count_nonzero(mask) > self.keep else (mask, np.inf)
        return top_mask(np.where(*out_of_question, scores), self.keep)

    def ranked(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """All kept weights by rising cost, and all pruned ones by falling worth. -> int64, int64"""
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        return kept[np.argsort(cost[kept], kind="stable")], pruned[np.argsort(-worth[pruned], kind="stable")]

    def exchanges(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Pairs of the r-th cheapest kept and the r-th most useful pruned weight. -> int64 (e,), int64 (e,)"""
        kept, pruned = self.ranked(mask, cost, worth)
        pairs = min(kept.size, pruned.size)
        return kept[:pairs], pruned[:pairs]

    def packs(self, size: int) -> list[IndexArray]:
        """All positions as one pack: one group cannot be divided."""
        return [self.order]

    def grouped(self, indices: IndexArray) -> tuple[IndexArray, None]:
        """`indices` unchanged, and no ranges, since swaps are not confined to groups."""
        return indices, None

    def grown(self, factor: float) -> "Count":
        """The count multiplied by `factor`, at most p."""
        return Count(self.p, min(self.p, round(factor * self.keep)))

    def totals(self, values: FloatArray) -> FloatArray:
        """The sum of all values. float64 (p,) -> float64 (1,)"""
        return np.array([values.sum()])

    def spread(self, values: FloatArray) -> FloatArray:
        """The one group's value, (1,), which numpy broadcasts to all weights. (1,) -> (1,)"""
        return values

    @property
    def quota(self) -> None:
        """None: there are no groups with counts of their own."""
        return

    @property
    def run(self) -> int:
        """`p`: the one group is a run of that length."""
        return self.p

    @property
    def group(self) -> IndexArray:
        """The group of every weight: 0. int64 (p,)"""
        return np.zeros(self.p, dtype=np.int64)

    @property
    def counts(self) -> IndexArray:
        """`keep`. int64 (1,)"""
        return np.array([self.keep])

    @property
    def sizes(self) -> IndexArray:
        """`p`. int64 (1,)"""
        return np.array([self.p])

    @property
    def order(self) -> IndexArray:
        """All positions. int64 (p,)"""
        return np.arange(self.p)

    @property
    def offsets(self) -> IndexArray:
        """0 and p: the range of the one group. int64 (2,)"""
        return np.array([0, self.p])

    @property
    def one_count(self) -> bool:
        """True: any kept weight may be exchanged with any pruned one."""
        return True

    @property
    def ranges(self) -> tuple[None, None]:
        """None, None: swaps need not stay within groups."""
        return None, None

    def groups(self) -> list[tuple[IndexArray, int]]:
        """All positions and `keep`."""
        return [(self.order, self.keep)]

    def kept_of(self, mask: BoolArray) -> IndexArray:
        """How many weights a mask keeps. bool (p,) -> int64 (1,)"""
        return np.array([np.count_nonzero(mask)])

    def with_counts(self, counts: IndexArray) -> "Count":
        """The constraint on the same weights with another count. int64 (1,)"""
        return Count(self.p, int(counts[0]))

    def within(self, indices: IndexArray, mask: BoolArray) -> "Count":
        """The count for the weights `indices` if all others are fixed as in `mask` (p,)."""
        return Count(indices.size, int(np.count_nonzero(mask[indices])))


@dataclass(frozen=True, eq=False, init=False)
class Quota:
    """A partition of the weights with a count for each group: Σ of m over group g = counts[g], exactly.

    group : int64 (p,)     the group of every weight; renumbered by first appearance
    counts : int64 (g,)    how many weights each group keeps, 0 to its size

    Memory and all operations are O(p), or O(p log p) for ranking, whatever the number of groups. Groups that follow
    each other in runs of one length (rows, N of every M) are known by that length: no array of p numbers is held.

    Raises
    ------
    InvalidInput   wrong shapes, a group without weights, a count below 0 or above the group's size
    """

    counts: IndexArray
    p: int
    """How many weights there are."""
    run: int
    """The length of each group, where the groups are runs of one length one after another; else 0."""
    _group: IndexArray | None = field(repr=False)
    """The group of every weight, where that is not said by `run`."""

    def __init__(self, group: npt.ArrayLike, counts: npt.ArrayLike) -> None:
        group, counts = _whole("group", group), _whole("counts", counts)
        if group.size == 0 or counts.size == 0:
            raise InvalidInput("the quota is empty; give the group of every weight and a count for every group")
        if group.min() < 0 or group.max() >= counts.size:
            at = int(np.flatnonzero((group < 0) | (group >= counts.size))[0])
            raise InvalidInput(
                f"the quota puts weight {at} into group {group[at]} but has counts for groups 0 to {counts.size - 1}"
            )
        sizes = np.bincount(group, minlength=counts.size)
        _require_counts(counts, sizes)
        run = int(sizes[0]) if sizes.min() == sizes.max() else 0
        if run and bool((group.reshape(-1, run) == np.arange(counts.size)[:, None]).all()):
            self._hold(counts, int(group.size), run, None)
            return
        _, first_seen = np.unique(group, return_index=True)
        order = np.argsort(first_seen)
        renumbered = np.empty(counts.size, dtype=np.int64)
        renumbered[order] = np.arange(counts.size)
        group, counts = renumbered[group], counts[order]
        run = run if run and bool((group.reshape(-1, run) == np.arange(counts.size)[:, None]).all()) else 0
        self._hold(counts, int(group.size), run, None if run else group)

    def _hold(self, counts: IndexArray, p: int, run: int, group: IndexArray | None) -> None:
        held = None if group is None else frozen(group)
        for name, value in (("counts", frozen(counts)), ("p", p), ("run", run), ("_group", held)):
            object.__setattr__(self, name, value)

    @staticmethod
    def runs(length: int, counts: npt.ArrayLike) -> "Quota":
        """Groups of `length` weights each, one after another. counts : int64 (g,)

        Raises
        ------
        InvalidInput   no groups, or a count below 0 or above the length
        """
        length, kept = whole_number("length", length, 1), _whole("counts", counts)
        if kept.size == 0:
            raise InvalidInput("the quota is empty; give a count for every group")
        _require_counts(kept, np.broadcast_to(np.int64(length), kept.shape))
        out = object.__new__(Quota)
        out._hold(kept, length * kept.size, length, None)
        return out

    @staticmethod
    def of(p: int, groups: Groups) -> "Quota":
        """The quota of ((indices, count), …) over p weights; every weight is in exactly one group.

        Raises
        ------
        InvalidInput   naming the group: a position outside 0 to p − 1, a repeated or missing one
        """
        try:
            pairs = list(groups)
        except TypeError as error:
            raise InvalidInput(f"the quota is {groups!r}; give ((indices, count), …) that cover all weights") from error
        if not pairs:
            raise InvalidInput("the quota is empty; give ((indices, count), …) that cover all weights")
        group = np.full(p, -1, dtype=np.int64)
        counts = np.empty(len(pairs), dtype=np.int64)
        for number, pair in enumerate(pairs):
            try:
                indices, count = pair
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"the quota's group {number} is {pair!r}; expected (indices, count)") from error
            positions = _whole(f"group {number}'s indices", indices)
            if positions.size and (positions.min() < 0 or positions.max() >= p):
                raise InvalidInput(
                    f"the quota's group {number} holds the position "
                    f"{positions[(positions < 0) | (positions >= p)][0]}; the block has weights 0 to {p - 1}"
                )
            taken = positions[group[positions] >= 0]
            if taken.size:
                raise InvalidInput(
                    f"the quota has weight {taken[0]} in group {group[taken[0]]} and in group {number}; "
                    "groups must not share weights"
                )
            if np.unique(positions).size != positions.size:
                raise InvalidInput(f"the quota's group {number} holds a position twice")
            group[positions] = number
            if np.ndim(count) or np.asarray(count).dtype.kind not in "iu":
                raise InvalidInput(f"the quota's group {number} keeps {count!r}; expected a whole number")
            counts[number] = count
        missing = np.flatnonzero(group < 0)
        if missing.size:
            raise InvalidInput(
                f"the quota leaves {missing.size} weights in no group, the first is {missing[0]}; "
                "add a group that holds them"
            )
        return Quota(group, counts)

    @staticmethod
    def rows(rows: int, columns: int, density: float) -> "Quota":
        """One group per row of a (rows, columns) layer in row-major order, each keeping round(density·columns)."""
        rows, columns = whole_number("rows", rows, 1), whole_number("columns", columns, 1)
        count = keep_count(density, columns, "a row")
        return Quota.runs(columns, np.full(rows, count, dtype=np.int64))

    @staticmethod
    def n_m(p: int, n: int, m: int) -> "Quota":
        """`n` of every `m` consecutive weights are kept; p must be a multiple of m.

        In a row-major layer with row length a multiple of m, the groups run along the inputs.
        """
        n, m, p = whole_number("n", n, 0), whole_number("m", m, 0), whole_number("p", p, 0)
        if not 0 <= n <= m or m < 1:
            raise InvalidInput(f"{n}:{m} is no pattern; N of every M are kept, with 0 <= N <= M")
        if p < 1 or p % m:
            raise InvalidInput(f"{n}:{m} needs a multiple of {m} weights but there are {p}; choose {p // m * m or m}")
        if p <= HELD:
            return Quota.runs(m, np.full(p // m, n, dtype=np.int64))
        # one number for all groups
        out = object.__new__(Quota)
        out._hold(np.broadcast_to(np.int64(n), (p // m,)), p, m, None)
        return out

    @staticmethod
    def layers(layer: npt.ArrayLike, density: float) -> "Quota":
        """One group per layer, all at the same density; the total is round(density·p), shared by largest remainder.

        layer : str (p,), the layer of each weight
        """
        names = np.asarray(layer, dtype=np.str_)
        if names.ndim != 1 or names.size == 0:
            raise InvalidInput(f"layer has shape {names.shape}; expected (p,), one name a weight")
        _, first, group = np.unique(names, return_index=True, return_inverse=True)
        seen = np.empty(first.size, dtype=np.int64)
        seen[np.argsort(first)] = np.arange(first.size)
        group = seen[group]
        return Quota(group, keep_per_layer(density, [int(size) for size in np.bincount(group)]))

    @property
    def group(self) -> IndexArray:
        """The group of every weight. int64 (p,)"""
        if self._group is not None:
            return self._group
        if self.p > HELD:
            return np.asarray(frozen(np.repeat(np.arange(self.counts.size), self.run)))
        return self._small_group

    @cached_property
    def _small_group(self) -> IndexArray:
        return np.asarray(frozen(np.repeat(np.arange(self.counts.size), self.run)))

    @property
    def keep(self) -> int:
        """How many weights are kept in all."""
        return int(self.counts.sum())

    @cached_property
    def sizes(self) -> IndexArray:
        """How many weights each group has. int64 (g,)"""
        if self.run:
            # small quotas go into compiled loops, which take plain arrays
            small = self.p <= HELD
            return np.full(self.counts.size, self.run) if small else np.broadcast_to(self.run, self.counts.shape)
        return np.bincount(self.group, minlength=self.counts.size).astype(np.int64)

    @cached_property
    def order(self) -> IndexArray:
        """All positions, group by group, in ascending order within each. int64 (p,)"""
        return np.arange(self.p) if self.run else np.argsort(self.group, kind="stable").astype(np.int64)

    @cached_property
    def offsets(self) -> IndexArray:
        """Group g is `order[offsets[g]:offsets[g + 1]]`. int64 (g + 1,)"""
        return np.concatenate(([0], np.cumsum(self.sizes))).astype(np.int64)

    @cached_property
    def shares(self) -> FloatArray:
        """The share of its group that is kept, for every weight. float64 (p,)"""
        return np.asarray((self.counts / self.sizes)[self.group])

    @property
    def quota(self) -> "Quota":
        """This quota; a Count has None."""
        return self

    @property
    def most(self) -> int:
        """`keep`."""
        return self.keep

    @property
    def settled(self) -> bool:
        """Whether only one mask is feasible: every group keeps none or all."""
        return bool(((self.counts == 0) | (self.counts == self.sizes)).all())

    @cached_property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly."""
        return math.prod(math.comb(int(size), int(count)) for size, count in zip(self.sizes, self.counts, strict=True))

    def totals(self, values: FloatArray) -> FloatArray:
        """The sum of each group's values. float64 (p,) -> float64 (g,)"""
        return np.asarray(np.bincount(self.group, values, minlength=self.counts.size), dtype=np.float64)

    def spread(self, values: FloatArray) -> FloatArray:
        """Each group's value for each of its weights. (g,) -> (p,)"""
        return np.asarray(values[self.group])

    @property
    def one_count(self) -> bool:
        """Whether there is one group, so that any kept weight may be exchanged with any pruned one."""
        return self.counts.size == 1

    @property
    def ranges(self) -> tuple[IndexArray, IndexArray]:
        """Order and offsets, for a search that swaps within groups."""
        return self.order, self.offsets

    def groups(self) -> list[tuple[IndexArray, int]]:
        """The positions of each group, ascending, and its count."""
        return [(self.members(number), count) for number, count in enumerate(self.counts.tolist())]

    def members(self, number: int) -> IndexArray:
        """The positions of one group, ascending."""
        if self.run:
            return np.arange(number * self.run, (number + 1) * self.run)
        return np.asarray(self.order[self.offsets[number] : self.offsets[number + 1]])

    def feasible(self, mask: BoolArray) -> bool:
        """Whether a mask keeps each group's count. bool (p,)"""
        return not self.violation(mask)

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """True at each group's highest scores, as many as its count; ties go to the lower position. (p,) -> (p,)"""
        if self.run:
            return top_of_each(np.asarray(scores).reshape(-1, self.run), self.counts).reshape(-1)
        ordered = np.asarray(scores, dtype=np.float64)[self.order]
        inside = np.zeros(self.p, dtype=np.bool_)
        groups = self.counts.size
        if groups <= FEW_GROUPS:
            for number in range(groups):
                part = slice(self.offsets[number], self.offsets[number + 1])
                inside[part] = top_mask(ordered[part], int(self.counts[number]))
        elif self.sizes.min() == self.sizes.max():
            inside = top_of_each(ordered.reshape(groups, -1), self.counts).reshape(-1)
        else:
            of = self.group[self.order]
            best_first = np.lexsort((-ordered, of))
            inside[best_first] = np.arange(self.p) - self.offsets[of] < self.counts[of]
        mask = np.zeros(self.p, dtype=np.bool_)
        mask[self.order] = inside
        return mask

    def repair(self, mask: BoolArray, scores: FloatArray) -> BoolArray:
        """In each group, drop the lowest scores of the mask or add the highest outside. (p,), (p,) -> (p,)"""
        over = (self.kept_of(mask) > self.counts)[self.group]
        return self.top_mask(np.where(mask & ~over, np.inf, np.where(~mask & over, -np.inf, scores)))

    def kept_of(self, mask: BoolArray) -> IndexArray:
        """How many weights a mask keeps in each group. bool (p,) -> int64 (g,)"""
        if self.run:
            return np.asarray(mask.reshape(-1, self.run).sum(axis=1, dtype=np.int64))
        return np.bincount(self.group[mask], minlength=self.counts.size).astype(np.int64)

    def violation(self, mask: BoolArray) -> str:
        """How a mask breaks the quota, naming the first group at fault; "" if it is feasible."""
        wrong = self._wrong(mask)
        if wrong is None:
            return ""
        first, kept = wrong
        return (
            f"keeps {kept} weights of group {first} (the one of weight {self.members(first)[0]}); "
            f"its quota is exactly {self.counts[first]} of {self.sizes[first]}"
        )

    def _wrong(self, mask: BoolArray) -> tuple[int, int] | None:
        """The first group at fault, and how many weights a mask keeps in it; of runs some at a time, without arrays."""
        step = PIECE if self.run else self.counts.size
        for start in range(0, self.counts.size, step):
            part = slice(start, start + step)
            kept = self.kept_of(mask[start * self.run : (start + step) * self.run] if self.run else mask)
            wrong = np.flatnonzero(kept != self.counts[part])
            if wrong.size:
                return start + int(wrong[0]), int(kept[wrong[0]])
        return None

    def with_counts(self, counts: IndexArray) -> "Quota":
        """The same groups with other counts. int64 (g,)"""
        return Quota.runs(self.run, counts) if self.run else Quota(self.group, counts)

    def grown(self, factor: float) -> "Quota":
        """The same groups with counts multiplied by `factor`, each at most its group's size."""
        return self.with_counts(np.minimum(self.sizes, np.rint(factor * self.counts).astype(np.int64)))

    def exchanges(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """Disjoint pairs (leaving, entering), each within one group, the largest worth − cost first.

        Within a group the r-th cheapest kept weight is paired with the r-th most useful pruned one.
        bool (p,), (p,), (p,) -> int64 (e,), int64 (e,)
        """
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        kept = kept[np.lexsort((cost[kept], self.group[kept]))]
        pruned = pruned[np.lexsort((-worth[pruned], self.group[pruned]))]
        groups = self.counts.size
        held = np.bincount(self.group[kept], minlength=groups)
        open_ = np.bincount(self.group[pruned], minlength=groups)
        pairs = np.minimum(held, open_)
        kept = kept[_ranks(held) < np.repeat(pairs, held)]
        pruned = pruned[_ranks(open_) < np.repeat(pairs, open_)]
        best_first = np.argsort(cost[kept] - worth[pruned], kind="stable")
        return kept[best_first], pruned[best_first]

    def ranked(self, mask: BoolArray, cost: FloatArray, worth: FloatArray) -> tuple[IndexArray, IndexArray]:
        """The leaving and the entering weights of `exchanges`. -> int64, int64"""
        return self.exchanges(mask, cost, worth)

    def packs(self, size: int) -> list[IndexArray]:
        """Packs of whole groups, of at most `size` weights where possible; packs with one feasible mask are omitted."""
        out, first = [], 0
        movable = (self.counts > 0) & (self.counts < self.sizes)
        for number in range(1, self.counts.size + 1):
            last = number == self.counts.size
            if last or self.offsets[number + 1] - self.offsets[first] > size:
                if movable[first:number].any():
                    out.append(np.asarray(self.order[self.offsets[first] : self.offsets[number]]))
                first = number
        return out

    def grouped(self, indices: IndexArray) -> tuple[IndexArray, IndexArray]:
        """`indices` sorted by group, and the offsets of each group's range. (b,), (g + 1,)"""
        ordered = indices[np.argsort(self.group[indices], kind="stable")]
        breaks = np.flatnonzero(np.diff(self.group[ordered])) + 1
        return ordered, np.concatenate(([0], breaks, [ordered.size])).astype(np.int64)

    def within(self, indices: IndexArray, mask: BoolArray) -> "Quota":
        """The quota for the weights `indices` if all others are fixed as in `mask` (p,)."""
        _, group = np.unique(self.group[indices], return_inverse=True)
        return Quota(group, np.bincount(group, weights=mask[indices]).astype(np.int64))


Counted = Count | Quota
"""The constraints that a block problem takes: exact counts, in total or by group."""
Keeping = Count | Quota | Cost
"""All constraints on masks."""
KINDS: tuple[type[MaskConstraint], ...] = (Count, Quota, Cost)
"""The classes of `Keeping`; the type checks that each implements `MaskConstraint`."""


def _require_counts(counts: IndexArray, sizes: IndexArray) -> None:
    """Raise InvalidInput, naming the group, unless every group has weights and a count that it can keep."""
    bad = np.flatnonzero((counts < 0) | (counts > sizes) | (sizes == 0))
    if bad.size == 0:
        return
    first = int(bad[0])
    if sizes[first] == 0:
        raise InvalidInput(f"the quota's group {first} has no weights; leave it out")
    raise InvalidInput(
        f"the quota's group {first} keeps {counts[first]} but has {sizes[first]} weights; choose 0 to {sizes[first]}"
    )


def _ranks(sizes: IndexArray) -> IndexArray:
    """0, 1, … within each run of the given sizes."""
    starts = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(int(sizes.sum())) - np.repeat(starts, sizes))


def _whole(name: str, value: npt.ArrayLike) -> IndexArray:
    array = numeric(f"the quota's {name}", value)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InvalidInput(
            f"the quota's {name} has dtype {array.dtype} and shape {array.shape}; expected whole numbers in a row"
        )
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidInput(f"the quota's {name} holds {array.max()}; expected numbers up to {np.iinfo(np.int64).max}")
    return array.astype(np.int64)
