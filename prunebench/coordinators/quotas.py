"""What a network keeps exactly, by name: one count in all, one a layer, one a row, or N of every M along the inputs."""

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
"""Quotas that have a name; every other one is an N:M."""

Scores = Callable[[IndexArray], FloatArray]
"""Gives the scores of some weights: high is worth keeping. int64 (b,) -> float64 (b,)"""


@dataclass(frozen=True)
class QuotaKind:
    """Which weights share an exact count: those of the network, of a layer, of an output row, or every M in a row.

    text : "network", "layer", "row" or "N:M"
    kept, size : N and M, 0 for the others
    """

    text: str
    kept: int = 0
    size: int = 0

    @staticmethod
    def parse(text: str | None) -> "QuotaKind":
        """The kind that a person wrote; None is the network's one count.

        Raises
        ------
        UnknownName    another name than layer, row or N:M
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
        """Whether there are groups: all but the network's one count."""
        return self.text != "network"

    @property
    def is_pattern(self) -> bool:
        """Whether it is an N:M."""
        return self.size > 0

    @property
    def density(self) -> float | None:
        """The only density that it keeps: N/M, and None for the others."""
        return self.kept / self.size if self.is_pattern else None

    def require_density(self, density: float) -> None:
        """Raise InvalidInput unless an N:M keeps the density asked for."""
        if self.density is not None and abs(density - self.density) > 1e-9:
            raise InvalidInput(
                f"quota {self} keeps {self.density:g} of the weights but density is {density:g}; "
                f"say --density {self.density:g}"
            )

    def keep_of(self, size: int, density: float | None, keep: int | None) -> int:
        """How many of `size` weights are kept, by density, by count, or by N:M.

        Raises
        ------
        InvalidInput   neither or both of density and keep, a size that is no multiple of M, or a count
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
        """The kind and density of a stage that is to keep `density`: of N:M, the fewest of M that keep so much."""
        if not self.is_pattern:
            return self, density
        kept = max(self.kept, math.ceil(density * self.size - 1e-9))
        return QuotaKind(f"{kept}:{self.size}", kept, self.size), kept / self.size

    def length(self, layer: Any) -> int:
        """How many consecutive weights of a layer (with start, stop and shape) make a group."""
        return self.size or (fan_in(layer) if self.text == "row" else int(layer.stop - layer.start))

    def counts(self, keep: int, groups: int) -> IndexArray:
        """What each of a layer's groups keeps where the layer keeps `keep`, the first ones one more. int64 (groups,)"""
        return np.full(groups, self.kept, dtype=np.int64) if self.is_pattern else even(keep, groups)

    def of_stretch(self, size: int, keep: int) -> Counted:
        """What `size` consecutive weights within one row, or whole groups of M, keep; `keep` of them in all."""
        return Quota.n_m(size, self.kept, self.size) if self.is_pattern else Count(size, keep)

    def of_layer(self, layer: Any, keep: int) -> Counted:
        """What a layer (with start, stop and shape) that keeps `keep` weights keeps of each of its groups."""
        size, length = int(layer.stop - layer.start), self.length(layer)
        if length == size:
            return Count(size, keep)
        return Quota(np.arange(size) // length, self.counts(keep, size // length))

    def of_block(self, layers: Sequence[Any], indices: IndexArray, keep: int) -> Counted:
        """What the weights `indices` of a network keep: equal shares, the total exact by largest remainder."""
        if self.is_pattern or not self.grouped:
            return self.of_stretch(indices.size, keep)
        _, group = np.unique(self.keys(layers, indices), return_inverse=True)
        sizes = np.bincount(group)
        return Quota(group, keep_per_layer(keep / indices.size, sizes.tolist()) if keep else np.zeros_like(sizes))

    def keys(self, layers: Sequence[Any], indices: IndexArray) -> IndexArray:
        """The first weight of the group of each weight in `indices`; groups are stretches, so keys rise with indices.

        int64 (b,) -> int64 (b,)
        """
        starts = np.array([layer.start for layer in layers])
        at = np.searchsorted(starts, indices, side="right") - 1
        length = np.array([self.length(layer) for layer in layers])[at]
        return np.asarray(starts[at] + (indices - starts[at]) // length * length)

    def starts(self, layers: Sequence[Any]) -> IndexArray:
        """Where the groups of M along the inputs of a network's layers begin. int64 (groups,)

        layers : with start, stop and shape; one whose rows are no multiple of M long gives none

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
        """Raise InvalidInput, naming the layer, where the rows of one are no multiple of M long."""
        for layer in layers:
            if self.is_pattern and fan_in(layer) % self.size:
                raise InvalidInput(
                    f"quota {self}: layer {layer.name!r} has {fan_in(layer)} inputs, no multiple of {self.size}; "
                    "leave the layer out of the prunable parameters, or use --quota row"
                )


NETWORK = QuotaKind("network")
"""One count for the whole network: what is kept where no quota is asked for."""


def fan_in(layer: Any) -> int:
    """How many weights one output of a layer has."""
    return max(1, int(layer.stop - layer.start) // int(layer.shape[0]))


def even(total: int, parts: int) -> IndexArray:
    """`total` as `parts` counts that differ by at most one, the larger first. int64 (parts,)"""
    counts = np.full(parts, total // parts, dtype=np.int64)
    counts[: total % parts] += 1
    return counts


def require_honoured(solver: Any, kind: QuotaKind, remedy: str) -> None:
    """Raise SolverRefused, naming the solver, unless it honours quotas or there is none."""
    if facts(solver).quotas or not kind.grouped:
        return
    able = ", ".join(name for name in SOLVERS.names() if facts(SOLVERS.get(name)).quotas)
    raise SolverRefused(
        f"solver {solver.name!r} does not honour quotas, so it cannot keep {kind}; {remedy}, or choose one of {able}"
    )


@dataclass(frozen=True)
class NetworkCount:
    """How many weights a network keeps in all, wherever they are; it answers as a `NetworkQuota` does."""

    total: int
    keep: int
    keys: ClassVar[None] = None
    """Groups of weights: none, any two may be exchanged."""

    def top_mask(self, scores: Scores) -> BoolArray:
        """True at the highest scores. bool (p,)"""
        return top_mask(scores(np.arange(self.total)), self.keep)

    def within(self, indices: IndexArray, mask: BoolArray) -> Count:
        """What a block keeps: as many weights as `mask` does now. int64 (b,), bool (b,)"""
        return Count(indices.size, int(mask.sum()))

    def whole(self) -> Count:
        """What all weights as one block keep."""
        return Count(self.total, self.keep)

    def violation(self, mask: BoolArray) -> str:
        """How a mask breaks the count; "" where it keeps it. bool (p,)"""
        return self.whole().violation(mask)

    def require(self, mask: BoolArray) -> None:
        """Raise PrunebenchError unless a mask keeps the count exactly. bool (p,)"""
        if broken := self.violation(mask):
            raise PrunebenchError(f"the mask {broken}; please report this")


@dataclass(frozen=True)
class NetworkQuota:
    """How many weights each group of a network keeps, without anything of the network's size being held.

    kind : of layers, rows or N:M;  layers : with name, start, stop and shape;
    counts : int64 (layers,), what each layer keeps in all
    """

    kind: QuotaKind
    layers: Sequence[Any]
    counts: IndexArray

    @staticmethod
    def of(kind: QuotaKind, layers: Sequence[Any], density: float) -> "NetworkQuota":
        """Each layer at the same density by largest remainder.

        Raises
        ------
        InvalidInput   an N:M that does not keep the density, or does not fit the rows of a layer
        """
        kind.require_density(density)
        kind.require_fit(layers)
        return NetworkQuota(kind, layers, keep_per_layer(density, [layer.stop - layer.start for layer in layers]))

    @property
    def keep(self) -> int:
        """How many weights the network keeps."""
        return int(self.counts.sum())

    def of_layer(self, number: int) -> Counted:
        """What one layer's weights keep."""
        return self.kind.of_layer(self.layers[number], int(self.counts[number]))

    def top_mask(self, scores: Scores) -> BoolArray:
        """True at each group's highest scores, which are asked for layer by layer. bool (p,)"""
        mask = np.zeros(self.layers[-1].stop, dtype=np.bool_)
        for number, layer in enumerate(self.layers):
            part = scores(np.arange(layer.start, layer.stop))
            mask[layer.start : layer.stop] = self.of_layer(number).top_mask(part)
        return mask

    def keys(self, indices: IndexArray) -> IndexArray:
        """The first weight of the group of each weight. int64 (b,) -> int64 (b,)"""
        return self.kind.keys(self.layers, indices)

    def within(self, indices: IndexArray, mask: BoolArray) -> Quota:
        """The quota of a block: each group keeps as many of the block's weights as `mask` does now.

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
        """How a mask breaks the quota, in any layer or in those of these numbers; "" where it keeps it. bool (p,)"""
        for number in range(len(self.layers)) if layers is None else layers:
            layer = self.layers[number]
            if broken := self.of_layer(number).violation(mask[layer.start : layer.stop]):
                return f"layer {layer.name!r} {broken}"
        return ""

    def require(self, mask: BoolArray, layers: Sequence[int] | None = None) -> None:
        """Check that a mask keeps the quota exactly, in all layers or in those of these numbers. bool (p,)

        Raises
        ------
        PrunebenchError   it does not; the message names the layer and the first such group
        """
        if broken := self.violation(mask, layers):
            raise PrunebenchError(f"quota {self.kind} is broken: {broken}; please report this")


def network_keeping(kind: QuotaKind, layers: Sequence[Any], density: float) -> NetworkCount | NetworkQuota:
    """What a network keeps at a density: round(density·p) in all, or in groups with the total exact."""
    if kind.grouped:
        return NetworkQuota.of(kind, layers, density)
    total = int(layers[-1].stop)
    return NetworkCount(total, keep_count(density, total))
