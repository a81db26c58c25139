"""Layer-wise reconstruction with group supports: which groups of a layer's inputs are kept, the kept weights refitted.

    f(W) = c − tr(Γ WᵀR) + ½ tr(Γ WᵀAW),      A = XᵀX/n + diag(ridge),      R = XᵀY/n

X (n, p) are a layer's inputs, Y (n, q) the outputs to be met, and Γ (q, q) weighs the outputs. A group is a set of
inputs that leave together: a channel with all positions of its kernel, an attention head, a neuron. With
c = ½ tr(ΓYᵀY)/n f is half the weighted mean squared error plus the ridge's term.

For kept groups with the inputs S the best weights are W_S = A_SS⁻¹R_S, whatever Γ is, and

    f(S) = c − ½ tr(A_SS⁻¹ M_SS),      M = RΓRᵀ

so outputs enter only through M: more than p of them cost no more than p.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import lapack
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, frozen, numeric, require_finite
from prunebench.core.errors import InvalidInput
from prunebench.core.quadratic import checked_constant, checked_ridge

ASYMMETRY = 1e-5
"""Share of the largest entry by which a matrix may differ from its transpose: what a float32 product leaves."""
UNIT = 0.5 * float(np.finfo(np.float64).eps)
"""Unit roundoff of float64: the largest relative error of one operation."""


@dataclass(frozen=True, eq=False)
class GroupForm:
    """f over kept groups, the kept weights refitted; see the top of this module.

    Parameters
    ----------
    gram : float (p, p)      XᵀX/n, without the ridge; stored as float64, symmetric
    cross : float (p, q)     R = XᵀY/n; stored as float64
    group : int (p,)         the group of each input, numbers 0 to C−1, each at least once; sizes may differ
    ridge : float or (p,)    added to the Gram matrix' diagonal, not negative; stored as float64 (p,)
    constant : float         c, the value with nothing kept
    weight : float (q,) or (q, q), optional
                             Γ, or its diagonal; positive semidefinite. Default: every output counts once

    To pull the weights towards dense ones W° instead of zero, give cross = AW° with A the Gram matrix and its ridge,
    and constant = ½ tr(Γ W°ᵀAW°).

    Raises
    ------
    InvalidInput   wrong shapes, NaN, an asymmetric or indefinite matrix, a group number that is left out, or a
                   Gram matrix that with its ridge is not positive definite

    Arrays are read-only.
    """

    gram: FloatArray
    cross: FloatArray
    group: IndexArray
    ridge: FloatArray
    constant: float
    weight: FloatArray | None = None

    def __init__(
        self,
        gram: npt.ArrayLike,
        cross: npt.ArrayLike,
        group: npt.ArrayLike,
        ridge: npt.ArrayLike,
        constant: float,
        weight: npt.ArrayLike | None = None,
    ) -> None:
        set_field = object.__setattr__
        matrix = _symmetric("the Gram matrix", gram)
        p = matrix.shape[0]
        set_field(self, "gram", frozen(matrix))
        products = numeric("cross", cross)
        if products.ndim != 2 or products.shape[0] != p or products.shape[1] < 1:
            raise InvalidInput(f"cross has shape {products.shape}; expected ({p}, q), one column an output")
        require_finite("cross", products)
        set_field(self, "cross", frozen(products.astype(np.float64)))
        set_field(self, "group", frozen(_checked_group(group, p)))
        set_field(self, "ridge", checked_ridge(ridge, p))
        set_field(self, "constant", checked_constant(constant))
        set_field(self, "weight", None if weight is None else frozen(_checked_weight(weight, self.q)))
        if not np.isfinite(self.value(np.ones(self.groups, dtype=np.bool_))):
            raise InvalidInput("f of the refitted weights is not finite; rescale the problem")

    @property
    def p(self) -> int:
        """How many inputs there are."""
        return int(self.gram.shape[0])

    @property
    def q(self) -> int:
        """How many outputs there are."""
        return int(self.cross.shape[1])

    @cached_property
    def groups(self) -> int:
        """How many groups there are: C."""
        return int(self.group.max()) + 1

    @cached_property
    def sizes(self) -> IndexArray:
        """How many inputs each group has. int64 (C,)"""
        return np.bincount(self.group, minlength=self.groups).astype(np.int64)

    @cached_property
    def parts(self) -> "Parts":
        """The form's arrays in the order of its groups."""
        return Parts.of(self)

    def inputs(self, kept: npt.ArrayLike) -> BoolArray:
        """Which inputs the kept groups hold. bool (C,) -> bool (p,)"""
        return np.asarray(self._mask(kept)[self.group])

    def value(self, kept: npt.ArrayLike) -> float:
        """f of the kept groups with their weights refitted. bool (C,) -> float. One Cholesky of the kept inputs."""
        rows = np.flatnonzero(self.inputs(kept))
        if rows.size == 0:
            return self.constant
        from scipy.linalg import solve_triangular

        factor = _factored(self._matrix_of(rows))
        half = solve_triangular(factor, self._right_of(rows), lower=True, check_finite=False)
        return self.constant - 0.5 * float(np.einsum("ij,ij->", half, half))

    def refit(self, kept: npt.ArrayLike) -> FloatArray:
        """The best weights of the kept groups; zero for all others. bool (C,) -> float64 (p, q)"""
        rows = np.flatnonzero(self.inputs(kept))
        weights = np.zeros((self.p, self.q))
        if rows.size:
            factor = _factored(self._matrix_of(rows))
            weights[rows], _ = lapack.dpotrs(factor, self.cross[rows], lower=1)
        return weights

    def loss(self, weights: npt.ArrayLike) -> float:
        """f(W) of any weights. float (p, q) -> float. O(p²q)

        Raises
        ------
        InvalidInput   another shape, NaN, or weights so large that f overflows float64
        """
        held = self._weights(weights)
        weighed = self._weighed(held)
        with np.errstate(over="ignore", invalid="ignore"):
            slope = 0.5 * (self.gram @ held + self.ridge[:, None] * held) - self.cross
            found = self.constant + float(np.einsum("ij,ij->", slope, weighed))
        if not np.isfinite(found):
            raise InvalidInput(f"f of weights of up to {float(np.abs(held).max()):.3g} is {found}; rescale the problem")
        return found

    def rounding_of(self, weights: npt.ArrayLike) -> float:
        """A bound on the rounding error of `loss(weights)`. O(p²q)"""
        held = np.abs(self._weights(weights))
        weighed = np.abs(self._weighed(self._weights(weights)))
        if self.weight is not None and self.weight.ndim == 2:
            weighed = held @ np.abs(self.weight)
        sizes = np.abs(self.gram) @ held + self.ridge[:, None] * held + np.abs(self.cross)
        total = abs(self.constant) + float(np.einsum("ij,ij->", sizes, weighed))
        return 4.0 * (self.p + self.q + 16) * UNIT * total

    def drop_costs(self, kept: npt.ArrayLike) -> FloatArray:
        """By how much f rises if one kept group leaves alone; NaN for dropped groups. bool (C,) -> float64 (C,)"""
        from prunebench.core.group_state import GroupState

        mask = self._mask(kept)
        return np.where(mask, GroupState(self, mask).changes(), np.nan)

    def add_gains(self, kept: npt.ArrayLike) -> FloatArray:
        """By how much f falls if one dropped group enters alone; NaN for kept groups. bool (C,) -> float64 (C,)"""
        from prunebench.core.group_state import GroupState

        mask = self._mask(kept)
        return np.where(mask, np.nan, GroupState(self, mask).changes())

    def contents(self) -> dict[str, Any]:
        """The form's arrays by the keys of a group file."""
        return {
            "gram": self.gram,
            "cross": self.cross,
            "group": self.group,
            "ridge": self.ridge,
            "constant": np.float64(self.constant),
            **({} if self.weight is None else {"weight": self.weight}),
        }

    def _matrix_of(self, rows: IndexArray) -> FloatArray:
        matrix = self.gram[np.ix_(rows, rows)]
        matrix[np.diag_indices_from(matrix)] += self.ridge[rows]
        return matrix

    def _right_of(self, rows: IndexArray) -> FloatArray:
        return self.parts.right[self.parts.place[rows]]

    def _weighed(self, weights: FloatArray) -> FloatArray:
        """W·Γ. (p, q) -> (p, q)"""
        if self.weight is None:
            return weights
        return np.asarray(weights * self.weight if self.weight.ndim == 1 else weights @ self.weight)

    def _mask(self, kept: npt.ArrayLike) -> BoolArray:
        mask = np.asarray(kept)
        if mask.dtype != np.bool_ or mask.shape != (self.groups,):
            raise InvalidInput(
                f"the kept groups have dtype {mask.dtype} and shape {mask.shape}; expected bool ({self.groups},)"
            )
        return mask

    def _weights(self, weights: npt.ArrayLike) -> FloatArray:
        array = numeric("weights", weights)
        if array.shape != (self.p, self.q):
            raise InvalidInput(f"weights have shape {array.shape}; expected ({self.p}, {self.q})")
        require_finite("weights", array)
        return array.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Parts:
    """A form's arrays with the inputs of each group side by side, as block operations need them.

    order : int64 (p,)          the input at each place;  place : int64 (p,)   the place of each input
    starts : int64 (C+1,)       group g has the places starts[g] to starts[g+1]
    matrix : float64 (p, p)     A, ridge included
    right : float64 (p, r)      E with EEᵀ = M, r = min(p, q)
    """

    order: IndexArray
    place: IndexArray
    starts: IndexArray
    matrix: FloatArray
    right: FloatArray

    @staticmethod
    def of(form: GroupForm) -> "Parts":
        """The arrays of a form."""
        order = np.argsort(form.group, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        matrix = form.gram[np.ix_(order, order)]
        matrix[np.diag_indices_from(matrix)] += form.ridge[order]
        right = _output_factor(form.cross[order], form.weight)
        starts = np.concatenate(([0], np.cumsum(form.sizes))).astype(np.int64)
        return Parts(order, place, starts, frozen(matrix), frozen(right))

    def rows(self, group: int) -> slice:
        """The places of a group."""
        return slice(int(self.starts[group]), int(self.starts[group + 1]))

    def rows_of(self, kept: BoolArray) -> IndexArray:
        """The places of all kept groups, ascending. bool (C,) -> int64 (s,)"""
        return np.flatnonzero(np.repeat(kept, np.diff(self.starts)))

    @cached_property
    def classes(self) -> list[tuple[IndexArray, IndexArray]]:
        """Groups of equal size together: their numbers (m,), and their places (m, size)."""
        sizes = np.diff(self.starts)
        out = []
        for size in np.unique(sizes):
            members = np.flatnonzero(sizes == size)
            out.append((members, self.starts[members][:, None] + np.arange(size)))
        return out


def _output_factor(cross: FloatArray, weight: FloatArray | None) -> FloatArray:
    """E with EEᵀ = RΓRᵀ and at most p columns. (p, q) -> (p, r)"""
    factor = cross
    if weight is not None and weight.ndim == 1:
        factor = cross * np.sqrt(weight)
    elif weight is not None:
        values, vectors = np.linalg.eigh(weight)
        factor = cross @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    if factor.shape[1] > factor.shape[0]:
        factor = np.asarray(np.linalg.qr(factor.T, mode="r")).T
    return np.ascontiguousarray(factor)


def _factored(matrix: FloatArray) -> FloatArray:
    """The lower Cholesky factor.

    Raises
    ------
    InvalidInput   the matrix is not positive definite in float64
    """
    factor, info = lapack.dpotrf(matrix, lower=1, clean=1)
    if info != 0:
        raise not_definite()
    return np.asarray(factor)


def not_definite() -> InvalidInput:
    """The error for a Gram matrix that cannot be factored."""
    return InvalidInput(
        "the Gram matrix with its ridge is not positive definite in float64: inputs repeat, are constant zero, or are "
        "more than the samples; raise the ridge, for example to 1e-3 of the mean of the Gram matrix' diagonal"
    )


def _symmetric(name: str, value: npt.ArrayLike) -> FloatArray:
    """A finite symmetric float64 copy, (p, p)."""
    array = numeric(name, value)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] < 1:
        raise InvalidInput(f"{name} has shape {array.shape}; expected a square matrix, one row an input")
    largest = require_finite(name, array)
    matrix = array.astype(np.float64)
    difference = float(np.abs(matrix - matrix.T).max())
    if difference > ASYMMETRY * largest:
        raise InvalidInput(
            f"{name} is not symmetric: entries differ from their mirror by up to {difference:.3g}; pass (G + G.T)/2"
        )
    return np.asarray(0.5 * (matrix + matrix.T)) if difference else matrix


