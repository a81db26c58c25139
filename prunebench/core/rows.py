"""The quadratic form of a whole linear layer, whose rows share one Hessian: H = I ⊗ (G + ridge).

For inputs X (n, columns) and output rows w_r, f(W) = Σ_r ½‖X (w_r − w°_r)‖²/n + …: one Gram matrix
G = X'X/n serves all rows (Frantar, Alistarh: SparseGPT, ICML 2023, §3.1; Meng et al.: ALPS, NeurIPS
2024, eq. 1). Methods that decide over all rows at once, such as SparseGPT's column blocks or a layer-wide
support, get the layer as one block problem of rows·columns weights without any p×p matrix.

A layer in float32 stays in float32: its weights, its Hessian and the weights of a refit. Objectives, slopes and
products are computed in float64 (`row_products`).
"""

import copy
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import definite, linalg, row_products
from prunebench.core.arrays import (
    Factor,
    FloatArray,
    fixed,
    frozen,
    immutable,
    numeric,
    owner,
    require_finite,
    whole_number,
)
from prunebench.core.balls import TINY, UNIT, Ball
from prunebench.core.errors import InvalidInput
from prunebench.core.quadratic import QuadraticForm, checked_constant, checked_ridge
from prunebench.core.shared_hessian import SharedHessian

SMALL = 4096
"""Most weights of a layer whose Hessian or factor may be formed explicitly."""
DIRECT_SIZE = 256
"""Supports of at most this many weights are solved by Cholesky, row by row; larger ones by conjugate gradients."""
ROUNDINGS = 8.0
"""Terms allowed for the subtractions and products around a sum, in `RowsForm.rounding_of`."""
CACHED = ("_known", "_convexity")
"""Results that a form remembers, and that are not sent with it."""
VECTORS = ("ridge", "linear", "centre")
"""What has an entry a weight, or one number for all."""


