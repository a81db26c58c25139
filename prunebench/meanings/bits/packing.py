"""Levels packed into whole numbers of 32 bits, in the layout "pack-quantized" that compressed-tensors reads.

Of a layer with r output rows and c inputs, B bits a level: level + 2^(B−1) of input j takes the bits j·B to j·B + B − 1
of its row, the lowest first; a row fills ⌈c·B/32⌉ words, the last with zeros at its end. Scales are (r, g), g = 1 for a
scale a row, else c over the group's size, which divides c.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.levels import WORD_BITS, divisor

FORMAT = "pack-quantized"
"""How the layout is called."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A layer as it is written.

    words : int32 (r, ⌈c·B/32⌉);  scales : float32 (r, g)
    group_size : columns that have a scale in common; None where a row has one
    """

    words: npt.NDArray[np.int32]
    scales: npt.NDArray[np.float32]
    group_size: int | None

    @staticmethod
    def of(levels: npt.NDArray[np.int8], scales: FloatArray, bits: int, group_size: int | None) -> "Packed":
        """Pack a table of levels. Groups that do not divide the columns are cut into smaller ones that do."""
        columns = levels.shape[1]
        if scales.shape[1] == 1:
            return Packed(pack(levels, bits), scales.astype(np.float32), None)
        assert group_size is not None
        size = divisor(columns, group_size)
        each = np.repeat(scales, group_size // size, axis=1)[:, : columns // size]
        return Packed(pack(levels, bits), each.astype(np.float32), size)


def pack(levels: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.int32]:
    """Levels from −2^(bits−1) to 2^(bits−1) − 1 as words. (r, c) -> int32 (r, ⌈c·bits/32⌉)"""
    rows, columns = levels.shape
    raised = (levels.astype(np.int64) + 2 ** (bits - 1)).astype(np.uint8)
    each = np.unpackbits(raised[:, :, None], axis=2, bitorder="little", count=bits).reshape(rows, columns * bits)
    words = -(-columns * bits // WORD_BITS)
    padded = np.zeros((rows, words * WORD_BITS), dtype=np.uint8)
    padded[:, : columns * bits] = each
    return np.packbits(padded, axis=1, bitorder="little").view("<i4").astype(np.int32)


def unpack(words: npt.NDArray[np.int32], bits: int, columns: int) -> npt.NDArray[np.int8]:
    """What `pack` packed. int32 (r, w) -> int8 (r, columns)"""
    bytes_of = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    each = np.unpackbits(bytes_of, axis=1, bitorder="little")[:, : columns * bits]
    raised: IndexArray = each.reshape(len(words), columns, bits) @ (1 << np.arange(bits))
    return np.asarray(raised - 2 ** (bits - 1), dtype=np.int8)


def configuration(groups: Mapping[int | None, Sequence[str]], bits: int) -> dict[str, Any]:
    """What a model's config.json says under "quantization_config".

    groups : by group size, the modules whose layers have it
    """
    schemes = {}
    for number, (size, modules) in enumerate(groups.items()):
        weights = {
            "num_bits": bits, "type": "int", "symmetric": True, "dynamic": False,
            "strategy": "channel" if size is None else "group", "group_size": size,
        }  # fmt: skip
        schemes[f"group_{number}"] = {"targets": list(modules), "weights": weights}
    return {
        "quant_method": "compressed-tensors", "format": FORMAT, "quantization_status": "compressed",
        "config_groups": schemes, "ignore": [],
    }  # fmt: skip