def _checked_group(group: npt.ArrayLike, size: int) -> IndexArray:
    array = numeric("group", group)
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise InvalidInput(
            f"group has dtype {array.dtype} and shape {array.shape}; expected whole numbers ({size},), one an input"
        )
    if int(array.min()) < 0 or int(array.max()) >= size:
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise InvalidInput(f"group holds {wrong}; number the groups 0 to C−1, of at most {size} inputs")
    numbers = array.astype(np.int64)
    missing = np.flatnonzero(np.bincount(numbers) == 0)
    if missing.size:
        raise InvalidInput(f"group {int(missing[0])} has no input; number the groups 0 to C−1 without a gap")
    return numbers


def _checked_weight(weight: npt.ArrayLike, outputs: int) -> FloatArray:
    array = numeric("weight", weight)
    if array.shape == (outputs,):
        require_finite("weight", array)
        if float(array.min()) < 0.0:
            raise InvalidInput(f"weight holds {float(array.min()):.3g}; an output weighs 0 or more")
        return array.astype(np.float64)
    if array.shape != (outputs, outputs):
        raise InvalidInput(
            f"weight has shape {array.shape}; expected ({outputs},) or ({outputs}, {outputs}), one row an output"
        )
    matrix = _symmetric("weight", array)
    lowest, largest = np.linalg.eigvalsh(matrix)[[0, -1]]
    if lowest < -ASYMMETRY * max(largest, 0.0) or (lowest < 0.0 and largest <= 0.0):
        raise InvalidInput(f"weight has the negative eigenvalue {lowest:.3g}; it must be positive semidefinite")
    return matrix
