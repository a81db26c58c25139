"""The linear algebra of the problem layer: refits by Cholesky or push-through, and a symmetric factor.

scipy.linalg is imported where used, as it loads more slowly than everything else that `import prunebench` needs.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import lapack
from prunebench.core.arrays import Factor, FloatArray, by_column, times, transposed_times
from prunebench.core.errors import InvalidInput

REFINEMENT_STEPS = 2
"""Steps of iterative refinement after a Cholesky solve: O(k²) each, against O(k³) for the factorisation."""
DUAL_STEPS = 60
"""Most conjugate-gradient steps on the dual system; normally DUAL_ACCURACY ends them earlier."""
NARROW_STEPS = 12
"""Steps after which forming the float64 system is cheaper than continuing with the float32 one."""
DUAL_ACCURACY = 1e-15
"""Squared residual of the dual system relative to the objective's change; bounds how far a refit is from optimal."""
ROUNDINGS = 64.0
"""Units of roundoff by which a correction's residual may be wrong, relative to its first residual."""


def solve_on_support(curvature: FloatArray, ridge: FloatArray, slope: FloatArray) -> FloatArray:
    """The step d with (curvature + diag(ridge)) d = -slope. (k, k), (k,), (k,) -> (k,)

    Diagonally scaled Cholesky with iterative refinement: the units of the weights and of the loss do not
    matter.

    Raises
    ------
    InvalidInput   the matrix is not positive definite
    """
    matrix = curvature.copy()
    matrix.reshape(-1)[:: matrix.shape[0] + 1] += ridge
    diagonal = matrix.diagonal()
    if (diagonal <= 0.0).any():
        raise singular()
    scale = 1.0 / np.sqrt(diagonal)
    # scipy's own functions around these two take longer than a small system
    factored, info = lapack.dpotrf(matrix * scale[:, None] * scale, lower=0, clean=0)
    if info:
        raise singular()

    def solve(right: FloatArray) -> FloatArray:
        return np.asarray(scale * lapack.dpotrs(factored, scale * right, lower=0)[0])

    step = -solve(slope)
    for _ in range(REFINEMENT_STEPS):
        step -= solve(matrix @ step + slope)
    return step


def push_through(
    columns: Factor, ridge: FloatArray, linear: FloatArray, residual: FloatArray, system: FloatArray | None = None
) -> FloatArray:
    """The step d that minimises linear'd + 1/2 ‖residual + A d‖² + 1/2 d' diag(ridge) d, for n < k.

    With K = A diag(1/ridge) A', (I + K) z = residual - A diag(1/ridge) linear and
    d = -diag(1/ridge) (linear + A'z). Unlike the textbook Woodbury form, this subtracts no nearly equal
    terms when the ridge is small.

    For a float32 factor, K is formed in float32 as a preconditioner only, and conjugate gradients in
    float32 compute corrections to residuals taken in float64: float64 accuracy at float32 cost. The
    objective exceeds its minimum by at most half the squared residual of the dual system.

    Parameters
    ----------
    columns : float32 or float64 (n, k)     the factor's columns on the support
    ridge : float64 (k,)                    positive
    linear : float64 (k,)
    residual : float64 (n,)                 contribution of the weights off the support
    system : float64 (n, n), optional       I + K if known; used as a preconditioner only

    Raises
    ------
    InvalidInput   a ridge of zero: with n < k the curvature alone is singular
    """
    if (ridge <= 0.0).any():
        raise singular()
    right = residual - times(columns, linear / ridge) if linear.any() else residual
    narrow = columns.dtype == np.float32
    steps = NARROW_STEPS if narrow else DUAL_STEPS
    precondition = _dual_preconditioner(columns, ridge) if system is None else _inverse(system)
    image, reached = _dual_solution(columns, ridge, precondition, right, steps)
    if narrow and not reached:
        wide = columns.astype(np.float64)
        image, _ = _dual_solution(wide, ridge, _dual_preconditioner(wide, ridge), right, DUAL_STEPS)
    return -(linear + image) / ridge


