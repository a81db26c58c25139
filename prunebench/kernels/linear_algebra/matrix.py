"""Matrix products for support searches, in the factor's own precision, streamed if the factor is memory-mapped.

A search only ranks, so it needs no higher precision; the block recomputes every objective in float64.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from prunebench.core.arrays import Factor, RealArray, is_mapped

CHUNK_BYTES = 64 * 2**20
"""Bytes of columns held at a time when the factor is streamed."""


class Matrix(Protocol):
    """A matrix A (n, p) and its products, whose precision is `dtype`."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def gram(self) -> RealArray:
        """A A'. (n, n)"""
        ...

    def times(self, right: RealArray) -> RealArray:
        """A right. (p,) -> (n,)"""
        ...

    def transposed_times(self, left: RealArray) -> RealArray:
        """A' left. (n,) -> (p,)"""
        ...


class FactorMatrix:
    """A factor in memory, or memory-mapped and streamed, with optionally scaled columns.

    factor : float32 or float64 (n, p)
    scale : (p,), multiplies each column; None for 1
    """

    def __init__(self, factor: Factor, scale: RealArray | None = None) -> None:
        self._factor = factor
        self.shape: tuple[int, int] = (factor.shape[0], factor.shape[1])
        self.dtype: np.dtype[Any] = factor.dtype
        self._scale: RealArray | None = None if scale is None else scale.astype(factor.dtype)

    def gram(self) -> RealArray:
        """A A', summed over column chunks. (n, n)"""
        out = np.zeros((self.shape[0],) * 2, dtype=self.dtype)
        for part in column_chunks(self._factor):
            columns: RealArray = self._factor[:, part]
            if self._scale is not None:
                columns = columns * self._scale[part]
            out += columns @ columns.T
        return out

    def times(self, right: RealArray) -> RealArray:
        """A right. (p,) -> (n,)"""
        narrow = right.astype(self.dtype, copy=False)
        return np.asarray(self._factor @ (narrow if self._scale is None else narrow * self._scale))

    def transposed_times(self, left: RealArray) -> RealArray:
        """A' left. (n,) -> (p,)"""
        out = left.astype(self.dtype, copy=False) @ self._factor
        return np.asarray(out if self._scale is None else out * self._scale)


def column_chunks(factor: Factor) -> Iterator[slice]:
    """Slices over the columns; a single one if the factor is an ordinary array in memory."""
    rows, size = factor.shape
    step = max(1, CHUNK_BYTES // (rows * factor.itemsize)) if is_mapped(factor) else size
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
