"""A node of the refit tree: the perspective relaxation with the diagonal split scaled to the identity.

    minimise ½ y'Ky − h'y + ½ Σ yᵢ²/mᵢ   over  Σm = keep, 0 <= m <= 1,      K positive semidefinite.

For given y the best m makes the last term half the squared k-support norm. A solution is therefore a
pattern: |ρ| above a threshold τ (m = 1), at it (0 < m < 1), or below it (m = 0), with ρ = h − Ky. Each
pattern has one linear system; its inverse is updated, and a change of pattern costs O(b²).
The bound holds at any y, converged or not (Argyriou, Foygel, Srebro: Sparse Prediction with the
k-Support Norm, NeurIPS 2012; Pilanci, Wainwright, El Ghaoui: Sparse learning via Boolean
relaxations, Math. Programming 2015, the dual form):

    f >= −½ y'Ky − ½ (Σ_kept ρ² + sum of the largest free ρ²).
"""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import ZERO, compiled, copy, fill, merged
from prunebench.kernels.trees.select_node import FREE, Pattern

OUT = 0
"""Pattern of a weight that the relaxation prunes: |ρ| below the threshold."""
TIED = 1
"""Pattern of a weight that the relaxation keeps in part: |ρ| at the threshold."""
IN = 2
"""Pattern of a weight that the relaxation keeps: |ρ| above the threshold."""
LEAST_PIVOT = 1e-14
"""A weight whose pivot is at most this share of its diagonal entry is linearly dependent and does not join."""
LEAST_DENOMINATOR = 1e-13
"""A diagonal change that leaves at most this share of the entry makes the system singular."""
RESIDUAL = 1e-8
"""A pattern's point is recomputed if its residual exceeds this share of the largest |ρ|: the inverse has drifted."""
SAME_LEVEL = 1e-10
"""Relative overlap of kept and pruned |ρ| that is tolerated without ties."""
BEYOND = 1e-9
"""A weight changes its pattern only if it is beyond the threshold by this share of it."""
SINGLE_CHANGES = 6
"""After this many iterations only the worst weight changes, as changing all at once may cycle."""
CORRECTIONS = 3
"""How often the point of a given mask is solved for: once, and twice more for its residual."""


class Program(NamedTuple):
    """The program above, with the split taken out of its Hessian.

    matrix : float64 (p, p)   K;  linear : float64 (p,)   h;  keep : how many weights are kept
    sizes : float64 (2, p)    scales of the errors: that of K_ij is at most accuracy·sizes_0i·sizes_0j (√ of the
                              diagonal of K + I, or more), that of h_i accuracy·sizes_1i (|h_i|, or more)
    accuracy                  relative error of every entry and sum
    """

    matrix: FloatArray
    linear: FloatArray
    sizes: FloatArray
    keep: int
    accuracy: float


class System(NamedTuple):
    """The linear system of a pattern. Its members, TIED or IN, are in the order in which they joined.

    pattern : int8 (p,)                  OUT, TIED or IN
    inverse : float64 (p, p)             leading part used: inverse of K on the members, with 1 added where IN
    members : int64 (p,)                 leading part used
    """

    pattern: Pattern
    inverse: FloatArray
    members: IndexArray


class Node(NamedTuple):
    """A node's point and its system; the arrays are changed in place.

    system : of its pattern;  sign : float64 (p,), the sign of ρ of each tie
    fixed : int8 (p,), FREE, 0 or 1;  y, rho : float64 (p,), the weights, and ρ = h − Ky
    spread : float64 (p,), inverse @ ties, by member;  wanted : int8 (p,), the next pattern
    """

    system: System
    sign: FloatArray
    fixed: Pattern
    y: FloatArray
    rho: FloatArray
    spread: FloatArray
    wanted: Pattern


def node_of(pattern: Pattern, sign: FloatArray, fixed: Pattern) -> Node:
    """A node with copies of this pattern, signs and fixed weights; its point is not computed yet."""
    p = pattern.size
    system = System(pattern.copy(), np.empty((p, p)), np.empty(p, np.int64))
    return Node(system, sign.copy(), fixed.copy(), np.zeros(p), np.empty(p), np.zeros(p), pattern.copy())


