"""Which variable a tree branches on: what fixing it costs both ways, to second order."""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.trees.refit_node import TIED
from prunebench.kernels.trees.select_node import FREE, Pattern
from prunebench.kernels.trees.tableau import Sweeps, row_of

CANDIDATES, BALANCE, DEARER = 8, 0.7, 0.4
"""How many variables are looked at for branching, the power of x(1 − x) that picks them, the dearer way's share."""
TIED_CANDIDATES, TIED_DEARER, TIED_OVERSHOOT = 16, 0.2, 0.5
"""The same of mode refit, and the share of what the followers' overshoot costs if nothing else gives way."""


@njit(cache=True, error_model="numpy", nogil=True)
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


@njit(cache=True, error_model="numpy", nogil=True)
def overshoot(value: float) -> float:
    """The squared distance from the interval [0, 1]."""
    over = max(-value, value - 1.0, 0.0)
    return over * over


@njit(cache=True, error_model="numpy", nogil=True)
def tied_branching_variable(
    keep: int,
    pattern: Pattern,
    sign: FloatArray,
    fixed: Pattern,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    y: FloatArray,
    spread: FloatArray,
    tau: float,
) -> int:
    """Mode refit: the free tied variable whose fixing costs most; -1: none.

    With t ties for `left` places the node minimises q(y) + (Σ|y| of the ties)²/(2·left), whose inverse
    V on the members is `inverse` less a multiple of spread spread'. Pruning i takes yᵢ to 0 and costs
    yᵢ²/(2 Vᵢᵢ). Keeping it adds κ/2 (|yᵢ| − τ)², κ = left/(left − 1), so with c the slope of |yᵢ| − τ it
    costs κ (τ − |yᵢ|)²/(2 (1 + κ c'Vc)). The others follow; what takes them below 0 or above τ counts too.
    """
    left = float(keep)
    bottom = 0.0
    for a in range(size):
        if pattern[members[a]] == TIED:
            bottom += sign[members[a]] * spread[a]
        else:
            left -= 1.0
    bottom += left
    ratio = left / (left - 1.0) if left > 1.0 else 1e6
    value, variance = np.empty(size), np.empty(size)
    down, up, step, key = np.empty(size), np.empty(size), np.empty(size), np.full(size, -1.0)
    some = 0
    for a in range(size):
        i = members[a]
        value[a] = sign[i] * y[i]
        variance[a] = max(inverse[a, a] - spread[a] * spread[a] / bottom, 1e-300)
        if pattern[i] == TIED and fixed[i] == FREE and 1e-7 * tau < value[a] < (1.0 - 1e-7) * tau:
            some += 1
            along = variance[a] - 2.0 * sign[i] * spread[a] / bottom + (bottom - left) / (bottom * left)
            step[a] = ratio * (tau - value[a]) / (1.0 + ratio * max(along, 0.0))
            down[a] = 0.5 * value[a] * value[a] / variance[a]
            up[a] = 0.5 * step[a] * (tau - value[a])
            key[a] = min(up[a], down[a]) + TIED_DEARER * max(up[a], down[a])
    best = -1
    score = -1.0
    lower, upper = np.empty(size), np.empty(size)
    for _ in range(min(some, TIED_CANDIDATES)):
        c = int(np.argmax(key))
        key[c] = -1.0
        j = members[c]
        pull = value[c] / variance[c]
        total_down, total_up = 0.0, 0.0
        for a in range(size):
            i = members[a]
            if pattern[i] == TIED and a != c:
                rate = sign[i] * sign[j] * (inverse[a, c] - spread[a] * spread[c] / bottom)
                lower[a] = value[a] - rate * pull
                upper[a] = value[a] + step[c] * (rate - sign[i] * spread[a] / bottom)
                total_down += lower[a]
                total_up += upper[a]
        level_down, level_up = total_down / left, total_up / max(left - 1.0, 1.0)
        fall, rise = 0.0, 0.0
        for a in range(size):
            if pattern[members[a]] == TIED and a != c:
                fall += follower_cost(lower[a], level_down, variance[a])
                rise += follower_cost(upper[a], level_up, variance[a])
        fall = down[c] + TIED_OVERSHOOT * fall
        rise = up[c] + TIED_OVERSHOOT * rise
        worth = min(rise, fall) + TIED_DEARER * max(rise, fall)
        if worth > score:
            score = worth
            best = j
    return best


@njit(cache=True, error_model="numpy", nogil=True)
def follower_cost(value: float, level: float, variance: float) -> float:
    """What it costs to take a tied weight back that follows below 0 or above the threshold."""
    below, above = max(-value, 0.0), max(value - level, 0.0)
    return 0.5 * below * below / variance + 0.5 * above * above / (1.0 + variance)


@njit(cache=True, error_model="numpy", nogil=True)
def dearest_to_prune(
    pattern: Pattern,
    sign: FloatArray,
    fixed: Pattern,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    y: FloatArray,
    tau: float,
) -> int:
    """Mode refit, for tangents: the tied variable dearest to prune, less the nearer it is to being kept; -1: none.

    y²/S⁻¹ is the saliency of Optimal Brain Surgeon (Hassibi, Stork 1992, eq. 5) in the node's system.
    A tree takes more nodes by this rule, but its tangents are flatter: with those of the rule above
    HiGHS may fail, or they are too steep for its tolerances.
    """
    best = -1
    score = -1.0
    for a in range(size):
        i = members[a]
        if pattern[i] != TIED or fixed[i] != FREE:
            continue
        share = min(1.0, max(0.0, sign[i] * y[i] / tau))
        if share < 1e-7 or share > 1.0 - 1e-7:
            continue
        worth = y[i] * y[i] * (1.0 - share) / (inverse[a, a] + 1e-300)
        if worth > score:
            score = worth
            best = i
    return best
