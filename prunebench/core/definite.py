"""Proofs that a symmetric matrix is positive (semi)definite, so that no bound has to assume it.

Rump: Verification of positive definiteness, BIT 46 (2006), for the floating-point proof; Bareiss, Sylvester's
identity and multistep integer-preserving Gaussian elimination, Math. Comp. 22 (1968), for the exact one.
"""

from typing import Any

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import FloatArray

UNIT = 0.5 * float(np.finfo(np.float64).eps)
"""Unit roundoff of float64: the largest relative error of one operation."""
EXACT_SIZE = 64
"""Up to this size, a matrix that floating point cannot decide is decided in integers: at most a second."""
BLOCK, ROWS = 256, 1024
"""Size from which a matrix is decomposed block by block, and rows below a block that are updated at a time."""
RIDGE_SHARES = (0.5, 0.99)
"""Shares of the ridge tried as enough to make the curvature semidefinite; the rest is strong convexity."""
VALUE_SHARES = (0.9, 0.5, 0.1, 1e-2)
"""Shares of the computed lowest eigenvalue tried as proved ones."""


def proved_semidefinite(matrix: FloatArray, doubt: float = 0.0, *, overwrite: bool = False) -> bool:
    """Whether every symmetric matrix within `doubt` (spectral norm) of `matrix` is proved positive semidefinite.

    Cholesky of the matrix minus a bound on its own backward error, whatever the order of its sums (Rump 2006,
    Theorem 2.3). O(p³/3).

    overwrite : whether the matrix may be overwritten
    """
    size = matrix.shape[0]
    if size == 0:
        return True
    trace = float(np.abs(matrix.diagonal()).sum())
    lowered = matrix if overwrite else np.array(matrix)
    lowered[np.diag_indices(size)] -= doubt + 2.0 * (size + 3) * UNIT * trace
    if not np.isfinite(lowered).all():
        return False
    if size > BLOCK:
        return _decomposes(lowered)
    _, info = lapack.dpotrf(lowered, lower=1, clean=0)
    return info == 0


def _decomposes(matrix: FloatArray) -> bool:
    """Whether Cholesky's decomposition runs to its end; nearly all of it in products. Overwrites the lower triangle."""
    size = matrix.shape[0]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        matrix[start:stop, start:stop] -= matrix[start:stop, :start] @ matrix[start:stop, :start].T
        factor, info = lapack.dpotrf(matrix[start:stop, start:stop], lower=1, clean=1)
        if info:
            return False
        for top in range(stop, size, ROWS):
            rows = slice(top, top + ROWS)
            matrix[rows, start:stop] -= matrix[rows, :start] @ matrix[start:stop, :start].T
            matrix[rows, start:stop] = lapack.solve_lower(factor, matrix[rows, start:stop].T).T
    return True


def strong_convexity(hessian: FloatArray, ridge: FloatArray, derived: dict[str, Any]) -> FloatArray | None:
    """d >= 0 with hessian + diag(ridge) − diag(d) proved positive semidefinite; None if nothing is proved. (p,)

    derived : cache of the hessian; keeps ridges proved sufficient, so that the rows of a layer and a path of
    ridges share one proof
    """
    known: list[FloatArray] = derived.setdefault("lifted by", [])
    for lift in known:
        if (ridge >= lift).all() and (ridge > lift).any():
            return _less(ridge, lift)
    if (ridge > 0.0).any():
        for share in RIDGE_SHARES:
            lift = share * ridge
            if _is_lifted(hessian, lift):
                known.append(lift)
                return _less(ridge, lift)
    return _by_lowest_eigenvalue(hessian, ridge)


def exactly_definite(hessian: FloatArray, ridge: FloatArray) -> bool:
    """Whether hessian + diag(ridge) is positive definite, decided in integers. O(p³) long-integer operations."""
    rows = _whole_numbers(hessian, ridge)
    before = 1
    for k in range(len(rows)):
        pivot = rows[k][k]
        if pivot <= 0:
            return False
        for i in range(k + 1, len(rows)):
            row, head = rows[i], rows[k][i]
            for j in range(i, len(rows)):
                row[j] = (row[j] * pivot - head * rows[k][j]) // before
        before = pivot
    return True


