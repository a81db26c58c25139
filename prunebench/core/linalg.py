"""The three linear systems of the problem layer: Cholesky on a support, push-through, symmetric factor."""

from collections.abc import Callable

import numpy as np
import scipy.linalg

from prunebench.core.arrays import Factor, FloatArray, times, transposed_times
from prunebench.core.errors import InvalidInput

REFINEMENT_STEPS = 2
DUAL_STEPS = 60
DUAL_ACCURACY = 1e-15
"""Squared residual of the dual system relative to the objective's change: bounds the refit's excess."""


def solve_on_support(curvature: FloatArray, ridge: FloatArray, slope: FloatArray) -> FloatArray:
    """The step d with (curvature + diag(ridge)) d = -slope. (k, k), (k,), (k,) -> (k,)

    Diagonally scaled Cholesky with iterative refinement, so neither the units of the weights nor
    those of the loss matter.

    Raises
    ------
    InvalidInput   the matrix is not positive definite
    """
    matrix = curvature.copy()
    matrix[np.diag_indices_from(matrix)] += ridge
    diagonal = matrix.diagonal()
    if (diagonal <= 0.0).any():
        raise _singular()
    scale = 1.0 / np.sqrt(diagonal)
    try:
        factored = scipy.linalg.cho_factor(matrix * scale[:, None] * scale, check_finite=False)
    except scipy.linalg.LinAlgError as error:
        raise _singular() from error

    def solve(right: FloatArray) -> FloatArray:
        return np.asarray(scale * scipy.linalg.cho_solve(factored, scale * right, check_finite=False))

    step = -solve(slope)
    for _ in range(REFINEMENT_STEPS):
        step -= solve(matrix @ step + slope)
    return step


def push_through(columns: Factor, ridge: FloatArray, linear: FloatArray, residual: FloatArray) -> FloatArray:
    """The step d that minimises linear'd + 1/2 ‖residual + A d‖² + 1/2 d' diag(ridge) d, for n < k.

    With K = A diag(1/ridge) A', (I + K) z = residual - A diag(1/ridge) linear and
    d = -diag(1/ridge) (linear + A'z): no difference of nearly equal terms is taken when the
    ridge is small, unlike in the textbook Woodbury form.

    A float32 factor's K is formed in float32 and only preconditions a conjugate gradient whose
    products are in float64, so the accuracy is that of float64 at the cost of float32. The
    objective exceeds its minimum by at most half the squared residual of the dual system.

    Parameters
    ----------
    columns : float32 or float64 (n, k)     the factor's columns on the support
    ridge : float64 (k,)                    positive
    linear : float64 (k,)
    residual : float64 (n,)                 what the weights off the support contribute

    Raises
    ------
    InvalidInput   a ridge of zero: with n < k the curvature alone is singular
    """
    if (ridge <= 0.0).any():
        raise _singular()
    rows = columns.shape[0]
    right = residual - times(columns, linear / ridge)
    scaled = columns / np.sqrt(ridge).astype(columns.dtype)
    narrow = columns.dtype == np.float32
    gram = (scaled @ scaled.T).astype(np.float64)
    if narrow and not np.isfinite(gram).all():
        wide = columns / np.sqrt(ridge)
        gram = wide @ wide.T
    diagonal = gram.diagonal()
    lift = 1.0 + (8.0 * float(np.finfo(np.float32).eps) * float(diagonal.max()) if narrow else 0.0)
    gram[np.diag_indices(rows)] += lift
    factored = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)

    def product(dual: FloatArray) -> FloatArray:
        return dual + times(columns, transposed_times(columns, dual) / ridge)

    def precondition(dual: FloatArray) -> FloatArray:
        return np.asarray(scipy.linalg.cho_solve(factored, dual, check_finite=False))

    dual = _conjugate_gradient(product, precondition, right)
    return -(linear + transposed_times(columns, dual)) / ridge


def _conjugate_gradient(
    product: Callable[[FloatArray], FloatArray],
    precondition: Callable[[FloatArray], FloatArray],
    right: FloatArray,
) -> FloatArray:
    """Preconditioned conjugate gradient, stopped when ‖residual‖² is DUAL_ACCURACY of solution'right."""
    solution = precondition(right)
    residual = right - product(solution)
    preconditioned = precondition(residual)
    direction = preconditioned.copy()
    power = float(residual @ preconditioned)
    for _ in range(DUAL_STEPS):
        if float(residual @ residual) <= DUAL_ACCURACY * abs(float(solution @ right)) or power <= 0.0:
            break
        image = product(direction)
        length = power / float(direction @ image)
        solution += length * direction
        residual -= length * image
        preconditioned = precondition(residual)
        next_power = float(residual @ preconditioned)
        direction = preconditioned + (next_power / power) * direction
        power = next_power
    return solution


def symmetric_factor(matrix: FloatArray) -> FloatArray:
    """A with A'A = matrix for a positive semidefinite matrix; rows below rounding left out. (p, p) -> (r, p)

    Raises
    ------
    InvalidInput   an eigenvalue is negative beyond rounding
    """
    values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
    largest = max(float(values[-1]), 0.0)
    rounding = matrix.shape[0] * np.finfo(np.float64).eps * largest
    if values[0] < -1e3 * rounding - np.finfo(np.float64).tiny:
        raise InvalidInput(
            f"hessian has the negative eigenvalue {values[0]:.3g}, so it is not positive semidefinite; "
            "use A'A with A the sample gradients, or clip the spectrum"
        )
    held = values > rounding
    return np.ascontiguousarray((vectors[:, held] * np.sqrt(values[held])).T)


def _singular() -> InvalidInput:
    return InvalidInput(
        "the curvature is singular on the kept weights and the ridge does not lift it; "
        "use a positive ridge, for example 1e-3 of the mean of the curvature's diagonal"
    )
