"""One eigendecomposition of the curvature, used for every ridge, penalty and keep count.

With A A' = U diag(λ) U', (A'A + c I)⁻¹ v = (v − A' U (λ + c)⁻¹ U' A v)/c for any c > 0, two passes over A.
For a stored Hessian H = Q diag(λ) Q' it is Q (λ + c)⁻¹ Q' v.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from prunebench.core.arrays import RealArray
from prunebench.core.quadratic import QuadraticForm
from prunebench.kernels.linear_algebra.matrix import FactorMatrix, Matrix

RIDGE_FLOOR = 1e-9
"""Least ridge used to scale a weight's units, relative to the mean of the curvature's diagonal."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The curvature in units u = w·scale in which the ridge is the same for all weights.

    values : (r,), not negative;  vectors : (r, r);  matrix : A in these units, or None if the vectors
    are those of the Hessian itself;  scale : (p,), or None for 1;  ridge : float;
    mean_diagonal : trace/p without the ridge
    """

    values: RealArray
    vectors: RealArray
    matrix: Matrix | None
    scale: RealArray | None
    ridge: float
    mean_diagonal: float

    def solve(self, right: RealArray, shift: float, residual: RealArray | None = None) -> RealArray:
        """(curvature + shift·I)⁻¹ (right − A' residual), in these units. (p,), (n,) -> (p,)

        residual : only with a matrix; not formed as A' residual, which would cancel
        """
        if self.matrix is None:
            return np.asarray(self.vectors @ ((self.vectors.T @ right) / (self.values + shift)))
        along = self.matrix.times(right)
        if residual is not None:
            along += right.dtype.type(shift) * residual
        image = self.vectors @ ((self.vectors.T @ along) / (self.values + shift))
        return np.asarray((right - self.matrix.transposed_times(image)) / right.dtype.type(shift))


def spectrum(form: QuadraticForm, device: str = "cpu") -> Spectrum:
    """The decomposition of a form's curvature, computed once for all forms that share the factor.

    Parameters
    ----------
    form : a uniform ridge needs no scaling, so all of them share one decomposition
    device : where the products with the factor are computed: "cpu", or a torch device
    """
    ridge = form.ridge
    if (ridge == ridge[0]).all():
        key = f"spectrum/{device}"
        if key not in form.derived:
            form.derived[key] = _decompose(form, None, device)
        values, vectors, matrix, mean_diagonal = form.derived[key]
        return Spectrum(values, vectors, matrix, None, float(ridge[0]), mean_diagonal)
    mean_ridge = float(ridge.mean())
    scale = np.sqrt(np.maximum(ridge, RIDGE_FLOOR * mean_ridge) / mean_ridge)
    values, vectors, matrix, mean_diagonal = _decompose(form, scale, device)
    return Spectrum(values, vectors, matrix, scale, mean_ridge, mean_diagonal)


def _decompose(
    form: QuadraticForm, scale: RealArray | None, device: str
) -> tuple[RealArray, RealArray, Matrix | None, float]:
    matrix: Matrix | None = None
    if form.factor is not None:
        matrix = _matrix(form, scale, device)
        gram = matrix.gram()
    else:
        assert form.hessian is not None
        gram = np.array(form.hessian) if scale is None else form.hessian / (scale[:, None] * scale)
    mean_diagonal = float(np.trace(gram, dtype=np.float64)) / form.p
    # LAPACK's single precision has a small exponent range, and losses come in any units
    unit = mean_diagonal if mean_diagonal > 0.0 else 1.0
    gram /= gram.dtype.type(unit)
    values, vectors = scipy.linalg.eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    return np.maximum(values, 0.0) * gram.dtype.type(unit), vectors, matrix, mean_diagonal


def _matrix(form: QuadraticForm, scale: RealArray | None, device: str) -> Matrix:
    assert form.factor is not None
    inverse = None if scale is None else 1.0 / scale
    if device == "cpu":
        return FactorMatrix(form.factor, inverse)
    from prunebench.devices import TorchMatrix

    return TorchMatrix(form.factor, inverse, device)
