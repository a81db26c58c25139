"""The select objective of a whole layer, whose rows do not interact."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import row_products
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.qubo import Qubo
from prunebench.core.rows import SMALL, RowsForm


@dataclass(frozen=True, eq=False)
class RowsQubo(Qubo):
    """The select objective of a whole layer; couplings between rows are zero.

    shared : float64 (c, c), the Hessian of each row without the ridge
    """

    shared: npt.NDArray[Any]

    @staticmethod
    def of(form: RowsForm, dense_weights: FloatArray) -> "RowsQubo":
        """Expand f(m·dense_weights), as Qubo.from_form does."""
        wide = row_products.as_wide(dense_weights)
        slope = form.linear - form.product(form.centre)
        linear = wide * slope + 0.5 * wide**2 * form.diagonal()
        return RowsQubo(form.value(np.zeros(form.p)), linear, wide, None, None, form.shared)

    @cached_property
    def couplings(self) -> FloatArray:
        """J, (p, p), zero between rows; for small layers only.

        Raises
        ------
        InvalidInput   more than 4,096 weights: take one row at a time
        """
        if self.p > SMALL:
            raise InvalidInput(f"the layer has {self.p:,} weights; take one row at a time for its couplings")
        matrix = np.kron(np.eye(self.p // self.shared.shape[0]), self.shared) * self.scale[:, None] * self.scale
        np.fill_diagonal(matrix, 0.0)
        return np.asarray(matrix)

    def energies(self, masks: BoolArray) -> FloatArray:
        """E of many masks at once. bool (s, p) -> float64 (s,)."""
        chosen = np.asarray(masks, dtype=np.float64)
        squares = np.array([self._along(self.scale * mask) for mask in chosen])
        return np.asarray(self.constant + chosen @ self.linear + 0.5 * (squares - chosen @ self._own_squares))

    def _group_squares(self, quota: Quota) -> FloatArray:
        size = int(quota.sizes[0])
        columns = self.shared.shape[0]
        if quota.run and columns % size == 0:
            corners = np.arange(columns).reshape(-1, size)
            blocks = self.shared[corners[:, :, None], corners[:, None, :]]
            table = self.scale.reshape(-1, columns // size, size)
            return np.asarray(np.einsum("rgi,gij,rgj->rg", table, blocks, table, optimize=True).reshape(-1))
        out = np.empty(quota.counts.size)
        for number in range(out.size):
            members = quota.members(number)
            row, column = np.divmod(members, columns)
            first, place = np.unique(row, return_inverse=True)
            table = np.zeros((first.size, columns))
            table[place, column] = self.scale[members]
            out[number] = np.einsum("ij,ij->", table @ self.shared, table)
        return out

    @cached_property
    def _own_squares(self) -> FloatArray:
        return np.asarray(self.scale**2 * np.tile(self.shared.diagonal(), self.p // self.shared.shape[0]))

    def _along(self, move: FloatArray) -> float:
        table = move.reshape(-1, self.shared.shape[0])
        return row_products.along(table, self.shared)
