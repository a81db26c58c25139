"""The inverse root of a positive definite matrix, nearly all of it in matrix products.

LAPACK's routines, as numpy and scipy bring them, reach a fifth of the speed of a product on many machines.
"""

import numpy as np

from prunebench.core.arrays import RealArray

SMALL = 128
"""Size up to which LAPACK decomposes; beyond it the matrix is halved."""


def inverse_root(matrix: RealArray) -> RealArray:
    """U with M⁻¹ = U'U, upper triangular, in the matrix's precision. (c, c) -> (c, c). 4/3·c³ operations

    matrix : overwritten

    Raises
    ------
    LinAlgError   it is not positive definite in that precision
    """
    out = np.zeros_like(matrix)
    _halve(matrix, out)
    return out


def _halve(matrix: RealArray, out: RealArray) -> None:
    """M = RR' with R upper triangular, from its last columns to its first; R⁻¹ into `out`.

    With M = [[A, B], [B', C]], C = R₂R₂' and U₂ = R₂⁻¹: X = B U₂', A − XX' = R₁R₁', U = [[U₁, −U₁XU₂], [0, U₂]].
    """
    size = matrix.shape[0]
    if size <= SMALL:
        # loads more slowly than all that is needed to list solvers
        from scipy.linalg import solve_triangular

        upper = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
        out[:] = solve_triangular(upper, np.eye(size, dtype=matrix.dtype), check_finite=False)
        return
    half = size // 2
    _halve(matrix[half:, half:], out[half:, half:])
    beside = matrix[:half, half:] @ out[half:, half:].T
    matrix[:half, :half] -= beside @ beside.T
    _halve(matrix[:half, :half], out[:half, :half])
    # the upper right part is of no more use, so the product lies there
    np.matmul(beside, out[half:, half:], out=matrix[:half, half:])
    del beside
    np.matmul(out[:half, :half], matrix[:half, half:], out=out[:half, half:])
    np.negative(out[:half, half:], out=out[:half, half:])
