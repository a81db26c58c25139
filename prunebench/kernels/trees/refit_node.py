"""The refit tree's node: perspective relaxation with the diagonal split scaled to the identity.

    minimise ½ y'Ky − h'y + ½ Σ yᵢ²/mᵢ   over  Σm = keep, 0 <= m <= 1,      K positive semidefinite.

For given y the best m makes the last term half the squared k-support norm, so a solution is a
pattern: |ρ| above a threshold τ (m = 1), equal to it (0 < m < 1), below it (m = 0), ρ = h − Ky. One
linear system belongs to a pattern; its inverse is carried along, a change of pattern costs O(b²).
The bound holds at any y, converged or not (Argyriou, Foygel, Srebro: Sparse Prediction with the
k-Support Norm, NeurIPS 2012; Pilanci, Wainwright, El Ghaoui: Sparse learning via Boolean
relaxations, Math. Programming 2015, the dual form):

    f >= −½ y'Ky − ½ (Σ_kept ρ² + sum of the largest free ρ²).
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.trees.select_node import FAST, FREE, Pattern

OUT = 0
"""Pattern of a weight that is pruned at the relaxation: |ρ| below the threshold."""
TIED = 1
"""Pattern of a weight that is kept in part: |ρ| at the threshold."""
IN = 2
"""Pattern of a weight that is kept: |ρ| above the threshold."""


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def border(matrix: FloatArray, inverse: FloatArray, members: IndexArray, size: int, i: int, extra: float) -> int:
    """Variable i joins with `extra` on its diagonal. Returns the new size, unchanged if singular."""
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
    if not pivot > 1e-14 * (row[i] + extra):
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


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def drop(inverse: FloatArray, members: IndexArray, size: int, at: int) -> int:
    """The variable at position `at` leaves. Returns the new size."""
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


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def shift_diagonal(inverse: FloatArray, size: int, at: int, change: float) -> bool:
    """The system's diagonal entry `at` changes by `change`. False if that leaves it singular."""
    denominator = 1.0 + change * inverse[at, at]
    if not denominator > 1e-13:
        return False
    row = inverse[at, :size].copy()
    for a in range(size):
        scaled = change * row[a] / denominator
        for b in range(size):
            inverse[a, b] -= scaled * row[b]
    return True


@njit(cache=True, error_model="numpy", nogil=True)
def build(matrix: FloatArray, pattern: Pattern, inverse: FloatArray, members: IndexArray) -> int:
    """The inverse afresh from the pattern. Returns its size."""
    size = 0
    for i in range(pattern.size):
        if pattern[i] != OUT:
            before = size
            size = border(matrix, inverse, members, size, i, 1.0 if pattern[i] == IN else 0.0)
            if size == before:
                pattern[i] = OUT
    return size


@njit(cache=True, error_model="numpy", nogil=True)
def change_pattern(
    matrix: FloatArray, pattern: Pattern, wanted: Pattern, inverse: FloatArray, members: IndexArray, size: int
) -> int:
    """Bring the inverse from `pattern` to `wanted`, in place. Returns the size; rebuilt where an update fails."""
    healthy = True
    a = 0
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
        size = build(matrix, pattern, inverse, members)
    return size


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def pattern_point(
    matrix: FloatArray,
    linear: FloatArray,
    keep: int,
    pattern: Pattern,
    sign: FloatArray,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    y: FloatArray,
    rho: FloatArray,
    spread: FloatArray,
) -> tuple[float, int, int, float]:
    """y and ρ of a pattern, its threshold τ (nan without ties), and its residual against the pattern.

    `spread` receives, for every member, its entry of inverse @ ties (the branching score needs it).
    """
    p = linear.size
    inside = 0
    tied = 0
    for a in range(size):
        if pattern[members[a]] == IN:
            inside += 1
        else:
            tied += 1
    y[:] = 0.0
    top = 0.0
    bottom = float(keep - inside)
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
    rho[:] = linear
    for a in range(size):
        value = y[members[a]]
        row = matrix[members[a]]
        for i in range(p):
            rho[i] -= value * row[i]
    residual, total = 0.0, 0.0
    for a in range(size):
        i = members[a]
        due = y[i] if pattern[i] == IN else sign[i] * tau
        residual = max(residual, abs(rho[i] - due))
        total += abs(rho[i] - due)
    # a maximum passes over NaN, a sum does not
    return tau, inside, tied, residual if np.isfinite(total) else np.inf


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def dual_bound(
    linear: FloatArray,
    sizes: FloatArray,
    keep: int,
    fixed: Pattern,
    y: FloatArray,
    rho: FloatArray,
    level: float,
    accuracy: float,
) -> float:
    """The bound at any y with the threshold `level` = λ (any λ >= 0 is valid), less rounding.

    Every |ρᵢ| is taken at the upper end of what it can be, whether it is above the threshold or not.

    sizes : (2, p)   what errors are relative to: K_ij is off by accuracy·sizes_0i·sizes_0j at most (square
                     roots of the diagonal of K + I, or more), h_i by accuracy·sizes_1i (|h_i|, or more)
    accuracy         relative error of every entry and sum
    """
    p = linear.size
    left = keep
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
    size += span * span + 2.0 * top + 2.0 * abs(level) * keep
    return -0.5 * quadratic - 0.5 * (top + level * left) - accuracy * size


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def reach_of(sizes: FloatArray, y: FloatArray) -> float:
    """What an entry of Ky is off by, in units of accuracy·sizes_0i."""
    span = 0.0
    for i in range(y.size):
        span += sizes[0, i] * abs(y[i])
    return span


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def square_end(sizes: FloatArray, span: float, accuracy: float, rho: FloatArray, i: int) -> float:
    """The largest ρᵢ² that rounding allows."""
    end: float = abs(rho[i]) + accuracy * (sizes[1, i] + sizes[0, i] * span)
    return end * end


