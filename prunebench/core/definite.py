"""Proofs that a symmetric matrix is positive (semi)definite: no bound takes it for granted.

Rump: Verification of positive definiteness, BIT 46 (2006), for the floating-point proof; Bareiss, Sylvester's
identity and multistep integer-preserving Gaussian elimination, Math. Comp. 22 (1968), for the exact one.
"""

from typing import Any

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import FloatArray

UNIT = 0.5 * float(np.finfo(np.float64).eps)
"""Half a unit in the last place of 1.0: the most that one operation in float64 rounds, relative to its result."""
EXACT_SIZE = 64
"""Up to so many weights a matrix on which floating point cannot decide is decided in integers: a second at most."""
RIDGE_SHARES = (0.5, 0.99)
"""Parts of the ridge that are tried as what makes the curvature semidefinite; the rest is strong convexity."""
VALUE_SHARES = (0.9, 0.5, 0.1, 1e-2)
"""Parts of the computed lowest eigenvalue that are tried as a proved one."""


def proved_semidefinite(matrix: FloatArray, doubt: float = 0.0) -> bool:
    """Whether every symmetric matrix within `doubt` (spectral norm) of `matrix` is proved positive semidefinite.

    Cholesky of the matrix less its own backward error (Rump 2006, Theorem 2.3). O(p³/3).
    """
    size = matrix.shape[0]
    if size == 0:
        return True
    trace = float(np.abs(matrix.diagonal()).sum())
    lowered = np.array(matrix)
    lowered[np.diag_indices(size)] -= doubt + 2.0 * (size + 3) * UNIT * trace
    if not np.isfinite(lowered).all():
        return False
    _, info = lapack.dpotrf(lowered, lower=1, clean=0)
    return info == 0


def strong_convexity(hessian: FloatArray, ridge: FloatArray, derived: dict[str, Any]) -> FloatArray | None:
    """d >= 0 with hessian + diag(ridge) − diag(d) proved positive semidefinite; None where nothing is proved. (p,)

    derived : of the hessian alone; holds ridges that were proved to lift it, so that rows of a layer and a
    path of ridges share a proof
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
    """Whether hessian + diag(ridge) is positive definite, in integers. O(p³) operations on long ones."""
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
    """The lowest eigenvalue of hessian + diag(ridge) in units of its diagonal, and what it may be off by.

    Computed and not proved: LAPACK's backward error, a few units of rounding of the largest (Weyl).
    """
    scaled, _ = _unit_diagonal(hessian, ridge)
    values = np.linalg.eigvalsh(scaled)
    return float(values[0]), 8.0 * hessian.shape[0] * UNIT * float(np.abs(values).max())


def _is_lifted(hessian: FloatArray, lift: FloatArray) -> bool:
    if (hessian.diagonal() + lift < 0.0).any():
        return False
    scaled, doubt = _unit_diagonal(hessian, lift)
    return proved_semidefinite(scaled, doubt)


def _by_lowest_eigenvalue(hessian: FloatArray, ridge: FloatArray) -> FloatArray | None:
    """A part of the diagonal, by the lowest eigenvalue in its units."""
    diagonal = hessian.diagonal() + ridge
    live = diagonal > 0.0
    # a semidefinite matrix has no entry beside a zero on its diagonal
    if (diagonal < 0.0).any() or hessian[~live].any() or not live.any():
        return None if hessian.any() else np.zeros(ridge.size)
    out = np.zeros(ridge.size)
    scaled, doubt = _unit_diagonal(hessian[np.ix_(live, live)], ridge[live])
    lowest = float(np.linalg.eigvalsh(scaled)[0])
    for share in VALUE_SHARES:
        held = share * lowest
        if held > 0.0 and proved_semidefinite(scaled - held * np.eye(scaled.shape[0]), doubt + 2.0 * UNIT):
            # the scaling makes the diagonal less than 4: what is proved of it holds of the diagonal's quarter
            out[live] = 0.25 * held * diagonal[live] * (1.0 - 8.0 * UNIT)
            return out
    return out if proved_semidefinite(scaled, doubt) else None


def _unit_diagonal(hessian: FloatArray, ridge: FloatArray) -> tuple[FloatArray, float]:
    """The matrix scaled by powers of two, which round nothing, to a diagonal in [1, 4), and what it is off by."""
    scaled = np.array(hessian)
    scaled[np.diag_indices_from(scaled)] += ridge
    diagonal = scaled.diagonal()
    _, exponent = np.frexp(np.where(diagonal > 0.0, diagonal, 1.0))
    unit = np.ldexp(1.0, -((exponent - 1) // 2))
    scaled *= unit[:, None]
    scaled *= unit
    # the sum on the diagonal is rounded; what the scaling lets underflow is far below that
    return scaled, 4.0 * UNIT * float(np.abs(scaled.diagonal()).max(initial=0.0))


def _less(ridge: FloatArray, lift: FloatArray) -> FloatArray:
    return np.asarray(np.maximum((ridge - lift) * (1.0 - 2.0 * UNIT), 0.0))


def _whole_numbers(hessian: FloatArray, ridge: FloatArray) -> list[list[int]]:
    """hessian + diag(ridge) times a positive number, exactly, as integers."""
    ratios = [[entry.as_integer_ratio() for entry in row] for row in hessian.tolist()]
    lifts = [entry.as_integer_ratio() for entry in ridge.tolist()]
    common = max(bottom for row in [*ratios, lifts] for _, bottom in row)
    rows = [[top * (common // bottom) for top, bottom in row] for row in ratios]
    for i, (top, bottom) in enumerate(lifts):
        rows[i][i] += top * (common // bottom)
    return rows
