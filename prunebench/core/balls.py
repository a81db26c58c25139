"""Midpoint-radius interval arithmetic on arrays: every result encloses the exact one, rounding included.

Rump: Fast and parallel interval arithmetic, BIT 39 (1999); Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., (3.5), for products and sums in any order.
"""

import math
from dataclasses import dataclass
from typing import Union

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import Factor, FloatArray, row_chunks, times, transposed_times
from prunebench.core.cost import Cost
from prunebench.core.keeping import Keeping

UNIT = 0.5 * float(np.finfo(np.float64).eps)
"""Unit roundoff of float64: the largest relative error of one operation."""
TINY = float(np.finfo(np.float64).tiny)
"""The smallest normal float64; an operation that underflows errs by less."""

Operand = Union["Ball", npt.NDArray[np.float64], float]


@dataclass(frozen=True, eq=False)
class Ball:
    """All float64 arrays whose entries are within `rad` of those of `mid`; both have one shape."""

    mid: npt.NDArray[np.float64]
    rad: npt.NDArray[np.float64]

    @staticmethod
    def of(value: Operand) -> "Ball":
        """`value` itself if it is a ball, else the ball of radius zero around it."""
        if isinstance(value, Ball):
            return value
        mid = np.asarray(value, dtype=np.float64)
        return Ball(mid, np.zeros_like(mid))

    @property
    def size(self) -> npt.NDArray[np.float64]:
        """The largest absolute value each entry can have."""
        return np.asarray((np.abs(self.mid) + self.rad) * (1.0 + 4.0 * UNIT))

    def __add__(self, other: Operand) -> "Ball":
        """Elementwise sum."""
        right = Ball.of(other)
        mid = self.mid + right.mid
        return Ball(mid, _up(self.rad + right.rad + UNIT * np.abs(mid)))

    def __neg__(self) -> "Ball":
        """Negation, which rounds nothing."""
        return Ball(-self.mid, self.rad)

    def __sub__(self, other: Operand) -> "Ball":
        """Elementwise difference."""
        return self + (-Ball.of(other))

    def __mul__(self, other: Operand) -> "Ball":
        """Elementwise product."""
        right = Ball.of(other)
        mid = self.mid * right.mid
        rad = np.abs(self.mid) * right.rad + self.rad * (np.abs(right.mid) + right.rad) + UNIT * np.abs(mid)
        return Ball(mid, _up(rad))

    def over(self, divisor: FloatArray) -> "Ball":
        """Division by exact nonzero numbers."""
        mid = self.mid / divisor
        return Ball(mid, _up(self.rad / np.abs(divisor) + UNIT * np.abs(mid)))

    def total(self) -> "Ball":
        """The sum of all entries."""
        mid = math.fsum(self.mid)
        rad = math.fsum(self.rad) + UNIT * abs(mid)
        return Ball(np.float64(mid), _up(np.float64(rad)))  # type: ignore[arg-type]  # scalars are 0-d arrays here

    def lower(self) -> npt.NDArray[np.float64]:
        """The lower ends."""
        return np.nextafter(self.mid - self.rad, -np.inf)

    def upper(self) -> npt.NDArray[np.float64]:
        """The upper ends."""
        return np.nextafter(self.mid + self.rad, np.inf)


def image(matrix: Factor, vector: Operand) -> Ball:
    """matrix @ vector. (n, p), (p,) -> (n,)"""
    ball = Ball.of(vector)
    share = _share(matrix.shape[1])
    spread = times(np.abs(matrix), ball.rad + share * ball.size)
    return Ball(times(matrix, ball.mid), _up(spread))


def transposed_image(matrix: Factor, vector: Operand) -> Ball:
    """matrix.T @ vector. (n, p), (n,) -> (p,)"""
    ball = Ball.of(vector)
    # each further block of rows adds one sum, hence one more rounding
    share = _share(matrix.shape[0] + sum(1 for _ in row_chunks(matrix)))
    spread = transposed_times(np.abs(matrix), ball.rad + share * ball.size)
    return Ball(transposed_times(matrix, ball.mid), _up(spread))


def largest_sum(ball: Ball, keeping: Keeping, prices: FloatArray | None = None) -> float:
    """An upper bound on the sum of entries kept by any feasible mask. prices : of budgets (k,), to try"""
    if isinstance(keeping, Cost):
        return keeping.most_gain(ball.upper(), prices)
    if keeping.keep == 0:
        return 0.0
    ends = ball.upper()
    return math.nextafter(math.fsum(ends[keeping.top_mask(ends)]), math.inf)


def _share(terms: int) -> float:
    """Relative error bound of a sum of `terms` products, including the error of the radius itself."""
    return (terms + 8) * UNIT * 1.01


def _up(radius: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The radius raised to cover the rounding and underflow of its own computation."""
    return np.asarray(radius * (1.0 + 1e-12) + TINY)
