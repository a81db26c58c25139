"""A block problem viewed as rows that share one Hessian, for methods that prune whole layers.

A plain quadratic form is a layer with one row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Counted
from prunebench.core.rows import RowsForm

LARGEST = 16384
"""Most weights in a row, as its Hessian is decomposed."""

Kind = Literal["layer", "rows", "groups"]


@dataclass(frozen=True, eq=False)
class LayerView:
    """f(W) = Σ_r ½ w_r'H w_r + q_r'w_r + constant.

    matrix : float64 (c, c)     H, the ridge included
    slope : float64 (r, c)      q, the gradient at w = 0
    live : bool (c,)            inputs that are not identically zero
    """

    matrix: FloatArray
    slope: FloatArray
    live: BoolArray

    @staticmethod
    def of(block: BlockProblem) -> "LayerView":
        """The view of a block that `refusal` accepts."""
        form = block.form
        slope = form.linear - form.product(form.centre)
        if isinstance(form, RowsForm):
            matrix = form.shared + np.diag(form.ridge[: form.columns])
            return LayerView(matrix, form.table(slope), form.shared.diagonal() > 0.0)
        return LayerView(form.gram(np.arange(form.p)), slope[None, :], form.curvature_diagonal() > 0.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.slope.shape[0], self.slope.shape[1]

    def scaled(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """H with unit diagonal, q in the same scale, and the scale s with w = s·u. (c, c), (r, c), (c,)"""
        scale = 1.0 / np.sqrt(self.matrix.diagonal())
        return self.matrix * scale[:, None] * scale, self.slope * scale, scale

    def minimiser(self) -> FloatArray:
        """The weights that minimise f without pruning. float64 (r, c)"""
        matrix, slope, scale = self.scaled()
        return np.asarray(-scipy.linalg.solve(matrix, slope.T, assume_a="pos").T * scale)


def refusal(block: BlockProblem) -> str:
    """Why a block cannot be viewed as a layer, or ""."""
    form = block.form
    columns = form.columns if isinstance(form, RowsForm) else form.p
    if columns > LARGEST:
        return f"its rows have {columns:,} weights, and their Hessian is decomposed; take at most {LARGEST:,}"
    if isinstance(form, RowsForm):
        table = form.table(form.ridge)
        if (table != table[0]).any():
            return "its rows have different ridges, so that they share no Hessian; give all rows the same"
    return ""


def kind_of(keeping: Counted, rows: int, columns: int) -> Kind | None:
    """What the counts apply to: the whole "layer", its "rows", or runs of equal length and count ("groups").

    None for any other partition. One row without a quota counts as "layer".
    """
    if keeping.one_count:
        return "layer"
    places = np.arange(rows * columns)
    if np.array_equal(keeping.group, places // columns):
        return "rows"
    size = int(keeping.sizes[0])
    equal = columns % size == 0 and np.array_equal(keeping.group, places // size)
    return "groups" if equal and (keeping.counts == keeping.counts[0]).all() else None


def row_groups(block: BlockProblem, row: int, columns: int, mask: BoolArray) -> tuple[IndexArray, IndexArray]:
    """The groups of one row that swaps must stay within, counts as in `mask` (p,): order (c,), offsets (g + 1,)."""
    part = block.keeping.within(np.arange(row * columns, (row + 1) * columns), mask)
    return part.order, part.offsets
