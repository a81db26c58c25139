"""The quadratic form: what every problem produces and every solver takes.

    f(w) = c + g'(w - w0) + 1/2 (w - w0)' H (w - w0),      H = A'A + diag(ridge)

with A the factor (n, p), g the linear term and w0 the centre.
"""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import definite, linalg, streaming
from prunebench.core.arrays import (
    LARGEST,
    Factor,
    FloatArray,
    IndexArray,
    column_squares,
    columns_of,
    fixed,
    frozen,
    immutable,
    is_mapped,
    numeric,
    require_finite,
    row_chunks,
    times,
    transposed_times,
    vector,
)
from prunebench.core.balls import UNIT, Ball, image, transposed_image
from prunebench.core.errors import InvalidInput

SQUARE = 512
"""Side of the pieces in which a matrix is compared with its mirror: two of float64 are 4 MiB, which fit the cache."""
SMALLEST_SQUARE = 1e-290
"""Squared column norms below this: products may leave the normal numbers and so lose more than UNIT."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuadraticForm:
    """f(w) = c + g'(w - w0) + 1/2 (w - w0)' (A'A + diag(ridge)) (w - w0).

    Give the curvature either as `factor` A or as `hessian` A'A (both without the ridge, which is
    added to the diagonal). A factor with p <= n is replaced by its smaller Gram matrix, so exactly
    one of the two attributes is set afterwards.

    Parameters
    ----------
    factor : float32 or float64 (n, p)    rows are samples, already divided by sqrt(n)
    hessian : float (p, p)                symmetric; stored as float64. It may be indefinite in mode select;
                                          mode refit then has no optimum and refuses it
    ridge : float or (p,)                 not negative; stored as float64 (p,)
    linear : float (p,)                   g, default zero
    centre : float (p,)                   w0, default zero
    constant : float                      c, default zero

    Raises
    ------
    InvalidInput   NaN or infinity, numbers whose products overflow float64, a shape that does not fit,
                   an asymmetric hessian, a negative ridge

    Arrays are read-only. Vectors are copied; factor and hessian are not, so a memory-mapped factor
    stays on disk. Every result is float64, also for a float32 factor.
    """

    factor: Factor | None = None
    hessian: FloatArray | None = None
    ridge: FloatArray
    linear: FloatArray
    centre: FloatArray
    constant: float
    formed_error: float = field(default=0.0, repr=False)
    """`entry_error` of the stored hessian: 0 if it was given, the rounding of forming it from a factor otherwise."""
    largest_curvature: float = field(default=0.0, repr=False)
    """An upper bound on the absolute entries of the curvature without its ridge."""
    derived: dict[str, Any] = field(repr=False)
    """Cache of results computed from the curvature without its ridge, by name; shared by `with_terms`."""

    def __init__(
        self,
        *,
        factor: npt.ArrayLike | None = None,
        hessian: npt.ArrayLike | None = None,
        ridge: npt.ArrayLike = 0.0,
        linear: npt.ArrayLike | None = None,
        centre: npt.ArrayLike | None = None,
        constant: float = 0.0,
    ) -> None:
        if (factor is None) == (hessian is None):
            raise InvalidInput("give the curvature once: either factor (n, p) or hessian (p, p)")
        if factor is not None:
            given, largest = _checked_factor(factor)
            held_factor, held_hessian = _smaller_representation(given)
            formed_error = 0.0 if held_hessian is None else _product_error(given, held_hessian.diagonal())
            largest *= largest * given.shape[0]
        else:
            assert hessian is not None
            held_factor, formed_error = None, 0.0
            held_hessian, largest = checked_hessian(hessian)
        size = (held_factor if held_factor is not None else held_hessian).shape[1]  # type: ignore[union-attr]  # one is set
        set_field = object.__setattr__
        set_field(self, "factor", held_factor)
        set_field(self, "hessian", held_hessian)
        set_field(self, "ridge", checked_ridge(ridge, size))
        set_field(self, "linear", vector("linear", np.zeros(size) if linear is None else linear, size))
        set_field(self, "centre", vector("centre", np.zeros(size) if centre is None else centre, size))
        set_field(self, "constant", checked_constant(constant))
        set_field(self, "formed_error", formed_error)
        set_field(self, "largest_curvature", largest)
        set_field(self, "derived", {})

    @property
    def p(self) -> int:
        """Number of weights."""
        return int(self.ridge.size)

    @property
    def dtype(self) -> npt.DTypeLike:
        """In what its vectors, and the weights of blocks made of it, are held: float64."""
        return np.dtype(np.float64)

    def as_vector(self, name: str, value: npt.ArrayLike) -> FloatArray:
        """`value` as a read-only vector, finite throughout. float (p,) -> (p,), of `dtype`

        Raises
        ------
        InvalidInput   as `arrays.vector`
        """
        return vector(name, value, self.p)

    def value(self, weights: npt.ArrayLike) -> float:
        """f(weights). float (p,) -> float64. Cost 2np.

        Raises
        ------
        InvalidInput   NaN, a wrong shape, or weights so large that f overflows float64
        """
        move = vector("weights", weights, self.p) - self.centre
        with np.errstate(over="ignore", invalid="ignore"):
            found = self.constant + float(self.linear @ move) + 0.5 * self._curvature_along(move)
        if not np.isfinite(found):
            raise InvalidInput(
                f"f of weights of up to {float(np.abs(move).max()):.3g} from the centre is {found}; rescale the problem"
            )
        return found

    def gradient(self, weights: npt.ArrayLike) -> FloatArray:
        """The gradient of f at `weights`. float (p,) -> float64 (p,). Cost 4np."""
        move = vector("weights", weights, self.p) - self.centre
        return self.linear + self.product(move)

    def product(self, direction: npt.ArrayLike) -> FloatArray:
        """H times `direction`, including the ridge. float (p,) -> float64 (p,). Cost 4np."""
        step = vector("direction", direction, self.p)
        if self.hessian is not None:
            return np.asarray(self.hessian @ step + self.ridge * step)
        assert self.factor is not None
        return transposed_times(self.factor, times(self.factor, step)) + self.ridge * step

    def diagonal(self) -> FloatArray:
        """The diagonal of H, including the ridge. float64 (p,)."""
        return self._curvature_diagonal + self.ridge

    def curvature_diagonal(self) -> FloatArray:
        """The diagonal of the curvature without the ridge. float64 (p,)."""
        return self._curvature_diagonal.copy()

    def gram(self, indices: npt.ArrayLike) -> FloatArray:
        """H restricted to `indices`, including the ridge. int (b,) -> float64 (b, b). Cost nb²."""
        chosen = self._checked_indices(indices)
        if self.hessian is not None:
            out = self.hessian[np.ix_(chosen, chosen)]
        else:
            assert self.factor is not None
            columns = columns_of(self.factor, chosen).astype(np.float64, copy=False)
            out = columns.T @ columns
        out[np.diag_indices(chosen.size)] += self.ridge[chosen]
        return np.asarray(out)

    def square_root(self) -> Factor:
        """A factor A of the curvature without ridge, with at most min(n, p) rows. (rank, p).

        The factor itself if the form has one (dtype unchanged); otherwise from the symmetric
        eigendecomposition of the hessian, O(p³), without eigenvalues below rounding and without negative
        ones that the smallest ridge lifts.

        Raises
        ------
        InvalidInput   the hessian is indefinite beyond rounding and ridge
        """
        if self.factor is not None:
            return self.factor
        assert self.hessian is not None
        return linalg.symmetric_factor(self.hessian, float(self.ridge.min()))

    def restrict(self, indices: npt.ArrayLike, weights: npt.ArrayLike) -> "QuadraticForm":
        """The same function of the weights in `indices`, with all others fixed at `weights`.

        Exact: restrict(B, w).value(w[B]) equals value(w) to rounding.

        Parameters
        ----------
        indices : int64 (b,)      positions in [0, p), no repeats
        weights : float (p,)      the values of the other weights

        Raises
        ------
        IndexError   a position is outside [0, p)
        ValueError   a position repeats, or weights is not of shape (p,)

        Cost: one product with the factor, O(np); O(bp) for a stored hessian.
        """
        chosen = self._checked_indices(indices)
        move = vector("weights", weights, self.p) - self.centre
        move[chosen] = 0.0
        residual = np.empty(0) if self.factor is None else times(self.factor, move)
        if self.factor is None:
            along = self._curvature_along(move)
        else:
            along = float(residual @ residual) + float((self.ridge * move) @ move)
        constant = self.constant + float(self.linear @ move) + 0.5 * along
        common: dict[str, Any] = {
            "ridge": self.ridge[chosen],
            "centre": self.centre[chosen],
            "constant": constant,
        }
        if self.hessian is not None:
            linear = self.linear[chosen] + self.hessian[chosen] @ move
            out = QuadraticForm(hessian=self.hessian[np.ix_(chosen, chosen)], linear=linear, **common)
            object.__setattr__(out, "formed_error", self.formed_error)
            return out
        assert self.factor is not None
        columns = columns_of(self.factor, chosen)
        linear = self.linear[chosen] + transposed_times(columns, residual)
        return QuadraticForm(factor=columns, linear=linear, **common)

    def refit(self, mask: npt.ArrayLike, system: FloatArray | None = None) -> FloatArray:
        """The weights that minimise f subject to zeros off `mask`. bool (p,) -> float64 (p,).

        Cholesky on the support S when |S| <= n, else the push-through form with an n×n system
        (accurate for a float32 factor and a small ridge, where the textbook Woodbury form loses all
        digits). Cost n·|S|·min(n, |S|). If the float64 (n, n) matrix I + A_S diag(1/ridge) A_S' is given
        as `system`, of which the upper triangle is read, the cost for |S| > n is n·|S| + n³/3.

        Raises
        ------
        InvalidInput   the curvature is singular on the support and the ridge does not make it regular
        """
        kept = np.asarray(mask)
        if kept.dtype != np.bool_ or kept.shape != (self.p,):
            raise InvalidInput(f"mask has dtype {kept.dtype} and shape {kept.shape}; expected bool ({self.p},)")
        support = np.flatnonzero(kept)
        weights = np.zeros(self.p)
        if support.size == 0:
            return weights
        outside = np.where(kept, 0.0, -self.centre)
        linear, ridge = self.linear[support], self.ridge[support]
        if self.hessian is not None:
            slope = linear + self.hessian[support] @ outside
            step = linalg.solve_on_support(self.hessian[np.ix_(support, support)], ridge, slope)
        else:
            assert self.factor is not None
            rows = self.factor.shape[0]
            if support.size > rows and self._streamed(support.size):
                residual = times(self.factor, outside)
                if (ridge <= 0.0).any():
                    raise linalg.singular()
                step = streaming.step_on_support(self.factor, support, ridge, linear, residual)
                weights[support] = self.centre[support] + step
                return weights
            columns: Factor = self.factor if support.size == self.p else columns_of(self.factor, support)
            residual = self._residual_outside(support, outside, columns)
            if support.size <= columns.shape[0]:
                wide = columns.astype(np.float64, copy=False)
                slope = linear + wide.T @ residual
                step = linalg.solve_on_support(wide.T @ wide, ridge, slope)
            else:
                step = linalg.push_through(columns, ridge, linear, residual, system)
        weights[support] = self.centre[support] + step
        return weights

    def __getstate__(self) -> dict[str, Any]:
        """The fields without cached results."""
        return {**self.__dict__, "derived": {}}

    def with_terms(self, *, ridge: npt.ArrayLike | None = None, linear: npt.ArrayLike | None = None) -> "QuadraticForm":
        """The same curvature and centre with another ridge or linear term.

        The factor and the results derived from it are shared and not checked again, so a path of ridges
        costs one decomposition.

        Parameters
        ----------
        ridge : float or (p,)     not negative; None keeps the present one
        linear : float (p,)       None keeps the present one

        Raises
        ------
        InvalidInput   NaN, a wrong shape, a negative ridge
        """
        out = copy.copy(self)
        object.__setattr__(out, "derived", self.derived)
        if ridge is not None:
            object.__setattr__(out, "ridge", checked_ridge(ridge, self.p))
        if linear is not None:
            object.__setattr__(out, "linear", vector("linear", linear, self.p))
        return out

    def lower_bound(self) -> float:
        """A proven lower bound on f over all weights; -inf if nothing is proved.

        With H >= diag(d), d as in `strong_convexity`, f >= f(w) - 1/2 Σ grad_j(w)²/d_j at any w. Here w is
        the computed unconstrained minimiser, and f and its gradient there are enclosed by midpoint-radius
        arithmetic, so the bound holds at any conditioning, for a given factor as for a stored hessian. -inf
        if H is not proved positive semidefinite, or some d_j is zero where a linear term is not.
        """
        floor = self.strong_convexity
        if floor is None:
            return -np.inf
        if not self.linear.any():
            return self.constant
        if (floor <= 0.0).any() or not np.isfinite(self.entry_error):
            return -np.inf
        try:
            weights = self.refit(np.ones(self.p, dtype=np.bool_))
        except InvalidInput:
            # too ill-conditioned to solve: use the centre, where the bound holds as well
            weights = self.centre
        value, slope = self.enclosure(weights)
        rest = Ball.of(slope.size)
        below = (rest * rest).over(floor).total() * 0.5
        bound = float((value - below).lower())
        return bound if np.isfinite(bound) else -np.inf

    def enclosure(self, weights: "npt.ArrayLike | Ball") -> tuple[Ball, Ball]:
        """Balls that enclose f and its gradient at `weights`, rounding included. float (p,) -> balls () and (p,)

        They enclose the exact values for the stored hessian and for the given factor. Cost about 8np.
        """
        held = weights if isinstance(weights, Ball) else Ball.of(vector("weights", weights, self.p))
        move = held - self.centre
        curved, product = self._curvature_enclosure(move)
        if self.formed_error > 0.0:
            sizes = self.entry_sizes
            reach = float(sizes @ move.size) * (1.0 + 1e-6)
            curved = Ball(curved.mid, curved.rad + 1.01 * self.formed_error * reach * reach)
            product = Ball(product.mid, product.rad + 1.01 * self.formed_error * reach * sizes)
        ridge_part = move * self.ridge
        value = (move * self.linear).total() + (curved + (ridge_part * move).total()) * 0.5 + self.constant
        return value, product + ridge_part + self.linear

    def rounding_of(self, weights: npt.ArrayLike) -> float:
        """An error bound of `value(weights)`, from its enclosure. Cost about 8np."""
        value, _ = self.enclosure(weights)
        return 2.0 * float(value.rad)

    @property
    def strong_convexity(self) -> FloatArray | None:
        """d >= 0 with H - diag(d) proved positive semidefinite; None if H is not proved semidefinite. float64 (p,)

        The ridge if a factor is stored. For a hessian by Cholesky with its rounding bounded, O(p³) once.
        """
        # cached together with its ridge, as copies of a form get other ridges
        held: tuple[FloatArray, FloatArray | None] | None = self.__dict__.get("_convexity")
        if held is None or held[0] is not self.ridge:
            held = self.ridge, self._proved_convexity()
            object.__setattr__(self, "_convexity", held)
        return held[1]

    @property
    def is_indefinite(self) -> bool:
        """Whether H with its ridge has a computed negative eigenvalue and is not proved positive semidefinite."""
        if self.hessian is None or self.strong_convexity is not None:
            return False
        lowest, rounding = definite.lowest_eigenvalue(self.hessian, self.ridge)
        return lowest < -rounding

    @cached_property
    def entry_sizes(self) -> FloatArray:
        """s >= 0 with |H_ij| <= s_i s_j for the curvature without the ridge. float64 (p,)

        The square roots of the diagonal if that is checked to hold, as for every semidefinite matrix; otherwise
        the square roots of the rows' largest entries.
        """
        sizes = np.sqrt(np.maximum(self._curvature_diagonal, 0.0)) * (1.0 + 4.0 * UNIT)
        if self.hessian is None or (np.abs(self.hessian) <= sizes[:, None] * sizes).all():
            return sizes
        return np.asarray(np.sqrt(np.abs(self.hessian).max(axis=1)) * (1.0 + 4.0 * UNIT))

    @cached_property
    def entry_error(self) -> float:
        """How far the curvature's entries may be from the exact A'A, relative to √(H_ii H_jj).

        For a stored hessian: 0 if it was given, else the rounding of forming it from the factor. For a stored
        factor: the rounding of `gram` without adding the ridge. inf if products of entries underflow. A bound
        that allows for this error holds for the given factor and for the stored hessian.
        """
        if self.factor is None:
            return self.formed_error
        return _product_error(self.factor, self._curvature_diagonal)

    @cached_property
    def _curvature_diagonal(self) -> FloatArray:
        if self.hessian is not None:
            return self.hessian.diagonal().copy()
        assert self.factor is not None
        return column_squares(self.factor)

    def _proved_convexity(self) -> FloatArray | None:
        if self.hessian is None:
            return self.ridge
        return definite.strong_convexity(self.hessian, self.ridge, self.derived)

    def _curvature_enclosure(self, move: Ball) -> tuple[Ball, Ball]:
        """Balls of move'C move and C move, C being the curvature without the ridge."""
        if self.hessian is not None:
            product = image(self.hessian, move)
            return (product * move).total(), product
        assert self.factor is not None
        curved, product = Ball.of(np.float64(0.0)), Ball.of(np.zeros(self.p))
        for rows in row_chunks(self.factor):
            residual = image(self.factor[rows], move)
            curved = curved + (residual * residual).total()
            product = product + transposed_image(self.factor[rows], residual)
        return curved, product

    def _streamed(self, kept: int) -> bool:
        """Whether a support of `kept` weights is too large to be copied out of a memory-mapped factor."""
        assert self.factor is not None
        size = self.factor.shape[0] * kept * self.factor.itemsize
        return size > streaming.COPY_BYTES and is_mapped(self.factor)

    def _residual_outside(self, support: IndexArray, outside: FloatArray, columns: Factor) -> FloatArray:
        """A times `outside`, which is -centre off the support and zero on it. -> (n,)

        If few weights are kept, by subtraction from A times the whole centre, which is computed once.
        """
        assert self.factor is not None
        if not outside.any():
            return np.zeros(columns.shape[0])
        if 2 * support.size > self.p:
            return times(self.factor, outside)
        return times(columns, self.centre[support]) - self._centre_image

    @cached_property
    def _centre_image(self) -> FloatArray:
        """A times the centre. (n,)"""
        assert self.factor is not None
        return times(self.factor, self.centre)

    def _curvature_along(self, move: FloatArray) -> float:
        """move' H move, computed as a sum of squares for a stored factor."""
        ridge_part = float((self.ridge * move) @ move)
        if self.hessian is not None:
            return float(move @ (self.hessian @ move)) + ridge_part
        assert self.factor is not None
        residual = times(self.factor, move)
        return float(residual @ residual) + ridge_part

    def _checked_indices(self, indices: npt.ArrayLike) -> IndexArray:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise InvalidInput(f"indices have dtype {chosen.dtype} and shape {chosen.shape}; expected int64 (b,)")
        chosen = chosen.astype(np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= self.p):
            outside = chosen[(chosen < 0) | (chosen >= self.p)][0]
            raise IndexError(f"index {outside} is outside the form's {self.p} weights: 0 to {self.p - 1}")
        if np.unique(chosen).size != chosen.size:
            raise InvalidInput("indices repeat; every weight may stand once in a block")
        return chosen


