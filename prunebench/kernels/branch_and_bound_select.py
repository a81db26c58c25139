"""The select relaxation at one point: its gradient, and the bound that holds there.

    minimise ½ x'Mx + g'x  over binaries with Σx = count,     M positive semidefinite on Σd = 0.

A bound is never read off the iterate's objective: it is the linearisation at the iterate minimised
over the box by weak duality, valid at any point, less what rounding could have added.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray

FAST = {"reassoc", "contract", "nsz"}
HALF_ULP = 1.1102230246251565e-16
FREE = -1
ROUNDED = 8
"""The first of every sixteen nodes whose point is rounded to a mask: a short search goes without."""

Pattern = npt.NDArray[np.int8]


@njit(cache=True, fastmath=FAST, nogil=True)
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


@njit(cache=True, fastmath=FAST, nogil=True)
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