def lowest_eigenvalue(hessian: FloatArray, ridge: FloatArray) -> tuple[float, float]:
    """The lowest eigenvalue of hessian + diag(ridge) scaled to unit diagonal, and its error bound.

    Computed, not proved: the error bound is a few units of rounding of the largest eigenvalue (LAPACK, Weyl).
    """
    scaled, _ = _unit_diagonal(hessian, ridge)
    values = np.linalg.eigvalsh(scaled)
    return float(values[0]), 8.0 * hessian.shape[0] * UNIT * float(np.abs(values).max())


def _is_lifted(hessian: FloatArray, lift: FloatArray) -> bool:
    if (hessian.diagonal() + lift < 0.0).any():
        return False
    scaled, doubt = _unit_diagonal(hessian, lift)
    return proved_semidefinite(scaled, doubt, overwrite=True)


def _by_lowest_eigenvalue(hessian: FloatArray, ridge: FloatArray) -> FloatArray | None:
    """d as a multiple of the diagonal, from the lowest eigenvalue of the scaled matrix."""
    diagonal = hessian.diagonal() + ridge
    live = diagonal > 0.0
    # beside a zero diagonal entry a semidefinite matrix has only zeros
    if (diagonal < 0.0).any() or hessian[~live].any() or not live.any():
        return None if hessian.any() else np.zeros(ridge.size)
    out = np.zeros(ridge.size)
    scaled, doubt = _unit_diagonal(hessian[np.ix_(live, live)], ridge[live])
    lowest = float(np.linalg.eigvalsh(scaled)[0])
    for share in VALUE_SHARES:
        held = share * lowest
        if held > 0.0 and proved_semidefinite(scaled - held * np.eye(scaled.shape[0]), doubt + 2.0 * UNIT):
            # the scaled diagonal is below 4, so a bound by the identity is a bound by a quarter of the diagonal
            out[live] = 0.25 * held * diagonal[live] * (1.0 - 8.0 * UNIT)
            return out
    return out if proved_semidefinite(scaled, doubt) else None


def _unit_diagonal(hessian: FloatArray, ridge: FloatArray) -> tuple[FloatArray, float]:
    """The matrix scaled exactly, by powers of two, to a diagonal in [1, 4), and a bound on its error."""
    scaled = np.array(hessian, dtype=np.float64)
    scaled[np.diag_indices_from(scaled)] += ridge
    diagonal = scaled.diagonal()
    _, exponent = np.frexp(np.where(diagonal > 0.0, diagonal, 1.0))
    unit = np.ldexp(1.0, -((exponent - 1) // 2))
    scaled *= unit[:, None]
    scaled *= unit
    # covers the rounding of the diagonal's sum; underflow in the scaling is far smaller
    return scaled, 4.0 * UNIT * float(np.abs(scaled.diagonal()).max(initial=0.0))


def _less(ridge: FloatArray, lift: FloatArray) -> FloatArray:
    return np.asarray(np.maximum((ridge - lift) * (1.0 - 2.0 * UNIT), 0.0))


def _whole_numbers(hessian: FloatArray, ridge: FloatArray) -> list[list[int]]:
    """hessian + diag(ridge) times a common positive number, exactly, as integers."""
    ratios = [[entry.as_integer_ratio() for entry in row] for row in hessian.tolist()]
    lifts = [entry.as_integer_ratio() for entry in ridge.tolist()]
    common = max(bottom for row in [*ratios, lifts] for _, bottom in row)
    rows = [[top * (common // bottom) for top, bottom in row] for row in ratios]
    for i, (top, bottom) in enumerate(lifts):
        rows[i][i] += top * (common // bottom)
    return rows