def _checked_factor(factor: npt.ArrayLike) -> tuple[Factor, float]:
    """The factor, read-only, and its largest entry in absolute value."""
    array = numeric("factor", factor)
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidInput(
            f"factor has shape {array.shape}; expected (n, p), both at least 1 (a form without curvature: hessian zero)"
        )
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # the curvature holds squares of its entries
    largest = require_finite("factor", array, LARGEST**0.5)
    return frozen(array), largest


def checked_hessian(hessian: npt.ArrayLike, *, narrow: bool = False) -> tuple[Any, float]:
    """The Hessian as a read-only symmetric array, and its largest entry in absolute value. (p, p) -> (p, p)

    narrow : whether float32 stays float32, and an array that cannot change and is symmetric to the last digit is not
    copied; else float64

    Raises
    ------
    InvalidInput   no square matrix, NaN or infinity, not symmetric
    """
    array = numeric("hessian", hessian)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] == 0:
        raise InvalidInput(f"hessian has shape {array.shape}; expected (p, p) with p at least 1")
    if array.dtype.kind != "f":
        # differences of small integers would wrap around
        array = array.astype(np.float64)
    scale = require_finite("hessian", array)
    rounding = 1e-5 if array.dtype == np.float32 else 1e-10
    kind = np.float32 if narrow and array.dtype == np.float32 else np.float64
    parts = range(0, array.shape[0], SQUARE)
    pairs = [
        (array[i : i + SQUARE, j : j + SQUARE], array[j : j + SQUARE, i : i + SQUARE].T)
        for i in parts
        for j in parts
        if j <= i
    ]
    difference = max(0.0 if (one == other).all() else float(np.abs(one - other).max()) for one, other in pairs)
    if difference > rounding * scale:
        raise InvalidInput(
            f"hessian is not symmetric: entries differ from their mirror by up to {difference:.3g}; pass (H + H.T)/2"
        )
    if difference == 0.0 and narrow and array.dtype == kind and immutable(array):
        return array, scale
    wide: Any = array.astype(kind, order="C", copy=True)
    if difference > 0.0:
        wide = np.asarray(0.5 * (wide + wide.T))
    return fixed(wide), scale


