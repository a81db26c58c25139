"""The four LAPACK routines for positive definite matrices that refits, searches and relaxations use.

scipy.linalg is imported at the first call, as it loads more slowly than everything else needed to list solvers.
"""

from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray


def dpotrf(matrix: FloatArray, *, lower: int, clean: int) -> tuple[Any, int]:
    """Cholesky factor, and 0 if the matrix is positive definite. (p, p) -> (p, p), info."""
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(matrix, lower=lower, clean=clean)
    return factor, int(info)


def dpotrs(factor: FloatArray, right: FloatArray, *, lower: int) -> tuple[Any, int]:
    """Solution with a Cholesky factor. (p, p), (p,) or (p, r) -> like `right`, info."""
    from scipy.linalg import lapack

    solution, info = lapack.dpotrs(factor, right, lower=lower)
    return solution, int(info)


def dpotri(factor: FloatArray, *, lower: int) -> tuple[Any, int]:
    """One triangle of the inverse from a Cholesky factor. (p, p) -> (p, p), info."""
    from scipy.linalg import lapack

    inverse, info = lapack.dpotri(factor, lower=lower)
    return inverse, int(info)


def solve_lower(factor: FloatArray, right: FloatArray) -> FloatArray:
    """L⁻¹ right by substitution, L lower triangular. (b, b), (b, r) -> (b, r)"""
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, right, lower=True, check_finite=False))
