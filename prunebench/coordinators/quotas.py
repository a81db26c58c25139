"""A network's exact counts, by name: one in total, one per layer, one per row, or N of every M along the inputs."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput, PrunebenchError, SolverRefused, unknown_name
from prunebench.core.keeping import Count, Counted, Quota
from prunebench.core.masks import keep_count, keep_per_layer, top_mask
from prunebench.core.registry import SOLVERS
from prunebench.core.solver import facts

UNITS = ("layer", "row")
"""The named quotas; every other one is N:M."""

Scores = Callable[[IndexArray], FloatArray]
"""Scores of the given weights, high = worth keeping. int64 (b,) -> float64 (b,)"""


@dataclass(frozen=True)
class QuotaKind:
    """Which weights share an exact count: a network's, a layer's, an output row's, or every M in a row.

    text : "network", "layer", "row" or "N:M"
    kept, size : N and M, 0 for the others
    """

    text: str
    kept: int = 0
    size: int = 0

    @staticmethod
    def parse(text: str | None) -> "QuotaKind":
        """The kind from a user's text; None is one count for the network.

        Raises
        ------
        UnknownName    a name other than layer, row or N:M
        InvalidInput   N:M with N above M or M below 1
        """
        if text is None:
            return NETWORK
        if text in UNITS:
            return QuotaKind(text)
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None:
            raise unknown_name("quota", text, [*UNITS, "2:4"], "(or any N:M)")
        kept, size = int(found[1]), int(found[2])
        if not 0 < kept <= size:
            raise InvalidInput(f"quota {text} is no pattern; N of every M are kept, with 1 <= N <= M")
        return QuotaKind(text, kept, size)

    def __str__(self) -> str:
        return self.text

    @property
    def grouped(self) -> bool:
        """Whether there are groups: true for all but the network's single count."""
        return self.text != "network"

    @property
    def is_pattern(self) -> bool:
        """Whether it is N:M."""
        return self.size > 0

    @property
    def density(self) -> float | None:
        """The only possible density: N/M, or None for the other kinds."""
        return self.kept / self.size if self.is_pattern else None

    def require_density(self, density: float) -> None:
        """Raise InvalidInput if it is N:M and the requested density is not N/M."""
        if self.density is not None and abs(density - self.density) > 1e-9:
            raise InvalidInput(
                f"quota {self} keeps {self.density:g} of the weights but density is {density:g}; "
                f"say --density {self.density:g}"
            )

    def keep_of(self, size: int, density: float | None, keep: int | None) -> int:
        """How many of `size` weights are kept, by density, by count, or by N:M.

        Raises
        ------
        InvalidInput   neither or both of density and keep, a size that is not a multiple of M, or a count
                       that contradicts N:M
        """
        if density is not None and keep is not None:
            raise InvalidInput("give either density or keep, not both")
        if density is not None:
            keep = keep_count(density, size, "the block")
        if not self.is_pattern:
            if keep is None:
                raise InvalidInput("give either density or keep")
            return keep
        if size % self.size:
            raise InvalidInput(f"quota {self} needs whole groups of {self.size} and size is {size}; choose a multiple")
        count = size // self.size * self.kept
        if keep is not None and keep != count:
            raise InvalidInput(
                f"quota {self} keeps {count} of {size} weights, not {keep}: "
                f"choose density {self.density:g} or leave it out"
            )
        return count

    def on_the_way(self, density: float) -> tuple["QuotaKind", float]:
        """Kind and density of an intermediate stage with `density`: for N:M, the least count of M that reaches it."""
        if not self.is_pattern:
            return self, density
        kept = max(self.kept, math.ceil(density * self.size - 1e-9))
        return QuotaKind(f"{kept}:{self.size}", kept, self.size), kept / self.size

    def length(self, layer: Any) -> int:
        """Group length: how many consecutive weights of a layer (with start, stop and shape) form a group."""
        return self.size or (fan_in(layer) if self.text == "row" else int(layer.stop - layer.start))

    def counts(self, keep: int, groups: int) -> IndexArray:
        """The count of each group in a layer that keeps `keep`; remainders go to the first groups. int64 (groups,)"""
        return np.full(groups, self.kept, dtype=np.int64) if self.is_pattern else even(keep, groups)

    def of_stretch(self, size: int, keep: int) -> Counted:
        """The constraint on `size` consecutive weights of a row, or whole groups of M, that keep `keep` in total."""
        return Quota.n_m(size, self.kept, self.size) if self.is_pattern else Count(size, keep)

    def of_layer(self, layer: Any, keep: int) -> Counted:
        """The constraint on a layer (with start, stop and shape) that keeps `keep` weights."""
        size, length = int(layer.stop - layer.start), self.length(layer)
        if length == size:
            return Count(size, keep)
        return Quota.runs(length, self.counts(keep, size // length))

    def of_block(self, layers: Sequence[Any], indices: IndexArray, keep: int) -> Counted:
        """The constraint on the weights `indices` of a network: equal shares, exact in total by largest remainder."""
        if self.is_pattern or not self.grouped:
            return self.of_stretch(indices.size, keep)
        _, group = np.unique(self.keys(layers, indices), return_inverse=True)
        sizes = np.bincount(group)
        return Quota(group, keep_per_layer(keep / indices.size, sizes.tolist()) if keep else np.zeros_like(sizes))

    def keys(self, layers: Sequence[Any], indices: IndexArray) -> IndexArray:
        """The first weight of each given weight's group. Groups are ranges, so keys ascend with the indices.

        int64 (b,) -> int64 (b,)
        """
        starts = np.array([layer.start for layer in layers])
        at = np.searchsorted(starts, indices, side="right") - 1
        length = np.array([self.length(layer) for layer in layers])[at]
        return np.asarray(starts[at] + (indices - starts[at]) // length * length)

    def starts(self, layers: Sequence[Any]) -> IndexArray:
        """The first weights of all groups of M along the inputs of a network's layers. int64 (groups,)

        layers : with start, stop and shape; one whose row length is not a multiple of M has no groups

        Raises
        ------
        InvalidInput   no layer has such rows
        """
        fitting = [layer for layer in layers if fan_in(layer) % self.size == 0]
        if not fitting:
            lengths = ", ".join(str(fan_in(layer)) for layer in layers)
            raise InvalidInput(
                f"no layer has rows of a multiple of {self.size} weights (they have {lengths}); choose another M"
            )
        return np.concatenate([np.arange(layer.start, layer.stop, self.size, dtype=np.int64) for layer in fitting])

    def require_fit(self, layers: Sequence[Any]) -> None:
        """Raise InvalidInput, naming the layer, if a layer's row length is not a multiple of M."""
        for layer in layers:
            if self.is_pattern and fan_in(layer) % self.size:
                raise InvalidInput(
                    f"quota {self}: layer {layer.name!r} has {fan_in(layer)} inputs, no multiple of {self.size}; "
                    "leave the layer out of the prunable parameters, or use --quota row"
                )


NETWORK = QuotaKind("network")
"""One count for the whole network: the default without a quota."""


def fan_in(layer: Any) -> int:
    """How many weights one output of a layer has."""
    return max(1, int(layer.stop - layer.start) // int(layer.shape[0]))


def even(total: int, parts: int) -> IndexArray:
    """`total` as `parts` counts that differ by at most one, larger ones first. int64 (parts,)"""
    counts = np.full(parts, total // parts, dtype=np.int64)
    counts[: total % parts] += 1
    return counts


def require_honoured(solver: Any, kind: QuotaKind, remedy: str) -> None:
    """Raise SolverRefused, naming the solver, if there is a quota and it does not take quotas."""
    if facts(solver).quotas or not kind.grouped:
        return
    able = ", ".join(name for name in SOLVERS.names() if facts(SOLVERS.get(name)).quotas)
    raise SolverRefused(
        f"solver {solver.name!r} does not honour quotas, so it cannot keep {kind}; {remedy}, or choose one of {able}"
    )


@dataclass(frozen=True)
class NetworkCount:
    """How many weights a network keeps in total; has the interface of `NetworkQuota`."""

    total: int
    keep: int
    keys: ClassVar[None] = None
    """No groups: any two weights may be exchanged."""

    def top_mask(self, scores: Scores) -> BoolArray:
        """True at the highest scores. bool (p,)"""
        return top_mask(scores(np.arange(self.total)), self.keep)

    def within(self, indices: IndexArray, mask: BoolArray) -> Count:
        """The count of a block: as many weights as `mask` keeps now. int64 (b,), bool (b,)"""
        return Count(indices.size, int(mask.sum()))

    def whole(self) -> Count:
        """The constraint on all weights as one block."""
        return Count(self.total, self.keep)

    def violation(self, mask: BoolArray) -> str:
        """How a mask breaks the count; "" if it does not. bool (p,)"""
        return self.whole().violation(mask)

    def require(self, mask: BoolArray) -> None:
        """Raise PrunebenchError unless a mask keeps the count exactly. bool (p,)"""
        if broken := self.violation(mask):
            raise PrunebenchError(f"the mask {broken}; please report this")


@dataclass(frozen=True)
class NetworkQuota:
    """How many weights each group of a network keeps, stored without arrays of the network's size.

    kind : of layers, rows or N:M;  layers : with name, start, stop and shape;
    counts : int64 (layers,), each layer's total count
    """

    kind: QuotaKind
    layers: Sequence[Any]
    counts: IndexArray

    @staticmethod
    def of(kind: QuotaKind, layers: Sequence[Any], density: float) -> "NetworkQuota":
        """Each layer at the same density, by largest remainder.

        Raises
        ------
        InvalidInput   N:M is not the density, or does not fit the rows of a layer
        """
        kind.require_density(density)
        kind.require_fit(layers)
        return NetworkQuota(kind, layers, keep_per_layer(density, [layer.stop - layer.start for layer in layers]))

    @property
    def keep(self) -> int:
        """How many weights the network keeps."""
        return int(self.counts.sum())

    def of_layer(self, number: int) -> Counted:
        """The constraint on one layer."""
        return self.kind.of_layer(self.layers[number], int(self.counts[number]))

    def top_mask(self, scores: Scores) -> BoolArray:
        """True at each group's highest scores, which are requested layer by layer. bool (p,)"""
        mask = np.zeros(self.layers[-1].stop, dtype=np.bool_)
        for number, layer in enumerate(self.layers):
            part = scores(np.arange(layer.start, layer.stop))
            mask[layer.start : layer.stop] = self.of_layer(number).top_mask(part)
        return mask

    def keys(self, indices: IndexArray) -> IndexArray:
        """The first weight of the group of each weight. int64 (b,) -> int64 (b,)"""
        return self.kind.keys(self.layers, indices)

    def within(self, indices: IndexArray, mask: BoolArray) -> Quota:
        """The quota of a block: each group keeps as many of the block's weights as in `mask` now.

        indices : int64 (b,);  mask : bool (b,), of the block's weights
        """
        _, group = np.unique(self.keys(indices), return_inverse=True)
        return Quota(group, np.bincount(group, weights=mask).astype(np.int64))

    def whole(self) -> Quota:
        """The quota of all weights as one block."""
        parts = [self.of_layer(number) for number in range(len(self.layers))]
        before = np.cumsum([0, *(part.counts.size for part in parts)])
        groups = [first + part.group for first, part in zip(before, parts, strict=False)]
        return Quota(np.concatenate(groups), np.concatenate([part.counts for part in parts]))

    def violation(self, mask: BoolArray, layers: Sequence[int] | None = None) -> str:
        """How a mask breaks the quota in any layer, or in the given ones; "" if it does not. bool (p,)"""
        for number in range(len(self.layers)) if layers is None else layers:
            layer = self.layers[number]
            if broken := self.of_layer(number).violation(mask[layer.start : layer.stop]):
                return f"layer {layer.name!r} {broken}"
        return ""

    def require(self, mask: BoolArray, layers: Sequence[int] | None = None) -> None:
        """Check that a mask satisfies the quota exactly, in all layers or in the given ones. bool (p,)

        Raises
        ------
        PrunebenchError   it does not; the message names the layer and the first group at fault
        """
        if broken := self.violation(mask, layers):
            raise PrunebenchError(f"quota {self.kind} is broken: {broken}; please report this")


def network_keeping(kind: QuotaKind, layers: Sequence[Any], density: float) -> NetworkCount | NetworkQuota:
    """The constraint on a network at a density: round(density·p) in total, or by groups with that exact total."""
    if kind.grouped:
        return NetworkQuota.of(kind, layers, density)
    total = int(layers[-1].stop)
    return NetworkCount(total, keep_count(density, total))
