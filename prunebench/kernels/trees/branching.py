"""Branching rules: estimates, to second order, of what fixing a variable either way costs."""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.kernels.compiled import compiled, largest, merged
from prunebench.kernels.trees.refit_node import TIED, Node, Program
from prunebench.kernels.trees.select_node import FREE, Point
from prunebench.kernels.trees.tableau import Tableau, row_of

CANDIDATES = 8
"""Mode select: how many variables are scored in detail; each needs a row of the tableau."""
BALANCE = 0.7
"""The power of x(1 − x) in the preselection; 0 would ignore how fractional a variable is. By trial."""
DEARER = 0.4
"""Mode select: weight of the dearer child of a variable relative to the cheaper one. By trial."""
TIED_CANDIDATES = 16
"""Mode refit: how many variables are scored in detail; O(ties) each, so twice as many as in select."""
TIED_DEARER = 0.2
"""Mode refit: weight of the dearer child relative to the cheaper one. By trial."""
TIED_OVERSHOOT = 0.5
"""Mode refit: share of the summed costs of moving each follower back by itself; moved together they cost less.
By trial."""
FRACTIONAL = 1e-7
"""Least distance of a branching variable from its two bounds, as a share of the distance between them."""


@compiled(inner=True, allocates=True)
def branching_variable(point: Point, diagonal: FloatArray, tableau: Tableau, made: int) -> int:
    """The fractional variable whose fixing costs most; −1: none. diagonal (n + 1,): the tableau's, after `made` sweeps.

    Scores in detail the CANDIDATES with the largest (x(1 − x))^BALANCE over their variance in the inverse. Fixing
    a variable to 0 or 1 costs half its squared move over its variance, plus the same for each other fractional
    variable that thereby overshoots a bound. The dearer child counts too, since a child that is not cut off at
    once carries the tree on.
    """
    x, basic = point.x, point.basic
    n = x.size
    key = np.empty(n)
    some = 0
    for i in range(n):
        key[i] = -1.0
        if basic[i] and FRACTIONAL < x[i] < 1.0 - FRACTIONAL:
            key[i] = (x[i] * (1.0 - x[i])) ** BALANCE / (1e-300 - diagonal[i + 1])
            some += 1
    best = -1
    score = -1.0
    row = np.empty(n + 1)
    for _ in range(min(some, CANDIDATES)):
        i = largest(key)
        key[i] = -1.0
        row_of(tableau, made, i + 1, row)
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


@compiled(inner=True)
def overshoot(value: float) -> float:
    """The squared distance from the interval [0, 1]."""
    over = max(-value, value - 1.0, 0.0)
    return over * over


class Fixing(NamedTuple):
    """Costs of fixing each member of a pattern by itself, mode refit; float64 (size,) each.

    value : |yᵢ|, or −|yᵢ| for a tie with the wrong sign;  variance : Vᵢᵢ, see `tied_branching_variable`
    down : cost of pruning it;  up : cost of keeping it;  step : derivative of up by the move
    key : its score without followers; −1 if it cannot be branched on
    """

    value: FloatArray
    variance: FloatArray
    down: FloatArray
    step: FloatArray
    up: FloatArray
    key: FloatArray


@compiled(inner=True, allocates=True)
def tied_branching_variable(program: Program, node: Node, size: int, tau: float) -> int:
    """Mode refit: the free tied variable whose fixing costs most; −1: none. tau: the threshold of |ρ|.

    With t ties for `left` places the node minimises q(y) + (Σ|y| of the ties)²/(2·left). Its inverse V on the
    members is `inverse` less a multiple of spread spread'. Pruning i takes yᵢ to 0 and costs yᵢ²/(2 Vᵢᵢ).
    Keeping it adds κ/2 (|yᵢ| − τ)², κ = left/(left − 1), and so costs κ (τ − |yᵢ|)²/(2 (1 + κ c'Vc)), c being
    the slope of |yᵢ| − τ. The other ties follow; moving them below 0 or above τ adds to the cost.
    """
    left, bottom = places_of_ties(program.keep, node, size)
    fixing = Fixing(np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size))
    some = cost_alone(node, size, tau, left, bottom, fixing)
    best = -1
    score = -1.0
    lower, upper = np.empty(size), np.empty(size)
    for _ in range(min(some, TIED_CANDIDATES)):
        c = largest(fixing.key)
        fixing.key[c] = -1.0
        worth = cost_with_followers(node, c, left, bottom, fixing, lower, upper)
        if worth > score:
            score = worth
            best = node.system.members[c]
    return best


