"""The select relaxation at one point: its gradient, and a safe bound.

    minimise ½ x'Mx + g'x  over binaries with Σx = count,     M positive semidefinite on Σd = 0.

The bound is not the objective at the iterate: it is the linearisation there, minimised over the box
by weak duality, valid at any point with Σx = count, minus all possible rounding.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.compiled import compiled, copy, merged

HALF_ULP = 1.1102230246251565e-16
"""Unit roundoff of float64, as a literal for compiled code."""
FREE = -1
"""Marks a variable that is not fixed to 0 or 1."""
ROUND_EVERY = 16
"""One in this many nodes has its point rounded to a mask and improved by descent; at all it would dominate the cost."""
ROUND_FIRST = 8
"""The first such node: a short search does without."""

Pattern = npt.NDArray[np.int8]


class Program(NamedTuple):
    """minimise ½x'Mx + g'x over binaries with Σx = ones, M positive semidefinite where Σd = 0.

    matrix : float64 (n, n)   M, symmetric
    linear : float64 (n,)     g
    ones : int                how many of the variables are 1
    rounding : float          error bound of the objective at any point, in its own units
    """

    matrix: FloatArray
    linear: FloatArray
    ones: int
    rounding: float


class Point(NamedTuple):
    """A point of the relaxation and what is known there; the arrays are changed in place.

    x : float64 (n,)         in [0, 1]
    grad : float64 (n,)      the objective's gradient at x
    reduced : float64 (n,)   reduced costs: the gradient minus the price of the count
    fixed : int8 (n,)        FREE, or the value to which the node fixes the variable
    basic : bool (n,)        whether the variable is swept in; normally those strictly between their bounds
    """

    x: FloatArray
    grad: FloatArray
    reduced: FloatArray
    fixed: Pattern
    basic: BoolArray


def point_at(x: FloatArray, fixed: Pattern) -> Point:
    """The point x (n,) with `fixed` (n,), neither of them copied; the other arrays are not filled."""
    return Point(x, np.empty(x.size), np.empty(x.size), fixed, np.zeros(x.size, np.bool_))


class Records(NamedTuple):
    """What a proof needs of the nodes bounded in a dive, one per row in the order of the search.

    parent : int64 (r,)     the row of the parent; −1: the node from which the dive began
    value : int8 (r,)       the value of the parent's branching variable; −1: the same node as the parent
    branch : int64 (r,)     the variable branched on; −1: none
    fixed : int8 (r, p)     FREE, 0 or 1, including what reduced costs fixed at the node
    point : float64 (r, p)  the point of the node's bound
    """

    parent: IndexArray
    value: Pattern
    branch: IndexArray
    fixed: Pattern
    point: FloatArray

    @staticmethod
    def of(rows: int, size: int) -> "Records":
        """Space for `rows` nodes of `size` variables; with 0 rows nothing is recorded."""
        return Records(
            np.empty(rows, np.int64), np.empty(rows, np.int8), np.empty(rows, np.int64),
            np.empty((rows, size), np.int8), np.empty((rows, size)),
        )  # fmt: skip

    def first(self, rows: int) -> "Records":
        """The leading rows."""
        return Records(self.parent[:rows], self.value[:rows], self.branch[:rows], self.fixed[:rows], self.point[:rows])


@compiled(fast=True, inner=True)
def gradient_at(matrix: FloatArray, linear: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """out = linear + matrix @ x, skipping the zeros of x."""
    p = linear.size
    copy(linear, out)
    for k in range(p):
        value = x[k]
        if value != 0.0:
            # full indexing: a view of the row would be reference-counted
            for i in range(p):
                out[i] += value * matrix[k, i]


@compiled(inner=True)
def reduce_at(point: Point, price: float) -> None:
    """Compute the reduced costs from the gradient."""
    for i in range(point.x.size):
        point.reduced[i] = point.grad[i] - price


@merged
def bound_at(program: Program, point: Point, price: float) -> float:
    """The safe bound at x, after moving x back onto Σx = count and updating its gradient, in place.

    M is semidefinite on Σd = 0 only, so off the plane a linearisation may exceed the objective.
    −inf if the fractional free variables cannot absorb the difference.
    """
    matrix, x, grad, fixed = program.matrix, point.x, point.grad, point.fixed
    p = x.size
    for _ in range(3):
        missing = float(program.ones)
        for i in range(p):
            missing -= x[i]
        if abs(missing) <= HALF_ULP * p:
            return safe_bound(program, point, price)
        for k in range(p):
            if fixed[k] == FREE and 0.0 < x[k] < 1.0 and missing != 0.0:
                before = x[k]
                x[k] = min(1.0, max(0.0, before + missing))
                moved = x[k] - before
                missing -= moved
                for i in range(p):
                    grad[i] += moved * matrix[k, i]
    return safe_bound(program, point, price) if abs(missing) <= HALF_ULP * p * p else -np.inf


@compiled(fast=True, inner=True)
def safe_bound(program: Program, point: Point, price: float) -> float:
    """A lower bound over the node's binaries: f(x) + ∇f(x)'(y − x) minimised over y, the price being the multiplier."""
    linear, x, grad, fixed = program.linear, point.x, point.grad, point.fixed
    p = linear.size
    left = program.ones
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
    return total - program.rounding - HALF_ULP * (p + 8) * size