@compiled(fast=True, inner=True, allocates=True)
def border(matrix: FloatArray, inverse: FloatArray, members: IndexArray, size: int, i: int, extra: float) -> int:
    """Add variable i with `extra` on its diagonal. Returns the new size, unchanged if singular."""
    row = matrix[i]
    column = np.empty(size)
    for a in range(size):
        column[a] = row[members[a]]
    product = np.empty(size)
    pivot = row[i] + extra
    for a in range(size):
        total = 0.0
        for b in range(size):
            total += inverse[a, b] * column[b]
        product[a] = total
        pivot -= total * column[a]
    if not pivot > LEAST_PIVOT * (row[i] + extra):
        return size
    for a in range(size):
        scaled = product[a] / pivot
        for b in range(size):
            inverse[a, b] += scaled * product[b]
        inverse[a, size] = -scaled
        inverse[size, a] = -scaled
    inverse[size, size] = 1.0 / pivot
    members[size] = i
    return size + 1


@compiled(fast=True, inner=True)
def drop(inverse: FloatArray, members: IndexArray, size: int, at: int) -> int:
    """Remove the variable at position `at`. Returns the new size."""
    last = size - 1
    if at != last:
        for a in range(size):
            held = inverse[a, at]
            inverse[a, at] = inverse[a, last]
            inverse[a, last] = held
        for a in range(size):
            held = inverse[at, a]
            inverse[at, a] = inverse[last, a]
            inverse[last, a] = held
        members[at] = members[last]
    pivot = inverse[last, last]
    for a in range(last):
        scaled = inverse[a, last] / pivot
        for b in range(last):
            inverse[a, b] -= scaled * inverse[last, b]
    return last


@compiled(fast=True, inner=True, allocates=True)
def shift_diagonal(inverse: FloatArray, size: int, at: int, change: float) -> bool:
    """Change the system's diagonal entry `at` by `change`. False if that makes it singular."""
    denominator = 1.0 + change * inverse[at, at]
    if not denominator > LEAST_DENOMINATOR:
        return False
    row = np.empty(size)
    for a in range(size):
        row[a] = inverse[at, a]
    for a in range(size):
        scaled = change * row[a] / denominator
        for b in range(size):
            inverse[a, b] -= scaled * row[b]
    return True


@compiled(inner=True)
def build(matrix: FloatArray, system: System) -> int:
    """Recompute the inverse of the pattern; linearly dependent weights become OUT. Returns the number of members."""
    pattern, inverse, members = system
    size: int = ZERO
    for i in range(pattern.size):
        if pattern[i] != OUT:
            before = size
            size = border(matrix, inverse, members, size, i, 1.0 if pattern[i] == IN else 0.0)
            if size == before:
                pattern[i] = OUT
    return size


@compiled(inner=True)
def change_pattern(matrix: FloatArray, system: System, wanted: Pattern, size: int) -> int:
    """Bring the system to the pattern `wanted`, in place; rebuild it if an update fails. Returns its size."""
    pattern, inverse, members = system
    healthy = True
    a = ZERO
    while a < size:
        i = members[a]
        if wanted[i] == OUT:
            pattern[i] = OUT
            healthy &= inverse[a, a] > 0.0
            size = drop(inverse, members, size, a)
            continue
        if wanted[i] == IN and pattern[i] == TIED:
            healthy &= shift_diagonal(inverse, size, a, 1.0)
            pattern[i] = IN
        a += 1
    for a in range(size):
        i = members[a]
        if wanted[i] == TIED and pattern[i] == IN:
            healthy &= shift_diagonal(inverse, size, a, -1.0)
            pattern[i] = TIED
    for i in range(pattern.size):
        if pattern[i] == OUT and wanted[i] != OUT:
            before = size
            size = border(matrix, inverse, members, size, i, 1.0 if wanted[i] == IN else 0.0)
            if size == before:
                healthy = False
            pattern[i] = wanted[i]
    if not healthy:
        size = build(matrix, system)
    return size


@compiled(fast=True, inner=True)
def pattern_point(program: Program, node: Node, size: int) -> tuple[float, int, int, float]:
    """Compute y and ρ of the pattern, and `spread`, in the node. size: the number of members.

    Returns (the threshold τ, nan without ties; how many weights are IN; how many TIED; the residual of the pattern's
    equations).
    """
    linear, sign, y, rho, spread = program.linear, node.sign, node.y, node.rho, node.spread
    pattern, inverse, members = node.system
    inside = 0
    for a in range(size):
        inside += pattern[members[a]] == IN
    tied = size - inside
    fill(y, 0.0)
    top = 0.0
    bottom = float(program.keep - inside)
    for a in range(size):
        first = 0.0
        second = 0.0
        for b in range(size):
            k = members[b]
            first += inverse[a, b] * linear[k]
            if pattern[k] == TIED:
                second += inverse[a, b] * sign[k]
        i = members[a]
        y[i] = first
        spread[a] = second
        if pattern[i] == TIED:
            top += sign[i] * first
            bottom += sign[i] * second
    tau = np.nan
    if tied > 0:
        tau = top / bottom if bottom > 0.0 else 0.0
        for a in range(size):
            y[members[a]] -= tau * spread[a]
    residual_of(program, node.system, y, rho, size)
    residual, total = 0.0, 0.0
    for a in range(size):
        i = members[a]
        due = y[i] if pattern[i] == IN else sign[i] * tau
        residual = max(residual, abs(rho[i] - due))
        total += abs(rho[i] - due)
    # a maximum ignores NaN, a sum does not
    return tau, inside, tied, residual if np.isfinite(total) else np.inf


