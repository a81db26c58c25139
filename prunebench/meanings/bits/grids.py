"""Grids of levels: whole numbers times a scale, zero among them.

A scale has eight significant bits, as bfloat16 holds them. So a level of up to eight bits times its scale is exact in
float32: what is stored as level and scale is the weight that the network computes with, to the last bit.
"""

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput

LEAST_BITS, MOST_BITS = 2, 8
"""Bits of a level: with one there is no zero between a positive and a negative level, and int8 holds eight."""
SIGNIFICANT = 8
"""Significant bits of a scale, those of bfloat16."""


def require_bits(bits: object, where: str) -> int:
    """The bits of a level.

    where : what messages begin with

    Raises
    ------
    InvalidInput   no whole number from 2 to 8
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not LEAST_BITS <= bits <= MOST_BITS:
        raise InvalidInput(f"{where}: bits is {bits!r}; choose a whole number from {LEAST_BITS} to {MOST_BITS}")
    return bits


def largest_level(bits: int) -> int:
    """The largest level; the smallest is its negative, so that zero is the middle of the grid."""
    return int(2 ** (bits - 1) - 1)


def rounded_scale(scale: npt.ArrayLike) -> FloatArray:
    """Scales with SIGNIFICANT significant bits, the nearest. float64"""
    part, exponent = np.frexp(np.asarray(scale, dtype=np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(part, SIGNIFICANT)), exponent - SIGNIFICANT))
