"""Which variable the select tree branches on."""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.kernels.branch_and_bound_tableau import Sweeps, row_of

CANDIDATES, BALANCE, DEARER = 8, 0.7, 0.4
"""How many variables are looked at for branching, the power of x(1 − x) that picks them, the dearer way's share."""


@njit(cache=True, nogil=True)
def branching_variable(
    x: FloatArray, diagonal: FloatArray, basic: BoolArray, tableau: FloatArray, sweeps: Sweeps, made: int
) -> int:
    """The fractional variable whose fixing costs most; -1: none.

    The CANDIDATES with the largest (x(1 − x))^BALANCE over their variance in the inverse are looked at closer.
    Fixing one costs half the square of its way over its variance, to 0 and to 1, and as much for
    what the others, which follow it, then overshoot their bounds by. What counts is the dearer way
    too: of two children the one that is not cut off at once carries on the tree.
    """
    n = x.size
    key = np.empty(n)
    some = 0
    for i in range(n):
        key[i] = -1.0
        if basic[i] and 1e-7 < x[i] < 1.0 - 1e-7:
            key[i] = (x[i] * (1.0 - x[i])) ** BALANCE / (1e-300 - diagonal[i + 1])
            some += 1
    best = -1
    score = -1.0
    row = np.empty(n + 1)
    for _ in range(min(some, CANDIDATES)):
        i = int(np.argmax(key))
        key[i] = -1.0
        row_of(tableau, sweeps, made, i + 1, row)
        own = 0.5 / (1e-300 - diagonal[i + 1])
        down = x[i] * x[i] * own
        up = (1.0 - x[i]) * (1.0 - x[i]) * own
        for k in range(n):
            if basic[k] and k != i:
                rate = row[k + 1] / diagonal[i + 1]
                other = 0.5 / (1e-300 - diagonal[k + 1])
                down += overshoot(x[k] - x[i] * rate) * other
                up += overshoot(x[k] + (1.0 - x[i]) * rate) * other
        worth = min(up, down) + DEARER * max(up, down)
        if worth > score:
            score = worth
            best = i
    return best


@njit(cache=True, nogil=True)
def overshoot(value: float) -> float:
    """The squared distance from the interval [0, 1]."""
    over = max(-value, value - 1.0, 0.0)
    return over * over