@compiled(fast=True, inner=True)
def residual_of(program: Program, system: System, y: FloatArray, rho: FloatArray, size: int) -> None:
    """ρ = h − Ky, summed over the members."""
    matrix, members = program.matrix, system.members
    copy(program.linear, rho)
    for a in range(size):
        value = y[members[a]]
        row = matrix[members[a]]
        for i in range(rho.size):
            rho[i] -= value * row[i]


@compiled(fast=True, inner=True)
def dual_bound(program: Program, fixed: Pattern, y: FloatArray, rho: FloatArray, level: float) -> float:
    """The bound at any y, minus rounding, with ρ = h − Ky. level : λ, the squared threshold; any λ >= 0 is valid

    Every |ρᵢ| counts with the upper end of its rounding interval, on either side of the threshold.
    """
    linear, sizes, accuracy = program.linear, program.sizes, program.accuracy
    p = linear.size
    left = program.keep
    quadratic = 0.0
    size = 0.0
    top = 0.0
    span = reach_of(sizes, y)
    for i in range(p):
        quadratic += y[i] * (linear[i] - rho[i])
        size += abs(y[i]) * sizes[1, i]
        square = square_end(sizes, span, accuracy, rho, i)
        if fixed[i] == 1:
            top += square
            left -= 1
        elif fixed[i] == FREE and square > level:
            top += square - level
    size += span * span + 2.0 * top + 2.0 * abs(level) * program.keep
    return -0.5 * quadratic - 0.5 * (top + level * left) - accuracy * size


@compiled(fast=True, inner=True)
def reach_of(sizes: FloatArray, y: FloatArray) -> float:
    """Error bound of an entry of Ky, in units of accuracy·sizes_0i."""
    span = 0.0
    for i in range(y.size):
        span += sizes[0, i] * abs(y[i])
    return span


@compiled(fast=True, inner=True)
def square_end(sizes: FloatArray, span: float, accuracy: float, rho: FloatArray, i: int) -> float:
    """The largest ρᵢ² within rounding."""
    end: float = abs(rho[i]) + accuracy * (sizes[1, i] + sizes[0, i] * span)
    return end * end


@merged
def solve_node(
    program: Program, node: Node, size: int, bound: float, cut: float, limit: int
) -> tuple[int, float, float, bool, int]:
    """Iterate patterns until they repeat, the bound reaches `cut`, or `limit` iterations are made.

    size : number of members of the pattern;  bound : the best known so far
    Returns (size, bound, level, converged, ties), with the best bound of all iterates.
    """
    level = 0.0
    tied = 0
    for iteration in range(limit):
        tau, inside, tied, residual = pattern_point(program, node, size)
        if not residual <= RESIDUAL * largest_size(node.rho):
            size = build(program.matrix, node.system)
            tau, inside, tied, residual = pattern_point(program, node, size)
            if not np.isfinite(residual):
                # the pattern's system is singular in floating point; the point 0 also gives a bound
                fill(node.y, 0.0)
                copy(program.linear, node.rho)
                at_zero = dual_bound(program, node.fixed, node.y, node.rho, 0.0)
                return size, max(bound, at_zero), 0.0, False, 0
        converged = False
        if tied == 0:
            tau, apart = level_between(node)
            converged = apart and inside == program.keep
        level = tau * tau
        bound = max(bound, dual_bound(program, node.fixed, node.y, node.rho, level))
        if converged or bound >= cut:
            return size, bound, level, converged, tied
        changes, worst = want(node, tau)
        if changes == 0 and tied > 0:
            return size, bound, level, True, tied
        if iteration >= SINGLE_CHANGES and worst >= 0:
            chosen = node.wanted[worst]
            copy(node.system.pattern, node.wanted)
            node.wanted[worst] = chosen
        legal(program.keep, node.fixed, node.wanted, node.rho)
        if not sign_ties(node):
            return size, bound, level, False, tied
        size = change_pattern(program.matrix, node.system, node.wanted, size)
    return size, bound, level, False, tied


@merged
def largest_size(values: FloatArray) -> float:
    """The largest |value|."""
    largest = 0.0
    for i in range(values.size):
        largest = max(largest, abs(values[i]))
    return largest