@njit(cache=True, error_model="numpy", nogil=True)
def solve_node(
    matrix: FloatArray,
    linear: FloatArray,
    sizes: FloatArray,
    keep: int,
    fixed: Pattern,
    pattern: Pattern,
    sign: FloatArray,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    y: FloatArray,
    rho: FloatArray,
    spread: FloatArray,
    wanted: Pattern,
    bound: float,
    cut: float,
    accuracy: float,
    limit: int,
) -> tuple[int, float, float, bool, int]:
    """Pattern iterations until the pattern repeats, the bound passes `cut`, or `limit` is reached.

    Returns (size, bound, level, converged, ties); the bound is the best of all iterates.
    """
    p = linear.size
    level = 0.0
    converged = False
    tied = 0
    for iteration in range(limit):
        tau, inside, tied, residual = pattern_point(
            matrix, linear, keep, pattern, sign, inverse, members, size, y, rho, spread
        )
        largest = 0.0
        for i in range(p):
            largest = max(largest, abs(rho[i]))
        if not residual <= 1e-8 * largest:
            size = build(matrix, pattern, inverse, members)
            tau, inside, tied, residual = pattern_point(
                matrix, linear, keep, pattern, sign, inverse, members, size, y, rho, spread
            )
            if not np.isfinite(residual):
                # the pattern's system is singular in floating point: the point 0 has a bound too
                y[:] = 0.0
                rho[:] = linear
                level = 0.0
                at_zero = dual_bound(linear, sizes, keep, fixed, y, rho, level, accuracy)
                return size, max(bound, at_zero), level, False, 0
        lowest = np.inf
        highest = 0.0
        for i in range(p):
            if fixed[i] == FREE:
                if pattern[i] == IN:
                    lowest = min(lowest, abs(rho[i]))
                elif pattern[i] == OUT:
                    highest = max(highest, abs(rho[i]))
        if tied == 0:
            if inside == keep and lowest >= highest * (1.0 - 1e-10):
                tau = highest if lowest == np.inf else 0.5 * (lowest + highest)
                converged = True
            else:
                tau = highest if lowest == np.inf else 0.5 * (lowest + highest)
        level = tau * tau
        found = dual_bound(linear, sizes, keep, fixed, y, rho, level, accuracy)
        if found > bound:
            bound = found
        if converged or bound >= cut:
            return size, bound, level, converged, tied
        wanted[:] = pattern
        worst = -1
        violation = 0.0
        changes = 0
        for i in range(p):
            if fixed[i] != FREE:
                continue
            now = pattern[i]
            to = now
            amount = 0.0
            if now == TIED:
                share = sign[i] * y[i] / (tau + 1e-300)
                if share > 1.0 + 1e-9:
                    to = IN
                    amount = share - 1.0
                elif share < -1e-9:
                    to = OUT
                    amount = -share
            elif now == IN:
                if abs(rho[i]) < tau * (1.0 - 1e-9):
                    to = TIED
                    amount = 1.0 - abs(rho[i]) / tau
            elif abs(rho[i]) > tau * (1.0 + 1e-9):
                to = TIED
                amount = abs(rho[i]) / (tau + 1e-300) - 1.0
            if to != now:
                wanted[i] = to
                changes += 1
                if amount > violation:
                    violation = amount
                    worst = i
        if changes == 0 and tied > 0:
            return size, bound, level, True, tied
        if iteration >= 6 and worst >= 0:
            chosen = wanted[worst]
            wanted[:] = pattern
            wanted[worst] = chosen
        legal(keep, fixed, wanted, rho)
        same = True
        for i in range(p):
            if wanted[i] != pattern[i]:
                same = False
                if wanted[i] == TIED:
                    sign[i] = -1.0 if rho[i] < 0.0 else 1.0
        if same:
            return size, bound, level, False, tied
        size = change_pattern(matrix, pattern, wanted, inverse, members, size)
    return size, bound, level, False, tied


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def one_mask_point(
    matrix: FloatArray,
    linear: FloatArray,
    pattern: Pattern,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    y: FloatArray,
    rho: FloatArray,
) -> float:
    """y and ρ where the mask is given: pattern IN or OUT alone. Returns the value of the weights y.

    Corrected twice by its own residual, since a system that has drifted leaves a bound below the value.
    """
    p = linear.size
    y[:] = 0.0
    rho[:] = linear
    step = np.empty(size)
    for _ in range(3):
        for a in range(size):
            step[a] = 0.0
            for b in range(size):
                step[a] += inverse[a, b] * (rho[members[b]] - y[members[b]])
        for a in range(size):
            y[members[a]] += step[a]
        rho[:] = linear
        for a in range(size):
            value = y[members[a]]
            row = matrix[members[a]]
            for i in range(p):
                rho[i] -= value * row[i]
    total = 0.0
    for a in range(size):
        i = members[a]
        total += y[i] * (0.5 * (y[i] - rho[i] - linear[i]))
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def legal(keep: int, fixed: Pattern, wanted: Pattern, rho: FloatArray) -> None:
    """Make the pattern one whose threshold exists: |IN| < keep < |IN| + |TIED|, or |IN| = keep without ties."""
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
            # the weakest free member that is in joins the ties; without one, the ties go out
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
