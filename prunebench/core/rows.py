"""The quadratic form of a whole linear layer, whose rows share one Hessian: H = I ⊗ (G + ridge).

For inputs X (n, columns) and output rows w_r, f(W) = Σ_r ½‖X (w_r − w°_r)‖²/n + …: one Gram matrix
G = X'X/n serves all rows (Frantar, Alistarh: SparseGPT, ICML 2023, §3.1; Meng et al.: ALPS, NeurIPS
2024, eq. 1). Methods that decide over all rows at once, such as SparseGPT's column blocks or a layer-wide
support, get the layer as one block problem of rows·columns weights without any p×p matrix.
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import definite, linalg
from prunebench.core.arrays import BoolArray, Factor, FloatArray, frozen, numeric, vector, whole_number
from prunebench.core.balls import TINY, UNIT, Ball
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm, checked_constant, checked_ridge
from prunebench.core.qubo import Qubo

SMALL = 4096
"""Most weights of a layer whose Hessian or factor may be formed explicitly."""
DIRECT_SIZE = 640
"""Supports of at most this many weights are solved by Cholesky, row by row; larger ones by conjugate gradients."""
GRADIENT_STEPS, GRADIENT_ACCURACY = 500, 1e-20
"""Most steps, and the squared residual relative to the right-hand side at which a row has converged."""


@dataclass(frozen=True, kw_only=True, eq=False, init=False)
class RowsForm(QuadraticForm):
    """A quadratic form of rows × columns weights, in row-major order, whose Hessian is the same for every row.

    `factor` and `hessian` are None: solvers that need them take one row at a time (`row`). Others use `shared`
    and the methods, which cost at most O(rows·columns²).

    Parameters
    ----------
    shared : float (c, c)      the Hessian of each row without the ridge, symmetric
    rows : int                 how many rows there are
    ridge : float or (p,)      as in QuadraticForm, p = rows·c;  linear, centre, constant likewise

    Raises
    ------
    InvalidInput   as QuadraticForm, or fewer than one row
    """

    shared: FloatArray
    rows: int
    _one_row: QuadraticForm = field(repr=False)
    """The curvature of each row, with neither ridge nor slope."""

    def __init__(
        self,
        *,
        shared: npt.ArrayLike,
        rows: int,
        ridge: npt.ArrayLike = 0.0,
        linear: npt.ArrayLike | None = None,
        centre: npt.ArrayLike | None = None,
        constant: float = 0.0,
    ) -> None:
        count = whole_number("rows", rows, 1)
        one = QuadraticForm(hessian=shared)
        assert one.hessian is not None
        size = count * one.p
        # rows is a mere number: allocate nothing of its size before the arrays agree with it
        for name, given in (("ridge", ridge), ("linear", linear), ("centre", centre)):
            shape = () if given is None else np.shape(numeric(name, given))
            if shape not in ((size,), ()) or (name != "ridge" and given is not None and shape == ()):
                raise InvalidInput(
                    f"{name} has shape {shape}; expected ({size},) for {count} rows of {one.p} weights; "
                    "correct it or rows"
                )
        for name, value in (
            ("factor", None),
            ("hessian", None),
            ("shared", one.hessian),
            ("rows", count),
            ("ridge", checked_ridge(ridge, size)),
            ("linear", vector("linear", np.zeros(size) if linear is None else linear, size)),
            ("centre", vector("centre", np.zeros(size) if centre is None else centre, size)),
            ("constant", checked_constant(constant)),
            ("formed_error", 0.0),
            ("largest_curvature", one.largest_curvature),
            ("derived", {}),
            ("_one_row", one),
        ):
            object.__setattr__(self, name, value)

    @property
    def columns(self) -> int:
        """Number of weights in a row."""
        return int(self.shared.shape[0])

    def table(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array with one entry per weight as a table. (p,) -> (rows, columns)"""
        return values.reshape(self.rows, self.columns)

    def row(self, number: int) -> QuadraticForm:
        """The form of one row without the constant; all rows share the Hessian and its cached results."""
        part = slice(number * self.columns, (number + 1) * self.columns)
        # making a new form would copy and check the Hessian for every row
        out = copy.copy(self._one_row)
        object.__setattr__(out, "derived", self._one_row.derived)
        for name in ("ridge", "linear", "centre"):
            object.__setattr__(out, name, frozen(getattr(self, name)[part]))
        return out

    def product(self, direction: npt.ArrayLike) -> FloatArray:
        """H times `direction`, including the ridge. float (p,) -> float64 (p,). Cost 2·rows·columns²."""
        step = vector("direction", direction, self.p)
        return np.asarray((self.table(step) @ self.shared).reshape(-1) + self.ridge * step)

    def gram(self, indices: npt.ArrayLike) -> FloatArray:
        """H restricted to `indices`, including the ridge; zero between rows. int (b,) -> float64 (b, b)."""
        chosen = self._checked_indices(indices)
        row, column = np.divmod(chosen, self.columns)
        out = np.where(row[:, None] == row, self.shared[np.ix_(column, column)], 0.0)
        out[np.diag_indices(chosen.size)] += self.ridge[chosen]
        return np.asarray(out)

    def square_root(self) -> Factor:
        """A factor of the whole curvature, (rows·rank, p); for small layers only.

        Raises
        ------
        InvalidInput   more than 4,096 weights: take one row at a time
        """
        self._require_small()
        return np.kron(np.eye(self.rows), linalg.symmetric_factor(self.shared, float(self.ridge.min())))

    def plain(self) -> QuadraticForm:
        """The same form with one explicit Hessian, (p, p); for small layers only.

        Raises
        ------
        InvalidInput   more than 4,096 weights: take one row at a time
        """
        self._require_small()
        return QuadraticForm(
            hessian=np.kron(np.eye(self.rows), self.shared),
            ridge=self.ridge,
            linear=self.linear,
            centre=self.centre,
            constant=self.constant,
        )

    def restrict(self, indices: npt.ArrayLike, weights: npt.ArrayLike) -> QuadraticForm:
        """The same function of the weights in `indices`, with all others fixed at `weights`; see QuadraticForm."""
        chosen = self._checked_indices(indices)
        move = vector("weights", weights, self.p) - self.centre
        move[chosen] = 0.0
        gram = self.gram(chosen)
        gram[np.diag_indices(chosen.size)] -= self.ridge[chosen]
        return QuadraticForm(
            hessian=gram,
            ridge=self.ridge[chosen],
            linear=self.linear[chosen] + self.product(move)[chosen],
            centre=self.centre[chosen],
            constant=self.constant + float(self.linear @ move) + 0.5 * self._curvature_along(move),
        )

    def refit(self, mask: npt.ArrayLike, system: FloatArray | None = None) -> FloatArray:
        """The weights that minimise f subject to zeros off `mask`. bool (p,) -> float64 (p,).

        Cholesky row by row if few weights are kept; otherwise conjugate gradients on all rows at once with the
        diagonal as preconditioner (ALPS, §3.3), and Cholesky for rows that do not converge. `system` is
        ignored: it is for forms with a factor.

        Raises
        ------
        InvalidInput   the curvature is singular on a row's support and the ridge does not make it regular
        """
        kept = np.asarray(mask)
        if kept.dtype != np.bool_ or kept.shape != (self.p,):
            raise InvalidInput(f"mask has dtype {kept.dtype} and shape {kept.shape}; expected bool ({self.p},)")
        table = self.table(kept)
        outside = np.where(kept, 0.0, -self.centre)
        slope = np.where(table, self.table(self.linear) + self.table(outside) @ self.shared, 0.0)
        step = np.zeros_like(slope)
        large = np.flatnonzero(table.sum(axis=1) > DIRECT_SIZE)
        left = set(range(self.rows))
        if large.size and (self.ridge > 0.0).all():
            step[large], done = self._by_gradients(table[large], slope[large], self.table(self.ridge)[large])
            left -= set(large[done].tolist())
        for number in sorted(left):
            support = np.flatnonzero(table[number])
            if support.size:
                ridge = self.table(self.ridge)[number, support]
                matrix = self.shared[np.ix_(support, support)]
                step[number, support] = linalg.solve_on_support(matrix, ridge, slope[number, support])
        return np.where(kept, self.centre + step.reshape(-1), 0.0)

    @property
    def is_indefinite(self) -> bool:
        """Whether H with its ridge has a computed negative eigenvalue and is not proved positive semidefinite."""
        if self.strong_convexity is not None:
            return False
        lowest, rounding = definite.lowest_eigenvalue(self.shared, self.table(self.ridge).min(axis=0))
        return lowest < -rounding

    @property
    def entry_sizes(self) -> FloatArray:
        """s >= 0 with |H_ij| <= s_i s_j for the curvature without the ridge. float64 (p,)"""
        return np.tile(self._one_row.entry_sizes, self.rows)

    def _require_small(self) -> None:
        if self.p > SMALL:
            raise InvalidInput(f"the layer has {self.p:,} weights, too many for one matrix; take one row at a time")

    @cached_property
    def _curvature_diagonal(self) -> FloatArray:
        return np.tile(self.shared.diagonal(), self.rows)

    def _curvature_along(self, move: FloatArray) -> float:
        table = self.table(move)
        return float(np.einsum("ij,ij->", table @ self.shared, table)) + float((self.ridge * move) @ move)

    def _proved_convexity(self) -> FloatArray | None:
        """Proved once, for the shared Hessian with the smallest ridge of each column."""
        least = self.table(self.ridge).min(axis=0)
        floor = definite.strong_convexity(self.shared, least, self._one_row.derived)
        return None if floor is None else np.tile(floor, self.rows)

    def _curvature_enclosure(self, move: Ball) -> tuple[Ball, Ball]:
        """Balls of move'C move and C move, C being the curvature without the ridge."""
        middle, size = self.table(move.mid), self.table(move.rad + (self.columns + 8) * 1.01 * UNIT * move.size)
        spread = (size @ np.abs(self.shared)).reshape(-1)
        product = Ball((middle @ self.shared).reshape(-1), spread * (1.0 + 1e-9) + TINY)
        return (product * move).total(), product

    def _by_gradients(self, mask: BoolArray, slope: FloatArray, ridge: FloatArray) -> tuple[FloatArray, BoolArray]:
        """The step d with (H + ridge) d = −slope on each row's support, and which rows converged."""
        diagonal = self.shared.diagonal() + ridge
        step, residual = np.zeros_like(slope), -slope
        goal = GRADIENT_ACCURACY * np.einsum("ij,ij->i", slope, slope / diagonal)
        image = residual / diagonal
        direction, power = image.copy(), np.einsum("ij,ij->i", residual, image)
        for _ in range(GRADIENT_STEPS):
            active = power > goal
            if not active.any():
                break
            applied = np.where(mask, direction @ self.shared + ridge * direction, 0.0)
            along = np.einsum("ij,ij->i", direction, applied)
            length = np.where(active & (along > 0.0), power / np.where(along > 0.0, along, 1.0), 0.0)[:, None]
            step += length * direction
            residual -= length * applied
            image = residual / diagonal
            before, power = power, np.einsum("ij,ij->i", residual, image)
            direction = image + np.where(active, power / np.where(before > 0.0, before, 1.0), 0.0)[:, None] * direction
        return step, power <= goal


@dataclass(frozen=True, eq=False)
class RowsQubo(Qubo):
    """The select objective of a whole layer; couplings between rows are zero.

    shared : float64 (c, c), the Hessian of each row without the ridge
    """

    shared: FloatArray

    @staticmethod
    def of(form: RowsForm, dense_weights: FloatArray) -> "RowsQubo":
        """Expand f(m·dense_weights), as Qubo.from_form does."""
        slope = form.linear - form.product(form.centre)
        linear = dense_weights * slope + 0.5 * dense_weights**2 * form.diagonal()
        return RowsQubo(form.value(np.zeros(form.p)), linear, dense_weights, None, None, form.shared)

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
        if columns % size == 0 and np.array_equal(quota.group, np.arange(self.p) // size):
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
        return float(np.einsum("ij,ij->", table @ self.shared, table))