def checked_ridge(ridge: npt.ArrayLike, size: int) -> FloatArray:
    """A ridge as float64 (p,), a scalar being repeated; refused if negative or not finite."""
    array = numeric("ridge", ridge)
    if array.shape not in ((), (size,)):
        raise InvalidInput(f"ridge has shape {array.shape}; expected a single number or ({size},)")
    require_finite("ridge", array)
    if array.min() < 0.0:
        raise InvalidInput(f"ridge is {float(array.min())}; it must not be negative")
    return vector("ridge", np.broadcast_to(array, (size,)), size)


def checked_constant(constant: npt.ArrayLike) -> float:
    """The constant as a float; refused unless it is one finite number."""
    number = numeric("constant", constant)
    if number.shape != ():
        raise InvalidInput(f"constant has shape {number.shape}; expected a single number")
    require_finite("constant", number)
    return float(number)


def _product_error(factor: Factor, squares: FloatArray) -> float:
    """Bound on the error of A'A's float64 entries relative to √(H_ii H_jj); `squares` are the columns' squared norms.

    n products and n sums, each rounded once (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
    (3.5)), unless a column is so small that its products leave the normal numbers.
    """
    small = squares < SMALLEST_SQUARE
    if small.any() and factor[:, small].any():
        return float("inf")
    return float(1.01 * (factor.shape[0] + 2) * UNIT)


def _smaller_representation(factor: Factor) -> tuple[Factor | None, FloatArray | None]:
    rows, size = factor.shape
    if size > rows:
        return factor, None
    wide = factor.astype(np.float64, copy=False)
    return None, np.asarray(frozen(wide.T @ wide))
