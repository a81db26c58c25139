"""Quotas of a network and of blocks by name: one count a layer, one a row, or N of every M weights along the inputs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput, PrunebenchError, SolverRefused, unknown_name
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_count, keep_per_layer, top_mask
from prunebench.core.registry import SOLVERS

KINDS = ("layer", "row")


def pattern(kind: str | None) -> tuple[int, int] | None:
    """(N, M) of a quota named "N:M"; None for the other kinds and where there is no quota.

    Raises
    ------
    UnknownName    another name
    InvalidInput   N:M with N above M or M below 1
    """
    if kind is None or kind in KINDS:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", kind)
    if found is None:
        raise unknown_name("quota", kind, [*KINDS, "2:4"], "(or any N:M)")
    kept, size = int(found[1]), int(found[2])
    if not 0 < kept <= size:
        raise InvalidInput(f"quota {kind} is no pattern; N of every M are kept, with 1 <= N <= M")
    return kept, size


def keep_within(kind: str | None, size: int, density: float | None, keep: int | None) -> int:
    """How many of `size` weights are kept, by density, by count, or by N:M.

    Raises
    ------
    InvalidInput   neither or both of density and keep, a size that is no multiple of M, or a count
                   that contradicts N:M
    """
    held = pattern(kind)
    if density is not None and keep is not None:
        raise InvalidInput("give either density or keep, not both")
    if density is not None:
        keep = keep_count(density, size, "the block")
    if held is None:
        if keep is None:
            raise InvalidInput("give either density or keep")
        return keep
    kept, group = held
    if size % group:
        raise InvalidInput(f"quota {kind} needs whole groups of {group} and size is {size}; choose a multiple")
    count = size // group * kept
    if keep is not None and keep != count:
        raise InvalidInput(
            f"quota {kind} keeps {count} of {size} weights, not {keep}: choose density {kept / group:g} or leave it out"
        )
    return count


def whole_groups(layers: Sequence[Any], group: int) -> IndexArray:
    """Where the groups of `group` consecutive weights along the inputs of a network's layers begin. int64 (groups,)

    layers : with start, stop and shape; one whose rows are no multiple of `group` long gives none

    Raises
    ------
    InvalidInput   no layer has such rows
    """
    fitting = [layer for layer in layers if fan_in(layer) % group == 0]
    if not fitting:
        lengths = ", ".join(str(fan_in(layer)) for layer in layers)
        raise InvalidInput(
            f"no layer has rows of a multiple of {group} weights (they have {lengths}); choose another M"
        )
    return np.concatenate([np.arange(layer.start, layer.stop, group, dtype=np.int64) for layer in fitting])


def fan_in(layer: Any) -> int:
    """How many weights one output of a layer has."""
    return max(1, int(layer.stop - layer.start) // int(layer.shape[0]))


def of_block(kind: str | None, layers: Sequence[Any], indices: IndexArray, keep: int) -> Quota | None:
    """The quota of the weights `indices` of a network; shares are equal, the total is exact by largest remainder."""
    if kind is None:
        return None
    if (held := pattern(kind)) is not None:
        return Quota.n_m(indices.size, *held)
    _, group = np.unique(group_keys(kind, layers, indices), return_inverse=True)
    sizes = np.bincount(group)
    counts = keep_per_layer(keep / indices.size, sizes.tolist()) if keep else np.zeros_like(sizes)
    return Quota(group, counts)


def group_keys(kind: str, layers: Sequence[Any], indices: IndexArray) -> IndexArray:
    """The first weight of the group of each weight in `indices`; groups are stretches, so keys rise with indices.

    int64 (b,) -> int64 (b,)
    """
    starts = np.array([layer.start for layer in layers])
    at = np.searchsorted(starts, indices, side="right") - 1
    key = starts[at]
    if kind == "layer":
        return np.asarray(key)
    held = pattern(kind)
    length = np.array([fan_in(layer) for layer in layers])[at] if held is None else held[1]
    return np.asarray(key + (indices - key) // length * length)


def layer_quota(kind: str, keep: int, rows: int, columns: int) -> Quota | None:
    """The quota of a layer that keeps `keep` weights; None where its rows are weighed together (kind "layer").

    With kind "row" the counts differ by at most one, the first rows keeping one more.
    """
    if (held := pattern(kind)) is not None:
        return Quota.n_m(rows * columns, *held)
    if kind == "layer":
        return None
    return Quota(np.repeat(np.arange(rows), columns), even(keep, rows))


def even(total: int, parts: int) -> IndexArray:
    """`total` as `parts` counts that differ by at most one, the larger first. int64 (parts,)"""
    counts = np.full(parts, total // parts, dtype=np.int64)
    counts[: total % parts] += 1
    return counts


def require_density(kind: str | None, density: float) -> None:
    """Raise InvalidInput unless a quota N:M keeps the density asked for."""
    if (held := pattern(kind)) is not None and abs(density - held[0] / held[1]) > 1e-9:
        share = f"{held[0] / held[1]:g}"
        raise InvalidInput(
            f"quota {kind} keeps {share} of the weights but density is {density:g}; say --density {share}"
        )


def require_honoured(solver: Any, kind: str, remedy: str) -> None:
    """Raise SolverRefused, naming the solver, unless it honours quotas."""
    if getattr(solver, "quotas", False):
        return
    able = ", ".join(name for name in SOLVERS.names() if getattr(SOLVERS.get(name), "quotas", False))
    raise SolverRefused(
        f"solver {solver.name!r} does not honour quotas, so it cannot keep {kind}; {remedy}, or choose one of {able}"
    )


@dataclass(frozen=True)
class NetworkQuota:
    """How many weights each group of a network keeps, without anything of the network's size being held.

    kind : "layer", "row" or "N:M";  layers : with name, start, stop and shape;
    counts : int64 (layers,), what each layer keeps in all
    """

    kind: str
    layers: Sequence[Any]
    counts: IndexArray

    @staticmethod
    def of(kind: str | None, layers: Sequence[Any], density: float) -> "NetworkQuota | None":
        """The quota by name, each layer at the same density by largest remainder; None where there is none.

        Raises
        ------
        InvalidInput   an N:M that does not keep the density, or does not fit the rows of a layer
        """
        if kind is None:
            return None
        require_density(kind, density)
        if (held := pattern(kind)) is not None:
            for layer in layers:
                if fan_in(layer) % held[1]:
                    raise InvalidInput(
                        f"quota {kind}: layer {layer.name!r} has {fan_in(layer)} inputs, no multiple of {held[1]}; "
                        "leave the layer out of the prunable parameters, or use --quota row"
                    )
        return NetworkQuota(kind, layers, keep_per_layer(density, [layer.stop - layer.start for layer in layers]))

    @property
    def keep(self) -> int:
        """How many weights the network keeps."""
        return int(self.counts.sum())

    def of_layer(self, number: int) -> Quota | None:
        """The quota of one layer's weights; None where the layer as a whole has one count."""
        layer = self.layers[number]
        return layer_quota(self.kind, int(self.counts[number]), int(layer.shape[0]), fan_in(layer))

    def top_mask(self, scores: Callable[[IndexArray], FloatArray]) -> BoolArray:
        """True at each group's highest scores. bool (p,)

        scores : gives those of some weights, asked for layer by layer
        """
        mask = np.zeros(self.layers[-1].stop, dtype=np.bool_)
        for number, layer in enumerate(self.layers):
            part, quota = scores(np.arange(layer.start, layer.stop)), self.of_layer(number)
            top = top_mask(part, int(self.counts[number])) if quota is None else quota.top_mask(part)
            mask[layer.start : layer.stop] = top
        return mask

    def keys(self, indices: IndexArray) -> IndexArray:
        """The first weight of the group of each weight. int64 (b,) -> int64 (b,)"""
        return group_keys(self.kind, self.layers, indices)

    def within(self, indices: IndexArray, mask: BoolArray) -> Quota:
        """The quota of a block: each group keeps as many of the block's weights as `mask` does now.

        indices : int64 (b,);  mask : bool (b,), of the block's weights
        """
        _, group = np.unique(self.keys(indices), return_inverse=True)
        return Quota(group, np.bincount(group, weights=mask).astype(np.int64))

    def whole(self) -> Quota:
        """The quota of all weights as one block."""
        parts = [self.of_layer(number) for number in range(len(self.layers))]
        groups, counts, before = [], [], 0
        for number, (part, layer) in enumerate(zip(parts, self.layers, strict=True)):
            size = layer.stop - layer.start
            groups.append(before + (np.zeros(size, dtype=np.int64) if part is None else part.group))
            counts.append(self.counts[number : number + 1] if part is None else part.counts)
            before += counts[-1].size
        return Quota(np.concatenate(groups), np.concatenate(counts))

    def violation(self, mask: BoolArray, layers: Sequence[int] | None = None) -> str:
        """How a mask breaks the quota, in any layer or in those of these numbers; "" where it keeps it. bool (p,)"""
        for number in range(len(self.layers)) if layers is None else layers:
            layer, quota = self.layers[number], self.of_layer(number)
            part = mask[layer.start : layer.stop]
            if quota is None:
                kept, due = int(part.sum()), int(self.counts[number])
                broken = f"keeps {kept} weights; its quota is exactly {due}" if kept != due else ""
            else:
                broken = quota.violation(part)
            if broken:
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
