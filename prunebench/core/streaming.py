"""Refits with a factor larger than memory: read from a mapped file in column chunks, never a whole support."""

from collections.abc import Iterator

import numpy as np

from prunebench.core.arrays import Factor, FloatArray, IndexArray

CHUNK_BYTES = 64 * 2**20
"""Bytes of columns held at a time, in float64."""
COPY_BYTES = 512 * 2**20
"""Largest size of a support's columns that are copied out of a mapped factor; larger ones are streamed."""


def step_on_support(
    factor: Factor, support: IndexArray, ridge: FloatArray, linear: FloatArray, residual: FloatArray
) -> FloatArray:
    """The step d that minimises linear'd + 1/2 ‖residual + A_S d‖² + 1/2 d' diag(ridge) d. -> float64 (k,)

    As `linalg.push_through`, in two passes over the support's columns. I + A_S diag(1/ridge) A_S' is
    summed in float64, so no refinement is needed.

    Parameters
    ----------
    factor : float32 or float64 (n, p)    may be a mapped file
    support : int64 (k,)                  ascending, so that the file is read forwards
    ridge : float64 (k,)                  positive
    linear : float64 (k,);  residual : float64 (n,)
    """
    import scipy.linalg

    system = np.eye(factor.shape[0])
    right = residual.copy()
    for part, columns in _chunks(factor, support):
        scaled = columns / np.sqrt(ridge[part])
        system += scaled @ scaled.T
        right -= columns @ (linear[part] / ridge[part])
    dual = scipy.linalg.cho_solve(scipy.linalg.cho_factor(system, check_finite=False), right, check_finite=False)
    out = np.empty(support.size)
    for part, columns in _chunks(factor, support):
        out[part] = -(linear[part] + dual @ columns) / ridge[part]
    return out


def _chunks(factor: Factor, support: IndexArray) -> Iterator[tuple[slice, FloatArray]]:
    step = max(1, CHUNK_BYTES // (8 * factor.shape[0]))
    for start in range(0, support.size, step):
        part = slice(start, min(start + step, support.size))
        yield part, factor[:, support[part]].astype(np.float64)
