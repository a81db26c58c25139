"""Weights as levels times scales: what a run that rounds its weights says of them, and how many bytes that takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray, RealArray

WORD_BITS = 32
"""Packed levels of an output row fill whole words of so many bits."""
SCALE_BYTES = 4
"""Bytes of a scale as it is written: libraries multiply in the scale's type, and float32 holds every product."""


@dataclass(frozen=True, eq=False)
class LayerLevels:
    """One layer as a table: a row an output, a column an input.

    name : the parameter's
    levels : int8 (rows, columns), zero where pruned
    scales : float64 (rows, groups), each of `group_size` columns, or the one of a row
    places : int64 (rows, columns)   where in the network's weight vector each is
    """

    name: str
    levels: npt.NDArray[np.int8]
    scales: FloatArray
    places: IndexArray

    def values(self, group_size: int | None) -> FloatArray:
        """Levels times scales. float64 (rows, columns)"""
        return np.asarray(self.levels * spread_scales(self.scales, self.levels.shape[1], group_size))


@dataclass(frozen=True, eq=False)
class Levels:
    """All layers that a run rounded.

    bits : of a level;  group_size : weights along a row with a scale in common, None: the whole row
    unrounded : float (p,)   the weights as they were when each layer was pruned and not yet rounded
    """

    bits: int
    group_size: int | None
    layers: tuple[LayerLevels, ...]
    unrounded: RealArray

    def wrong(self, weights: RealArray) -> str:
        """The first layer whose weights are not levels times scales, in words; "" where all are. float (p,)"""
        for layer in self.layers:
            away = int((weights[layer.places] != layer.values(self.group_size)).sum())
            if away:
                return f"{away} weights of layer {layer.name!r} are not their level times their scale"
        return ""

    def bytes(self, kept: int, item_size: int, rest: int) -> dict[str, int]:
        """What the network takes in four ways of storing the layers that were rounded, all else as it is.

        dense : floats;  sparse : floats of kept weights, and a bit a weight that says which those are
        packed : levels of all weights in whole words, and scales, as `prunebench export-model --format packed` writes
        packed_sparse : levels of kept weights, scales, and a bit a weight

        kept : weights;  item_size : bytes of a float;  rest : bytes of all other tensors
        """
        total = sum(layer.levels.size for layer in self.layers)
        scales = SCALE_BYTES * sum(layer.scales.size for layer in self.layers)
        written = SCALE_BYTES * sum(layer.levels.shape[0] * self._scales_written(layer) for layer in self.layers)
        words = sum(layer.levels.shape[0] * -(-layer.levels.shape[1] * self.bits // WORD_BITS) for layer in self.layers)
        which = -(-total // 8)
        return {
            "dense": rest + total * item_size,
            "sparse": rest + kept * item_size + which,
            "packed": rest + words * WORD_BITS // 8 + written,
            "packed_sparse": rest + -(-kept * self.bits // 8) + which + scales,
        }

    def _scales_written(self, layer: LayerLevels) -> int:
        """Scales of a row in the packed layout, which has groups that divide the row."""
        columns = layer.levels.shape[1]
        one = self.group_size is None or layer.scales.shape[1] == 1
        return 1 if one else columns // divisor(columns, self.group_size or columns)

    def tensors(self, starts: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
        """The arrays of levels.safetensors: NAME.levels and NAME.scales, and NAME.places where the table is no reshape.

        starts : by parameter, where in the weight vector it begins
        """
        out: dict[str, npt.NDArray[Any]] = {}
        for layer in self.layers:
            out[f"{layer.name}.levels"] = layer.levels
            out[f"{layer.name}.scales"] = layer.scales.astype(np.float32)
            inside = layer.places - starts[layer.name]
            if not np.array_equal(inside.reshape(-1), np.arange(inside.size)):
                out[f"{layer.name}.places"] = inside
        return out


def divisor(columns: int, group_size: int) -> int:
    """The largest groups, of at most so many weights, that divide both a row and the groups it has."""
    return math.gcd(columns, group_size)


def group_count(columns: int, group_size: int | None) -> int:
    """How many scales a row has: one, or one for each `group_size` weights, of which the last may be fewer."""
    return 1 if group_size is None else -(-columns // group_size)


def spread_scales(scales: FloatArray, columns: int, group_size: int | None) -> FloatArray:
    """The scale of each weight. (rows, groups) -> (rows, columns)"""
    if group_size is None:
        return np.broadcast_to(scales, (len(scales), columns))
    return np.repeat(scales, group_size, axis=1)[:, :columns]