@merged
def places_of_ties(keep: int, node: Node, size: int) -> tuple[float, float]:
    """How many places the ties share, and the denominator of the threshold: that plus the ties' curvature."""
    pattern, members, sign, spread = node.system.pattern, node.system.members, node.sign, node.spread
    left = float(keep)
    bottom = 0.0
    for a in range(size):
        if pattern[members[a]] == TIED:
            bottom += sign[members[a]] * spread[a]
        else:
            left -= 1.0
    return left, bottom + left


@merged
def cost_alone(node: Node, size: int, tau: float, left: float, bottom: float, fixing: Fixing) -> int:
    """Fill in `fixing`. Returns how many members can be branched on."""
    pattern, members, inverse = node.system.pattern, node.system.members, node.system.inverse
    sign, spread = node.sign, node.spread
    value, variance, down, up, step = fixing.value, fixing.variance, fixing.down, fixing.up, fixing.step
    ratio = left / (left - 1.0) if left > 1.0 else 1e6
    some = 0
    for a in range(size):
        i = members[a]
        fixing.key[a] = -1.0
        value[a] = sign[i] * node.y[i]
        variance[a] = max(inverse[a, a] - spread[a] * spread[a] / bottom, 1e-300)
        tied = pattern[i] == TIED and node.fixed[i] == FREE
        if tied and FRACTIONAL * tau < value[a] < (1.0 - FRACTIONAL) * tau:
            some += 1
            along = variance[a] - 2.0 * sign[i] * spread[a] / bottom + (bottom - left) / (bottom * left)
            step[a] = ratio * (tau - value[a]) / (1.0 + ratio * max(along, 0.0))
            down[a] = 0.5 * value[a] * value[a] / variance[a]
            up[a] = 0.5 * step[a] * (tau - value[a])
            fixing.key[a] = min(up[a], down[a]) + TIED_DEARER * max(up[a], down[a])
    return some


@merged
def cost_with_followers(
    node: Node, c: int, left: float, bottom: float, fixing: Fixing, lower: FloatArray, upper: FloatArray
) -> float:
    """The score of member c as a branching variable; lower, upper receive the positions the other ties follow to."""
    pattern, members, inverse = node.system.pattern, node.system.members, node.system.inverse
    sign, spread, value, variance = node.sign, node.spread, fixing.value, fixing.variance
    size = value.size
    j = members[c]
    pull = value[c] / variance[c]
    total_down, total_up = 0.0, 0.0
    for a in range(size):
        i = members[a]
        if pattern[i] == TIED and a != c:
            rate = sign[i] * sign[j] * (inverse[a, c] - spread[a] * spread[c] / bottom)
            lower[a] = value[a] - rate * pull
            upper[a] = value[a] + fixing.step[c] * (rate - sign[i] * spread[a] / bottom)
            total_down += lower[a]
            total_up += upper[a]
    level_down, level_up = total_down / left, total_up / max(left - 1.0, 1.0)
    fall, rise = 0.0, 0.0
    for a in range(size):
        if pattern[members[a]] == TIED and a != c:
            fall += follower_cost(lower[a], level_down, variance[a])
            rise += follower_cost(upper[a], level_up, variance[a])
    fall = fixing.down[c] + TIED_OVERSHOOT * fall
    rise = fixing.up[c] + TIED_OVERSHOOT * rise
    worth: float = min(rise, fall) + TIED_DEARER * max(rise, fall)
    return worth


@compiled(inner=True)
def follower_cost(value: float, level: float, variance: float) -> float:
    """The cost of moving a tied weight back that follows below 0 or above the threshold."""
    below, above = max(-value, 0.0), max(value - level, 0.0)
    return 0.5 * below * below / variance + 0.5 * above * above / (1.0 + variance)


@compiled(inner=True)
def dearest_to_prune(node: Node, size: int, tau: float) -> int:
    """Mode refit, for tangents: the tied variable of highest saliency times (1 − its kept share); −1: none.

    The saliency y²/S⁻¹ is that of Optimal Brain Surgeon (Hassibi, Stork 1992, eq. 5) in the node's system. A tree
    takes more nodes by this rule, but its tangents are flatter; those of the rule above can be too steep for
    HiGHS' tolerances or make it fail.
    """
    pattern, members, inverse = node.system.pattern, node.system.members, node.system.inverse
    best = -1
    score = -1.0
    for a in range(size):
        i = members[a]
        if pattern[i] != TIED or node.fixed[i] != FREE:
            continue
        share = min(1.0, max(0.0, node.sign[i] * node.y[i] / tau))
        if share < FRACTIONAL or share > 1.0 - FRACTIONAL:
            continue
        worth = node.y[i] * node.y[i] * (1.0 - share) / (inverse[a, a] + 1e-300)
        if worth > score:
            score = worth
            best = i
    return best
