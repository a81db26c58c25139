"""The Hessian that all rows of a layer share, checked once, with what is computed of it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, row_chunks
from prunebench.core.balls import UNIT
from prunebench.core.quadratic import QuadraticForm, checked_hessian
from prunebench.core.row_products import as_wide


@dataclass(frozen=True, eq=False)
class SharedHessian:
    """The Hessian of each row of a layer, checked once for all layers that have the same inputs.

    matrix : float32 or float64 (c, c)   symmetric, read-only;  largest : of its absolute entries
    derived : cache of results computed from it, by name
    """

    matrix: npt.NDArray[Any]
    largest: float
    derived: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(matrix: "npt.ArrayLike | SharedHessian") -> "SharedHessian":
        """The matrix, checked. It is not copied where it is symmetric to the last digit and cannot change.

        Raises
        ------
        InvalidInput   no square matrix, NaN or infinity, not symmetric
        """
        return matrix if isinstance(matrix, SharedHessian) else SharedHessian(*checked_hessian(matrix, narrow=True))

    @cached_property
    def one_row(self) -> QuadraticForm:
        """The curvature of one row in float64, with neither ridge nor slope; it shares what is derived."""
        made = QuadraticForm(hessian=as_wide(self.matrix))
        object.__setattr__(made, "derived", self.derived)
        return made

    @cached_property
    def diagonal(self) -> FloatArray:
        """The diagonal. float64 (c,)"""
        return np.array(self.matrix.diagonal(), dtype=np.float64)

    @cached_property
    def sizes(self) -> FloatArray:
        """s >= 0 with |H_ij| <= s_i s_j: as `QuadraticForm.entry_sizes`. float64 (c,)"""
        sizes = np.sqrt(np.maximum(self.diagonal, 0.0)) * (1.0 + 4.0 * UNIT)
        if all((np.abs(self.matrix[rows]) <= sizes[rows, None] * sizes).all() for rows in row_chunks(self.matrix)):
            return sizes
        largest = [np.abs(self.matrix[rows]).max(axis=1) for rows in row_chunks(self.matrix)]
        return np.asarray(np.sqrt(as_wide(np.concatenate(largest))) * (1.0 + 4.0 * UNIT))

    def __getstate__(self) -> dict[str, Any]:
        """The fields without cached results."""
        return {"matrix": self.matrix, "largest": self.largest, "derived": {}}
