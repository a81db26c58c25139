"""A block problem viewed as rows that share one Hessian, for methods that prune whole layers.

A plain quadratic form is a layer with one row. All arrays are in the form's own precision.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, RealArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Counted
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.row_products import as_wide
from prunebench.core.rows import RowsForm
from prunebench.kernels.linear_algebra.triangular import inverse_root

LARGEST = 16384
"""Most weights in a row, as its Hessian is decomposed."""

Kind = Literal["layer", "rows", "groups"]


@dataclass(frozen=True, eq=False)
class LayerView:
    """f(W) = Σ_r ½ w_r'H w_r + q_r'w_r + constant, H being the curvature and the ridge.

    form : the block's
    curvature : (c, c)     H without the ridge
    ridge : float64 (c,)   the same for all rows
    live : bool (c,)       inputs that are not identically zero
    """

    form: QuadraticForm
    curvature: RealArray
    ridge: FloatArray
    live: BoolArray

    @staticmethod
    def of(block: BlockProblem) -> "LayerView":
        """The view of a block that `refusal` accepts."""
        form = block.form
        if isinstance(form, RowsForm):
            return LayerView(form, form.shared, form.row_ridge, form.shared.diagonal() > 0.0)
        curvature = form.gram(np.arange(form.p))
        curvature[np.diag_indices(form.p)] -= form.ridge
        return LayerView(form, curvature, np.asarray(form.ridge), form.curvature_diagonal() > 0.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        columns = self.curvature.shape[0]
        return self.form.p // columns, columns

    @cached_property
    def slope(self) -> RealArray:
        """q, the gradient at w = 0. (r, c)"""
        centre = self.form.centre.reshape(self.shape)
        product = centre @ self.curvature + self.ridge.astype(centre.dtype) * centre
        return np.asarray(self.form.linear.reshape(self.shape) - product)

    @cached_property
    def scale(self) -> RealArray:
        """s with w = s·u, u being the weights for which H has a unit diagonal. (c,)"""
        return np.asarray(1.0 / np.sqrt(self.curvature.diagonal() + self.ridge), dtype=self.curvature.dtype)

    @cached_property
    def scaled_slope(self) -> RealArray:
        """q in the scale in which H has a unit diagonal. (r, c)"""
        return np.asarray(self.slope * self.scale)

    def scaled_matrix(self, *, wide: bool = False) -> RealArray:
        """H with unit diagonal, in float64 where `wide`; a new array. (c, c)"""
        scale = self.scale.astype(np.float64) if wide else self.scale
        matrix = self.curvature * scale[:, None]
        matrix *= scale
        ridge = self.ridge * scale * scale
        matrix[np.diag_indices_from(matrix)] += ridge.astype(matrix.dtype)
        return np.asarray(matrix)

    def scaled_wide(self) -> tuple[FloatArray, FloatArray]:
        """H with unit diagonal and q in its scale, in float64, for compiled loops. (c, c), (r, c)"""
        return as_wide(self.scaled_matrix(wide=True)), as_wide(self.scaled_slope)

    def root(self) -> RealArray:
        """U with H⁻¹ = U'U, upper triangular; of a layer kept for all that have the same Hessian. (c, c)

        Raises
        ------
        LinAlgError   H is not positive definite in float64
        """
        known, key = self.form.derived, f"inverse root/{self.curvature.dtype}/{float(self.ridge[0])}"
        if key in known and (self.ridge == self.ridge[0]).all():
            return np.asarray(known[key])
        try:
            root = inverse_root(self.scaled_matrix())
        except np.linalg.LinAlgError:
            # float32 may not suffice
            root = inverse_root(self.scaled_matrix(wide=True)).astype(self.curvature.dtype)
        root *= self.scale
        if isinstance(self.form, RowsForm) and (self.ridge == self.ridge[0]).all():
            known[key] = root
        return root

    def minimiser(self) -> RealArray:
        """The weights that minimise f without pruning; a new array. (r, c)"""
        centre = np.array(self.form.centre.reshape(self.shape))
        if isinstance(self.form, RowsForm) and not self.form.has_slope:
            return centre
        root = self.root()
        centre -= (self.form.linear.reshape(self.shape) @ root.T) @ root
        return centre


def refusal(block: BlockProblem) -> str:
    """Why a block cannot be viewed as a layer, or ""."""
    form = block.form
    columns = form.columns if isinstance(form, RowsForm) else form.p
    if columns > LARGEST:
        return f"its rows have {columns:,} weights, and their Hessian is decomposed; take at most {LARGEST:,}"
    if isinstance(form, RowsForm) and not form.one_ridge:
        return "its rows have different ridges, so that they share no Hessian; give all rows the same"
    return ""


def kind_of(keeping: Counted, rows: int, columns: int) -> Kind | None:
    """What the counts apply to: the whole "layer", its "rows", or runs of equal length and count ("groups").

    None for any other partition. One row without a quota counts as "layer".
    """
    if keeping.one_count:
        return "layer"
    if keeping.run == columns:
        return "rows"
    equal = keeping.run > 0 and columns % keeping.run == 0
    return "groups" if equal and (keeping.counts == keeping.counts[0]).all() else None


def row_groups(block: BlockProblem, row: int, columns: int, mask: BoolArray) -> tuple[IndexArray, IndexArray]:
    """The groups of one row that swaps must stay within, counts as in `mask` (p,): order (c,), offsets (g + 1,)."""
    part = block.keeping.within(np.arange(row * columns, (row + 1) * columns), mask)
    return part.order, part.offsets
