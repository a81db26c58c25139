"""The select relaxation at one point: its gradient, and the bound that holds there.

    minimise ½ x'Mx + g'x  over binaries with Σx = count,     M positive semidefinite on Σd = 0.

A bound is never read off the iterate's objective: it is the linearisation at the iterate minimised
over the box by weak duality, valid at any point with Σx = count, less what rounding could have added.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray

FAST = {"reassoc", "contract", "nsz"}
"""What the compiler may do with sums: the bounds on rounding hold for any order, and NaN and infinity stay."""
HALF_ULP = 1.1102230246251565e-16
"""Half a unit in the last place of 1.0, as a literal for compiled code."""
FREE = -1
"""Value of a variable that is not fixed, beside 0 and 1."""
ROUNDED = 8
"""The first of every sixteen nodes whose point is rounded to a mask: a short search goes without."""

Pattern = npt.NDArray[np.int8]


class Records(NamedTuple):
    """What a proof needs of the nodes that a dive bounded, one row a node in the order of the search.

    parent : int64 (r,)     the row of the node it lies under; −1: the node that the dive began from
    value : int8 (r,)       to what the parent's branching variable is fixed; −1: the parent's node again
    branch : int64 (r,)     the variable whose two values part the node; −1: it ends here
    fixed : int8 (r, p)     FREE, 0 or 1, with what reduced costs fixed at the node
    point : float64 (r, p)  where the node's bound comes from
    """

    parent: IndexArray
    value: Pattern
    branch: IndexArray
    fixed: Pattern
    point: FloatArray

    @staticmethod
    def of(rows: int, size: int) -> "Records":
        """Room for so many nodes of so many variables; 0 rows: nothing is recorded."""
        return Records(
            np.empty(rows, np.int64), np.empty(rows, np.int8), np.empty(rows, np.int64),
            np.empty((rows, size), np.int8), np.empty((rows, size)),
        )  # fmt: skip

    def first(self, rows: int) -> "Records":
        """The first rows alone."""
        return Records(self.parent[:rows], self.value[:rows], self.branch[:rows], self.fixed[:rows], self.point[:rows])


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def gradient_at(matrix: FloatArray, linear: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """out = linear + matrix @ x, skipping the zeros of x."""
    p = linear.size
    out[:] = linear
    for k in range(p):
        value = x[k]
        if value != 0.0:
            # indexed in full: a row of its own would be counted in and out
            for i in range(p):
                out[i] += value * matrix[k, i]


@njit(cache=True, error_model="numpy", nogil=True)
def bound_at(
    matrix: FloatArray,
    linear: FloatArray,
    x: FloatArray,
    grad: FloatArray,
    price: float,
    fixed: Pattern,
    count: int,
    rounding: float,
) -> float:
    """The safe bound at x, which is first brought back onto Σx = count, with its gradient, in place.

    M is semidefinite on Σd = 0 only, so beside the plane a linearisation may lie above the objective.
    −inf where the fractional free variables cannot take what is missing.
    """
    p = linear.size
    for _ in range(3):
        missing = float(count)
        for i in range(p):
            missing -= x[i]
        if abs(missing) <= HALF_ULP * p:
            return safe_bound(linear, x, grad, price, fixed, count, rounding)
        for k in range(p):
            if fixed[k] == FREE and 0.0 < x[k] < 1.0 and missing != 0.0:
                before = x[k]
                x[k] = min(1.0, max(0.0, before + missing))
                moved = x[k] - before
                missing -= moved
                for i in range(p):
                    grad[i] += moved * matrix[k, i]
    return safe_bound(linear, x, grad, price, fixed, count, rounding) if abs(missing) <= HALF_ULP * p * p else -np.inf


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def safe_bound(
    linear: FloatArray, x: FloatArray, grad: FloatArray, price: float, fixed: Pattern, count: int, rounding: float
) -> float:
    """A lower bound over the node's binaries: f(x) + ∇f(x)'(y − x) minimised by the price of the count."""
    p = linear.size
    left = count
    total = 0.0
    size = 0.0
    for i in range(p):
        half = 0.5 * x[i] * (linear[i] - grad[i])
        total += half
        size += abs(half)
        if fixed[i] == FREE:
            reduced = grad[i] - price
            size += abs(reduced)
            if reduced < 0.0:
                total += reduced
        elif fixed[i] == 1:
            total += grad[i]
            size += abs(grad[i])
            left -= 1
    total += price * left
    size += abs(price * left)
    return total - rounding - HALF_ULP * (p + 8) * size
