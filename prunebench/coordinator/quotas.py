"""Quotas of a cut block by name: one count a layer, one a row, or N of every M weights along the inputs."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.masks import keep_count, keep_per_layer
from prunebench.core.quota import Quota

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
    starts = np.array([layer.start for layer in layers])
    at = np.searchsorted(starts, indices, side="right") - 1
    key = starts[at]
    if kind == "row":
        length = np.array([fan_in(layer) for layer in layers])[at]
        key = key + (indices - key) // length * length
    _, group = np.unique(key, return_inverse=True)
    sizes = np.bincount(group)
    counts = keep_per_layer(keep / indices.size, sizes.tolist()) if keep else np.zeros_like(sizes)
    return Quota(group, counts)