@dataclass(frozen=True, kw_only=True, eq=False, init=False)
class RowsForm(QuadraticForm):
    """A quadratic form of rows × columns weights, in row-major order, whose Hessian is the same for every row.

    `factor` and `hessian` are None: solvers that need them take one row at a time (`row`). Others use `shared`
    and the methods, which cost at most O(rows·columns²).

    Parameters
    ----------
    shared : (c, c)            the Hessian of each row without the ridge, symmetric, or a `SharedHessian`. If it,
                               linear and centre are float32, all stay in float32; else all are held in float64
    rows : int                 how many rows there are
    ridge : float or (p,)      as in QuadraticForm, p = rows·c;  linear, centre, constant likewise

    Raises
    ------
    InvalidInput   as QuadraticForm, or fewer than one row

    Arrays that cannot change are not copied, and a number or an absent term takes no memory of the layer's size.
    """

    shared: npt.NDArray[Any]
    rows: int
    held: SharedHessian = field(repr=False)
    """`shared`, with what has been computed of it."""

    def __init__(
        self,
        *,
        shared: "npt.ArrayLike | SharedHessian",
        rows: int,
        ridge: npt.ArrayLike = 0.0,
        linear: npt.ArrayLike | None = None,
        centre: npt.ArrayLike | None = None,
        constant: float = 0.0,
    ) -> None:
        count = whole_number("rows", rows, 1)
        held = SharedHessian.of(shared)
        size = count * held.matrix.shape[0]
        # rows is a mere number: allocate nothing of its size before the arrays agree with it
        for name, given in (("ridge", ridge), ("linear", linear), ("centre", centre)):
            shape = () if given is None else np.shape(numeric(name, given))
            if shape not in ((size,), ()) or (name != "ridge" and given is not None and shape == ()):
                raise InvalidInput(
                    f"{name} has shape {shape}; expected ({size},) for {count} rows of {held.matrix.shape[0]} weights; "
                    "correct it or rows"
                )
        vectors = [np.asarray(given).dtype for given in (linear, centre) if given is not None]
        if held.matrix.dtype == np.float32 and any(kind != np.float32 for kind in vectors):
            held = SharedHessian(fixed(row_products.as_wide(held.matrix)), held.largest)
        kind = held.matrix.dtype
        for name, value in (
            ("factor", None),
            ("hessian", None),
            ("shared", held.matrix),
            ("held", held),
            ("rows", count),
            ("ridge", _ridge(ridge, size)),
            ("linear", _vector("linear", linear, size, kind)),
            ("centre", _vector("centre", centre, size, kind)),
            ("constant", checked_constant(constant)),
            ("formed_error", 0.0),
            ("largest_curvature", held.largest),
            ("derived", held.derived),
        ):
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """The fields without cached results; a number that stands for all weights is sent once."""
        state = {name: value for name, value in self.__dict__.items() if name not in CACHED}
        single = {name: state[name][:1].copy() for name in VECTORS if _is_single(state[name])}
        return state | single | {"derived": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The reverse of `__getstate__`."""
        self.__dict__.update(state)
        for name in VECTORS:
            if state[name].size == 1:
                object.__setattr__(self, name, np.broadcast_to(state[name], (self.p,)))

    @property
    def p(self) -> int:
        """Number of weights."""
        return self.rows * self.columns

    @property
    def columns(self) -> int:
        """Number of weights in a row."""
        return int(self.shared.shape[0])

    @property
    def dtype(self) -> npt.DTypeLike:
        """float32 or float64: in what its vectors, and the weights of blocks made of it, are held."""
        return self.shared.dtype

    @property
    def row_ridge(self) -> FloatArray:
        """The least ridge of each column, which is all rows' where they have the same. float64 (c,)"""
        if _is_single(self.ridge):
            return np.full(self.columns, self.ridge[0])
        return np.asarray(self.table(self.ridge).min(axis=0))

    @property
    def one_ridge(self) -> bool:
        """Whether all rows have the same ridges."""
        return _is_single(self.ridge) or bool((self.table(self.ridge) == self.ridge[: self.columns]).all())

    @property
    def has_slope(self) -> bool:
        """Whether there is a linear term."""
        return not _is_single(self.linear) and bool(self.linear.any())

    def table(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array with one entry per weight as a table. (p,) -> (rows, columns)"""
        return values.reshape(self.rows, self.columns)

    def row(self, number: int) -> QuadraticForm:
        """The form of one row in float64, without the constant; all rows share the Hessian and its cached results."""
        part = slice(number * self.columns, (number + 1) * self.columns)
        # making a new form would copy and check the Hessian for every row
        out = copy.copy(self.held.one_row)
        object.__setattr__(out, "derived", self.held.one_row.derived)
        for name in ("ridge", "linear", "centre"):
            object.__setattr__(out, name, frozen(np.array(getattr(self, name)[part], dtype=np.float64)))
        return out

    def as_vector(self, name: str, value: npt.ArrayLike) -> FloatArray:
        """`value`, finite throughout, in the form's own precision, or in float64 where that would round it. (p,)

        Not copied where it cannot change.
        """
        return _vector(name, value, self.p, self.shared.dtype)

    def value(self, weights: npt.ArrayLike) -> float:
        """f(weights), summed in float64. float (p,) -> float64. Cost rows·columns²; none if asked again at once.

        Raises
        ------
        InvalidInput   NaN, a wrong shape, or weights so large that f overflows float64
        """
        held = self.as_vector("weights", weights)
        known: tuple[Any, ...] | None = self.__dict__.get("_known")
        if (
            known is not None
            and known[0]() is owner(held)
            and all(now is then for now, then in zip((self.ridge, self.linear), known[1:3], strict=True))
        ):
            return float(known[3])
        found = self._value(held)
        if immutable(held):
            object.__setattr__(self, "_known", (weakref.ref(owner(held)), self.ridge, self.linear, found))
        return found

    def _value(self, weights: FloatArray) -> float:
        total, given, centre = self.constant, self.table(weights), self.table(self.centre)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in row_products.row_chunks(self.rows, self.columns):
                move = row_products.as_wide(given[rows]) - centre[rows]
                if not move.any():
                    continue
                total += 0.5 * row_products.along(move, self.shared)
                if self.has_slope:
                    total += row_products.dot(self.table(self.linear)[rows], move)
                if _is_single(self.ridge):
                    total += 0.5 * float(self.ridge[0]) * row_products.dot(move, move)
                else:
                    total += 0.5 * row_products.dot(self.table(self.ridge)[rows] * move, move)
        if not np.isfinite(total):
            raise InvalidInput(
                f"f of weights of up to {float(np.abs(weights - self.centre).max()):.3g} from the centre is {total}; "
                "rescale the problem"
            )
        return total

    def rounding_of(self, weights: npt.ArrayLike) -> float:
        """An error bound of `value(weights)`: sums along rows and over them, |H_ij| <= s_i s_j. Cost O(p)."""
        terms = self.columns + self.p + ROUNDINGS
        given, centre = self.table(self.as_vector("weights", weights)), self.table(self.centre)
        sizes, total = self.held.sizes, 0.0
        for rows in row_products.row_chunks(self.rows, self.columns):
            move = np.abs(row_products.as_wide(given[rows]) - centre[rows])
            reach = move @ sizes
            total += 0.5 * float(reach @ reach) + row_products.dot(np.abs(self.table(self.linear)[rows]), move)
            total += 0.5 * row_products.dot(self.table(self.ridge)[rows] * move, move)
        # the sum begins at the constant, and rounds with it at each of up to three additions a row
        return 2.0 * 1.01 * terms * UNIT * total + 4.0 * self.rows * UNIT * abs(self.constant)

    def product(self, direction: npt.ArrayLike) -> FloatArray:
        """H times `direction`, including the ridge. float (p,) -> float64 (p,). Cost 2·rows·columns²."""
        step = self.as_vector("direction", direction)
        return row_products.times(self.table(step), self.shared).reshape(-1) + self.ridge * step

    def gram(self, indices: npt.ArrayLike) -> FloatArray:
        """H restricted to `indices`, including the ridge; zero between rows. int (b,) -> float64 (b, b)."""
        chosen = self._checked_indices(indices)
        row, column = np.divmod(chosen, self.columns)
        out = row_products.as_wide(np.where(row[:, None] == row, self.shared[np.ix_(column, column)], 0.0))
        out[np.diag_indices(chosen.size)] += self.ridge[chosen]
        return np.asarray(out)

    def square_root(self) -> Factor:
        """A factor of the whole curvature, (rows·rank, p); for small layers only.

        Raises
        ------
        InvalidInput   more than 4,096 weights: take one row at a time
        """
        self._require_small()
        wide = row_products.as_wide(self.shared)
        return np.kron(np.eye(self.rows), linalg.symmetric_factor(wide, float(self.ridge.min())))

    def plain(self) -> QuadraticForm:
        """The same form with one explicit Hessian, (p, p); for small layers only.

        Raises
        ------
        InvalidInput   more than 4,096 weights: take one row at a time
        """
        self._require_small()
        return QuadraticForm(
            hessian=np.kron(np.eye(self.rows), row_products.as_wide(self.shared)),
            ridge=self.ridge,
            linear=self.linear,
            centre=self.centre,
            constant=self.constant,
        )

    def restrict(self, indices: npt.ArrayLike, weights: npt.ArrayLike) -> QuadraticForm:
        """The same function of the weights in `indices`, with all others fixed at `weights`; see QuadraticForm."""
        chosen = self._checked_indices(indices)
        move = row_products.as_wide(self.as_vector("weights", weights)) - self.centre
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
        """The weights that minimise f subject to zeros off `mask`, in the form's own precision. bool (p,) -> (p,).

        Cholesky row by row if few weights are kept; otherwise conjugate gradients on all rows at once
        (`row_products.solve_on_supports`), and Cholesky for rows that do not converge. `system` is
        ignored: it is for forms with a factor.

        Raises
        ------
        InvalidInput   the curvature is singular on a row's support and the ridge does not make it regular
        """
        kept = np.asarray(mask)
        if kept.dtype != np.bool_ or kept.shape != (self.p,):
            raise InvalidInput(f"mask has dtype {kept.dtype} and shape {kept.shape}; expected bool ({self.p},)")
        table, centre = self.table(kept), self.table(self.centre)
        right = centre * ~table @ self.shared
        if self.has_slope:
            right -= self.table(self.linear)
        right *= table
        step = np.zeros_like(right)
        direct = table.sum(axis=1) <= DIRECT_SIZE
        if not direct.all() and (self.ridge > 0.0).all():
            large = np.flatnonzero(~direct)
            ridge = self.row_ridge if _is_single(self.ridge) else self.table(self.ridge)[large]
            step[large], done = row_products.solve_on_supports(self.shared, ridge, table[large], right[large])
            direct[large] = ~done
        else:
            direct[:] = True
        for number in np.flatnonzero(direct):
            support = np.flatnonzero(table[number])
            if support.size:
                ridge = self.table(self.ridge)[number, support]
                matrix = row_products.as_wide(self.shared[np.ix_(support, support)])
                slope = -row_products.as_wide(right[number, support])
                step[number, support] = linalg.solve_on_support(matrix, ridge, slope)
        step += centre
        step *= table
        return np.asarray(step.reshape(-1))

    def with_terms(self, *, ridge: npt.ArrayLike | None = None, linear: npt.ArrayLike | None = None) -> "RowsForm":
        """As QuadraticForm: the same curvature and centre with another ridge or linear term.

        A linear term that float32 would round makes the form one in float64, which shares nothing.
        """
        ridge = self.ridge if ridge is None else _ridge(ridge, self.p)
        slope = self.linear if linear is None else self.as_vector("linear", linear)
        if slope.dtype != self.dtype:
            return RowsForm(
                shared=self.held, rows=self.rows, ridge=ridge, linear=slope, centre=self.centre, constant=self.constant
            )
        out = copy.copy(self)
        for name, value in (("ridge", ridge), ("linear", slope), ("derived", self.derived)):
            object.__setattr__(out, name, value)
        return out

    @property
    def row_convexity(self) -> FloatArray | None:
        """`strong_convexity` of every row with the least ridge of each column, proved once. float64 (c,) or None"""
        known: tuple[FloatArray, FloatArray | None] | None = self.__dict__.get("_convexity")
        if known is None or known[0] is not self.ridge:
            known = self.ridge, definite.strong_convexity(self.shared, self.row_ridge, self.derived)
            object.__setattr__(self, "_convexity", known)
        return known[1]

    @property
    def strong_convexity(self) -> FloatArray | None:
        """As QuadraticForm. float64 (p,) or None"""
        floor = self.row_convexity
        return None if floor is None else np.tile(floor, self.rows)

    @property
    def is_indefinite(self) -> bool:
        """Whether H with its ridge has a computed negative eigenvalue and is not proved positive semidefinite."""
        if self.row_convexity is not None:
            return False
        lowest, rounding = definite.lowest_eigenvalue(self.shared, self.row_ridge)
        return lowest < -rounding

    @property
    def entry_sizes(self) -> FloatArray:
        """s >= 0 with |H_ij| <= s_i s_j for the curvature without the ridge. float64 (p,)"""
        return np.tile(self.held.sizes, self.rows)

    def _require_small(self) -> None:
        if self.p > SMALL:
            raise InvalidInput(f"the layer has {self.p:,} weights, too many for one matrix; take one row at a time")

    @property
    def _curvature_diagonal(self) -> FloatArray:
        return np.tile(self.held.diagonal, self.rows)

    def _curvature_along(self, move: FloatArray) -> float:
        table = self.table(move)
        return row_products.along(table, self.shared) + row_products.dot(self.table(self.ridge) * table, table)

    def _curvature_enclosure(self, move: Ball) -> tuple[Ball, Ball]:
        """Balls of move'C move and C move, C being the curvature without the ridge."""
        shared = row_products.as_wide(self.shared)
        middle, size = self.table(move.mid), self.table(move.rad + (self.columns + 8) * 1.01 * UNIT * move.size)
        spread = (size @ np.abs(shared)).reshape(-1)
        product = Ball((middle @ shared).reshape(-1), spread * (1.0 + 1e-9) + TINY)
        return (product * move).total(), product


def _is_single(values: FloatArray) -> bool:
    """Whether one number stands for all, without memory of its own for each."""
    return values.strides == (0,)


def _ridge(ridge: npt.ArrayLike, size: int) -> FloatArray:
    """A ridge as float64 (p,): one number is repeated without memory for each."""
    held = checked_ridge(ridge, size if np.shape(ridge) else 1)
    return np.asarray(np.broadcast_to(held, (size,)) if not np.shape(ridge) else held)


def _vector(name: str, value: npt.ArrayLike | None, size: int, kind: npt.DTypeLike) -> FloatArray:
    """`value` in a precision, or in float64 where that would round it, read-only and finite. (p,)

    Zeros without memory for each where there is none.
    """
    if value is None:
        return np.broadcast_to(np.zeros((), dtype=kind), (size,))
    array = numeric(name, value)
    if array.shape != (size,):
        raise InvalidInput(f"{name} has shape {array.shape}; expected ({size},), one entry a weight")
    require_finite(name, array)
    if array.dtype == kind and (immutable(array) or _is_single(array)):
        return np.asarray(array)
    with np.errstate(over="ignore"):
        held = array.astype(kind, copy=True)
    if held.dtype != array.dtype and not (held == array).all():
        held = array.astype(np.float64, copy=True)
    return np.asarray(fixed(held))