def _dual_preconditioner(columns: Factor, ridge: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The inverse of I + K, with K formed in the factor's precision. (n,) -> (n,)"""
    dtype = columns.dtype
    uniform = bool((ridge == ridge[0]).all())
    with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
        scaled = columns if uniform else columns / np.sqrt(ridge).astype(dtype)
        upper = _upper_gram(scaled, float(1.0 / ridge[0]) if uniform else 1.0)
    # no sum of products exceeds those of the diagonal
    if not np.isfinite(upper.diagonal()).all():
        upper = _upper_gram(columns / np.sqrt(ridge))
    lift = 1.0 + 8.0 * float(np.finfo(upper.dtype).eps) * float(upper.diagonal().max())
    upper[np.diag_indices_from(upper)] += upper.dtype.type(lift)

    def again() -> npt.NDArray[Any]:
        wide = _upper_gram(columns / np.sqrt(ridge))
        wide[np.diag_indices_from(wide)] += 1.0
        return wide

    return _inverse(upper, again)


def _upper_gram(columns: npt.NDArray[Any], share: float = 1.0) -> npt.NDArray[Any]:
    """share · A A' by BLAS in the precision of A: its upper triangle, stored by column. (n, k) -> (n, n)

    numpy's product would fill in the other triangle and store it by row, which LAPACK would copy.
    """
    from scipy.linalg import blas

    rank_update = blas.ssyrk if columns.dtype == np.float32 else blas.dsyrk
    if by_column(columns):
        return np.asarray(rank_update(share, columns))
    return np.asarray(rank_update(share, columns.T, trans=1))


def _inverse(
    system: npt.NDArray[Any], again: Callable[[], npt.NDArray[Any]] | None = None
) -> Callable[[FloatArray], FloatArray]:
    """The inverse of a positive definite matrix in its own precision, or in float64 if that fails. (n,) -> (n,)

    again : gives the matrix in float64 if this one may be overwritten; only the upper triangle is read
    """
    import scipy.linalg

    try:
        factored = scipy.linalg.cho_factor(system, overwrite_a=again is not None, check_finite=False)
    except scipy.linalg.LinAlgError:
        wide = system.astype(np.float64) if again is None else again()
        factored = scipy.linalg.cho_factor(wide, overwrite_a=True, check_finite=False)
    held = factored[0].dtype

    def precondition(dual: FloatArray) -> FloatArray:
        return _scaled(
            dual, held, lambda unit: scipy.linalg.cho_solve(factored, unit, overwrite_b=True, check_finite=False)
        )

    return precondition


def _dual_solution(
    columns: Factor,
    ridge: FloatArray,
    precondition: Callable[[FloatArray], FloatArray],
    right: FloatArray,
    steps: int,
) -> tuple[FloatArray, bool]:
    """A'z with (I + A diag(1/ridge) A') z = right, by conjugate-gradient corrections of float64 residuals.

    The residual is recomputed when the rounding of the corrections could hide its true size. Stops when
    ‖residual‖² is at most DUAL_ACCURACY·z'right, after `steps`, or when rounding allows no further
    progress. A'z is updated along with z, which saves a pass over the columns.

    Returns
    -------
    A'z, float64 (k,), and whether that accuracy was reached
    """
    solution = precondition(right)
    image, applied = _wide_product(columns, ridge, solution)
    residual, last = right - applied, float("inf")
    rounding = ROUNDINGS * float(np.finfo(columns.dtype).eps)
    while True:
        allowed, size = DUAL_ACCURACY * abs(float(solution @ right)), float(residual @ residual)
        if size <= allowed:
            return image, True
        if steps <= 0 or not size < last:
            return image, False
        floor = rounding**2 * size
        step, step_image, left, made = _correction(columns, ridge, precondition, residual, max(allowed, floor), steps)
        solution, image, steps, last = solution + step, image + step_image, steps - made, size
        if left <= allowed and floor <= allowed:
            return image, True
        image, applied = _wide_product(columns, ridge, solution)
        residual = right - applied


def _correction(
    columns: Factor,
    ridge: FloatArray,
    precondition: Callable[[FloatArray], FloatArray],
    right: FloatArray,
    target: float,
    steps: int,
) -> tuple[FloatArray, FloatArray, float, int]:
    """z and A'z with (I + A diag(1/ridge) A') z = right by conjugate gradient in the factor's precision.

    Returns
    -------
    z, A'z, the squared norm of the residual (at most `target` unless the steps ran out), and the steps made
    """
    solution, image, residual = np.zeros_like(right), np.zeros(ridge.size), right.copy()
    preconditioned = precondition(residual)
    direction, power = preconditioned, float(residual @ preconditioned)
    for made in range(1, steps + 1):
        if power <= 0.0:
            return solution, image, float(residual @ residual), made
        direction_image, applied = _own_product(columns, ridge, direction)
        length = power / float(direction @ applied)
        solution += length * direction
        image += length * direction_image
        residual -= length * applied
        if (left := float(residual @ residual)) <= target:
            return solution, image, left, made
        preconditioned = precondition(residual)
        next_power = float(residual @ preconditioned)
        direction = preconditioned + (next_power / power) * direction
        power = next_power
    return solution, image, left, steps


def _wide_product(columns: Factor, ridge: FloatArray, dual: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A'z and (I + A diag(1/ridge) A') z in float64. (n,) -> (k,), (n,)"""
    image = transposed_times(columns, dual)
    return image, dual + times(columns, image / ridge)


def _own_product(columns: Factor, ridge: FloatArray, dual: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same products in the columns' own precision, with vectors scaled to unit size before rounding."""
    image = _scaled(dual, columns.dtype, lambda unit: unit @ columns)
    return image, dual + _scaled(image / ridge, columns.dtype, lambda unit: columns @ unit)


def _scaled(
    vector: FloatArray, dtype: npt.DTypeLike, product: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> FloatArray:
    """A product with a vector scaled to unit size: float32 has few exponents, and the loss may have any units."""
    size = float(np.abs(vector).max()) or 1.0
    # BLAS was seen to set the flag of an invalid operation for finite float32 numbers with a finite product, so that
    # numpy warned of nothing: the numbers themselves are looked at.
    with np.errstate(invalid="ignore"):
        found = product((vector / size).astype(dtype)).astype(np.float64) * size
    if np.isnan(found).any():
        warnings.warn("a product of the columns is not a number", RuntimeWarning, stacklevel=2)
    return found


def symmetric_factor(matrix: FloatArray, lift: float = 0.0) -> FloatArray:
    """A with A'A = matrix for a positive semidefinite matrix, without rows below rounding. (p, p) -> (r, p)

    Negative eigenvalues down to -lift are dropped too; a Gram matrix in float32 has some, which a ridge lifts.

    Raises
    ------
    InvalidInput   an eigenvalue is negative beyond rounding and `lift`
    """
    import scipy.linalg

    values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
    largest = max(float(values[-1]), 0.0)
    rounding = matrix.shape[0] * np.finfo(np.float64).eps * largest
    if values[0] < -1e3 * rounding - lift - np.finfo(np.float64).tiny:
        raise InvalidInput(
            f"hessian has the negative eigenvalue {values[0]:.3g}, so it is not positive semidefinite; "
            "use A'A with A the sample gradients, or clip the spectrum"
        )
    held = values > rounding
    return np.ascontiguousarray((vectors[:, held] * np.sqrt(values[held])).T)


def singular() -> InvalidInput:
    """The error for a refit with singular curvature."""
    return InvalidInput(
        "the curvature is singular on the kept weights and the ridge does not lift it; "
        "use a positive ridge, for example 1e-3 of the mean of the curvature's diagonal"
    )
