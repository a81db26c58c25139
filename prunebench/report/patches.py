"""A mask in patches: what a picture of it shows."""

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray

LARGEST = 128
"""Patches in each direction; a smaller matrix has a patch for each weight."""


def patches(mask: npt.NDArray[np.bool_]) -> FloatArray:
    """The share kept of each patch. bool, any shape -> float64 (h, w), both at most LARGEST.

    A matrix keeps its shape; of a convolution's (out, in, h, w) each row is an output channel; a vector is one row.
    """
    matrix = mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)
    rows, columns = (np.array_split(np.arange(size), min(size, LARGEST)) for size in matrix.shape)
    starts = [np.array([part[0] for part in parts]) for parts in (rows, columns)]
    # counted, not converted: a mask of a large language model has a hundred million entries a layer
    sums = np.add.reduceat(np.add.reduceat(matrix, starts[0], axis=0, dtype=np.int64), starts[1], axis=1)
    sizes = np.outer([part.size for part in rows], [part.size for part in columns])
    shares: FloatArray = sums / sizes
    return shares