@merged
def level_between(node: Node) -> tuple[float, bool]:
    """Without ties: a threshold between kept and pruned free weights, and whether it separates them."""
    pattern, rho = node.system.pattern, node.rho
    lowest = np.inf
    highest = 0.0
    for i in range(rho.size):
        if node.fixed[i] == FREE:
            if pattern[i] == IN:
                lowest = min(lowest, abs(rho[i]))
            elif pattern[i] == OUT:
                highest = max(highest, abs(rho[i]))
    tau = highest if lowest == np.inf else 0.5 * (lowest + highest)
    return tau, lowest >= highest * (1.0 - SAME_LEVEL)


@merged
def want(node: Node, tau: float) -> tuple[int, int]:
    """Write to `wanted` the pattern that the point and the threshold imply. Returns (how many free weights change, the
    one farthest on the wrong side, −1: none).
    """
    pattern, rho, wanted = node.system.pattern, node.rho, node.wanted
    copy(pattern, wanted)
    worst = -1
    violation = 0.0
    changes = 0
    for i in range(pattern.size):
        if node.fixed[i] != FREE:
            continue
        amount = 0.0
        if pattern[i] == TIED:
            share = node.sign[i] * node.y[i] / (tau + 1e-300)
            if share > 1.0 + BEYOND:
                wanted[i] = IN
                amount = share - 1.0
            elif share < -BEYOND:
                wanted[i] = OUT
                amount = -share
        elif pattern[i] == IN:
            if abs(rho[i]) < tau * (1.0 - BEYOND):
                wanted[i] = TIED
                amount = 1.0 - abs(rho[i]) / tau
        elif abs(rho[i]) > tau * (1.0 + BEYOND):
            wanted[i] = TIED
            amount = abs(rho[i]) / (tau + 1e-300) - 1.0
        if wanted[i] != pattern[i]:
            changes += 1
            if amount > violation:
                violation = amount
                worst = i
    return changes, worst


@merged
def sign_ties(node: Node) -> bool:
    """Give new ties the sign of their ρ. False if the wanted pattern equals the present one."""
    changed = False
    for i in range(node.wanted.size):
        if node.wanted[i] != node.system.pattern[i]:
            changed = True
            if node.wanted[i] == TIED:
                node.sign[i] = -1.0 if node.rho[i] < 0.0 else 1.0
    return changed


@compiled(fast=True, inner=True, allocates=True)
def one_mask_point(program: Program, node: Node, size: int) -> float:
    """y and ρ of a given mask, whose pattern has only IN and OUT. Returns the value of the weights y.

    Twice corrected by its residual, since with a drifted inverse the bound would be below the value.
    """
    linear, y, rho = program.linear, node.y, node.rho
    inverse, members = node.system.inverse, node.system.members
    fill(y, 0.0)
    copy(linear, rho)
    step = np.empty(size)
    for _ in range(CORRECTIONS):
        for a in range(size):
            step[a] = 0.0
            for b in range(size):
                step[a] += inverse[a, b] * (rho[members[b]] - y[members[b]])
        for a in range(size):
            y[members[a]] += step[a]
        residual_of(program, node.system, y, rho, size)
    total = 0.0
    for a in range(size):
        i = members[a]
        total += y[i] * (0.5 * (y[i] - rho[i] - linear[i]))
    return total


@compiled(inner=True)
def legal(keep: int, fixed: Pattern, wanted: Pattern, rho: FloatArray) -> None:
    """Change the pattern to one that has a threshold: |IN| < keep < |IN| + |TIED|, or |IN| = keep without ties."""
    p = wanted.size
    while True:
        inside = 0
        tied = 0
        for i in range(p):
            inside += wanted[i] == IN
            tied += wanted[i] == TIED
        if inside == keep and tied == 0:
            return
        if inside < keep < inside + tied:
            return
        if inside >= keep:
            # the weakest free IN member becomes a tie; if there is none, the ties become OUT
            pick = -1
            for i in range(p):
                if wanted[i] == IN and fixed[i] == FREE and (pick < 0 or abs(rho[i]) < abs(rho[pick])):
                    pick = i
            if pick < 0:
                for i in range(p):
                    if wanted[i] == TIED:
                        wanted[i] = OUT
                return
            wanted[pick] = TIED
            continue
        for i in range(p):
            if wanted[i] == TIED:
                wanted[i] = IN
        inside += tied
        if inside == keep:
            return
        pick = -1
        for i in range(p):
            if wanted[i] == OUT and fixed[i] == FREE and (pick < 0 or abs(rho[i]) > abs(rho[pick])):
                pick = i
        if pick < 0:
            return
        wanted[pick] = IN
