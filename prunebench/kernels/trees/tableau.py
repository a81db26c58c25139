"""The optimum of the select relaxation and how it moves, on a tableau of all variables.

    minimise ½ x'Mx + g'x  over 0 <= x <= 1, Σx = count,     M positive semidefinite on Σd = 0.

The tableau is the matrix [[0, 1'], [1, M]] swept on its first row and on the fractional variables F
(the sweep operator: Goodnight, "A tutorial on the SWEEP operator", The American Statistician 33,
1979). Row j tells what happens when x_j moves: how the other fractional variables follow, and how
the reduced costs at the bounds change. About half of a tree's nodes are cut off after a few events.
A node therefore does not sweep its parent's tableau, O(n²) an event, but stacks the rows of its sweeps
and takes a row through them when it is needed, O(n) per sweep.
"""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.compiled import ONE, ZERO, compiled, merged
from prunebench.kernels.trees.select_node import FREE, Point, Program, gradient_at

GAVE_UP = 0
"""End of a walk: `follow` could not go on."""
ARRIVED = 1
"""End of a walk: the variable is at its target, and the point is optimal there."""
CUT_OFF = 2
"""End of a walk: the node's bound is sure to reach the cut-off before the target."""
SETTLED = 1e-7
"""Steps of the active set shorter than this do not update the gradient."""


class Sweeps(NamedTuple):
    """A stack of sweeps.

    rows : float64 (capacity, ≥ n + 1)   the pivot row of each sweep
    places : int64 (capacity,)           the index of that row in the tableau
    pivots : float64 (capacity, 2)       1/pivot, and 1 for a sweep in, −1 for a sweep out
    """

    rows: FloatArray
    places: IndexArray
    pivots: FloatArray


class Tableau(NamedTuple):
    """A swept matrix and a stack of later sweeps.

    sheet : float64 (n + 1, n + 1)   the matrix; row 0 is the count's, row i + 1 that of variable i
    sweeps : the caller keeps their number
    """

    sheet: FloatArray
    sweeps: Sweeps


def new_sweeps(n: int, capacity: int) -> Sweeps:
    """Space for `capacity` sweeps of n variables."""
    return Sweeps(np.empty((capacity, n + 1)), np.empty(capacity, np.int64), np.empty((capacity, 2)))


def new_tableau(n: int, capacity: int = 1) -> Tableau:
    """Space for a tableau of n variables with `capacity` later sweeps."""
    return Tableau(np.empty((n + 1, n + 1)), new_sweeps(n, capacity))


@compiled(fast=True, inner=True)
def sweep_row(row: FloatArray, k: int, order: int, sweeps: Sweeps, begin: int, end: int) -> None:
    """Apply the sweeps from `begin` to `end` (excluded) to row k of the tableau, (order,), in place."""
    rows, places, pivots = sweeps.rows, sweeps.places, sweeps.pivots
    for q in range(begin, end):
        at = places[q]
        inverse = pivots[q, 0]
        sign = pivots[q, 1]
        if at == k:
            for b in range(order):
                row[b] = rows[q, b] * (sign * inverse)
            row[k] = -inverse
        else:
            factor = row[at] * inverse
            for b in range(order):
                row[b] -= factor * rows[q, b]
            row[at] = sign * factor


@compiled(inner=True)
def row_of(tableau: Tableau, made: int, k: int, out: FloatArray) -> None:
    """Row k of the tableau after its first `made` sweeps."""
    sheet = tableau.sheet
    order = sheet.shape[0]
    for b in range(order):
        out[b] = sheet[k, b]
    sweep_row(out, k, order, tableau.sweeps, ZERO, made)


@compiled(inner=True)
def push(tableau: Tableau, made: int, k: int, sign: float, least: float) -> int:
    """Stack a sweep on row k: into the swept set (sign 1) or out of it (sign −1).

    Returns the number of sweeps, unchanged if the pivot is at most `least` or the stack is full.
    """
    sweeps = tableau.sweeps
    if made == sweeps.places.size:
        return made
    row = sweeps.rows[made]
    row_of(tableau, made, k, row)
    if not abs(row[k]) > least:
        return made
    sweeps.places[made] = k
    sweeps.pivots[made, 0] = 1.0 / row[k]
    sweeps.pivots[made, 1] = sign
    return made + 1


@compiled(fast=True, inner=True)
def diagonal_of(tableau: Tableau, made: int, out: FloatArray) -> None:
    """The tableau's diagonal after the first `made` sweeps."""
    sheet, (rows, places, pivots) = tableau.sheet, tableau.sweeps
    order = sheet.shape[0]
    for b in range(order):
        out[b] = sheet[b, b]
    for q in range(made):
        inverse = pivots[q, 0]
        for b in range(order):
            out[b] -= inverse * rows[q, b] * rows[q, b]
        out[places[q]] = -inverse


@compiled(inner=True)
def sweep_all(tableau: Tableau, made: int) -> None:
    """Apply the first `made` sweeps to the tableau itself."""
    sheet = tableau.sheet
    order = sheet.shape[0]
    for k in range(order):
        sweep_row(sheet[k], k, order, tableau.sweeps, ZERO, made)


@compiled(inner=True)
def sweep_now(tableau: Tableau, k: int, sign: float) -> None:
    """Sweep the tableau itself on row k; overwrites the first entry of its stack."""
    push(tableau, ZERO, k, sign, 0.0)
    sweep_all(tableau, ONE)


@merged
def singular(matrix: FloatArray, i: int) -> float:
    """The largest pivot of variable i that counts as zero up to rounding."""
    return 1e-13 * abs(matrix[i, i]) + 1e-300  # type: ignore[no-any-return]  # numba's own types


@compiled(inner=True)
def build(matrix: FloatArray, tableau: Tableau, basic: BoolArray) -> int:
    """Recompute the tableau of the basic variables; dependent ones become nonbasic. Returns the number of basic ones.

    matrix (n, n), basic (n,). Overwrites the first entry of the tableau's stack.
    """
    n: int = basic.size
    sheet = tableau.sheet
    first = 0
    while first < n and not basic[first]:
        first += 1
    if first == n:
        return 0
    # the count and one variable in closed form: [[0, 1], [1, m]] is invertible for any m
    own = matrix[first]
    square = own[first]
    for i in range(n):
        sheet[0, i + 1] = sheet[i + 1, 0] = own[i] - square
        for k in range(n):
            sheet[i + 1, k + 1] = matrix[i, k] + square - own[i] - own[k]
    for i in range(n):
        sheet[first + 1, i + 1] = sheet[i + 1, first + 1] = 1.0
    sheet[0, 0] = square
    sheet[0, first + 1] = sheet[first + 1, 0] = -1.0
    sheet[first + 1, first + 1] = 0.0
    size = 1
    for i in range(first + 1, n):
        if basic[i]:
            basic[i] = sheet[i + 1, i + 1] > singular(matrix, i)
            if basic[i]:
                sweep_now(tableau, i + 1, 1.0)
                size += 1
    return size


@compiled(inner=True)
def start(point: Point) -> bool:
    """Make the fractional entries of x basic, or else one free variable. False: no variable is free."""
    x, grad, fixed, basic = point.x, point.grad, point.fixed, point.basic
    n = x.size
    best = -1
    some = False
    for i in range(n):
        basic[i] = fixed[i] == FREE and 0.0 < x[i] < 1.0
        some = some or basic[i]
    if some:
        return True
    for i in range(n):
        if fixed[i] == FREE and x[i] > 0.5 and (best < 0 or grad[i] > grad[best]):
            best = i
    if best < 0:
        for i in range(n):
            if fixed[i] == FREE and (best < 0 or grad[i] < grad[best]):
                best = i
    if best >= 0:
        basic[best] = True
    return best >= 0


@compiled(fast=True, inner=True)
def price_at(grad: FloatArray, basic: BoolArray, size: int) -> float:
    """The multiplier of the count: the gradient at fractional x, which at an optimum is equal for all of them."""
    total = 0.0
    for i in range(basic.size):
        total += grad[i] if basic[i] else 0.0
    return total / size


@compiled(fast=True, inner=True)
def optimal(point: Point, tolerance: float) -> bool:
    """Whether the point's reduced costs are optimal within `tolerance`."""
    x, reduced, fixed, basic = point.x, point.reduced, point.fixed, point.basic
    for i in range(x.size):
        if basic[i]:
            if abs(reduced[i]) > tolerance:
                return False
        elif fixed[i] == FREE and (reduced[i] if x[i] > 0.5 else -reduced[i]) > tolerance:
            return False
    return True


@merged
def optimum(program: Program, point: Point, tableau: Tableau, tolerance: float) -> tuple[int, float]:
    """The relaxation's optimum from a feasible x, with gradient and tableau; overwrites the first entry of its stack.

    Returns (number of basic variables, the price of the count).
    """
    gradient_at(program.matrix, program.linear, point.x, point.grad)
    start(point)
    size = build(program.matrix, tableau, point.basic)
    if size > 0:
        size, _ = refine(program, point, tableau, size, tolerance, 10 * point.x.size + 50)
    return size, price_at(point.grad, point.basic, max(size, 1))


@compiled(fast=True, inner=True, allocates=True)
def refine(
    program: Program, point: Point, tableau: Tableau, size: int, tolerance: float, limit: int
) -> tuple[int, bool]:
    """Primal active-set method from a feasible x to the optimum, on the tableau itself; updates `grad`.

    Reduced costs up to `tolerance` count as optimal; at most `limit` iterations. Returns (number of basic variables,
    converged).
    """
    x, grad, basic = point.x, point.grad, point.basic
    step, slope = np.empty(x.size), np.empty(x.size)
    for iteration in range(limit):
        gradient_at(program.matrix, program.linear, x, grad)
        price = price_at(grad, basic, size)
        blocking, largest = move_basic(point, tableau.sheet, price, size, slope, step)
        if blocking >= 0:
            x[blocking] = 0.0 if step[blocking] < 0.0 else 1.0
            sweep_now(tableau, blocking + 1, -1.0)
            basic[blocking] = False
            size -= 1
            continue
        if largest > SETTLED and iteration + 1 < limit:
            gradient_at(program.matrix, program.linear, x, grad)
            price = price_at(grad, basic, size)
        entering = dearest(point, price, tolerance)
        if entering < 0:
            return size, True
        if not tableau.sheet[entering + 1, entering + 1] > singular(program.matrix, entering):
            return size, False
        sweep_now(tableau, entering + 1, 1.0)
        basic[entering] = True
        size += 1
    gradient_at(program.matrix, program.linear, x, grad)
    return size, False


@merged
def move_basic(
    point: Point, sheet: FloatArray, price: float, size: int, slope: FloatArray, step: FloatArray
) -> tuple[int, float]:
    """Move the basic variables to their optimum, or towards it until one reaches a bound.

    slope, step (n,) are overwritten. Returns (the variable that reaches a bound, −1: none; the largest component of
    the full step).
    """
    x, grad, basic = point.x, point.grad, point.basic
    n = x.size
    for i in range(n):
        slope[i] = grad[i] - price if basic[i] else 0.0
    length = 1.0
    blocking = -1
    largest = 0.0
    for i in range(n):
        if not basic[i]:
            continue
        row = sheet[i + 1]
        total = 0.0
        for k in range(n):
            total += row[k + 1] * slope[k]
        step[i] = total
        value = x[i]
        if value + total < 0.0:
            reach = -value / total
            if reach < length:
                length = reach
                blocking = i
        elif value + total > 1.0:
            reach = (1.0 - value) / total
            if reach < length:
                length = reach
                blocking = i
        largest = max(largest, abs(total))
    if size == 1:
        blocking = -1
    if largest > 0.0:
        for i in range(n):
            if basic[i]:
                x[i] = min(1.0, max(0.0, x[i] + length * step[i]))
    return blocking, largest


@merged
def dearest(point: Point, price: float, tolerance: float) -> int:
    """The free variable at a bound whose reduced cost favours moving inside most, by over `tolerance`; −1: none."""
    x, grad, fixed, basic = point.x, point.grad, point.fixed, point.basic
    worst = tolerance
    entering = -1
    for i in range(x.size):
        if fixed[i] == FREE and not basic[i]:
            violation = price - grad[i] if x[i] < 0.5 else grad[i] - price
            if violation > worst:
                worst = violation
                entering = i
    return entering


@compiled(fast=True, inner=True, allocates=True)
def follow(
    program: Program, point: Point, tableau: Tableau, size: int, made: int, j: int, target: float, excess: float
) -> tuple[int, int, int]:
    """Follow the optimum while x_j goes to `target`. Returns (number of basic variables, sweeps made, how it ended).

    `size` variables are basic and `made` sweeps are on the stack; the reduced costs are updated on the way. `excess`
    is the distance of the node's objective from the cut-off: the walk stops once the convex optimal-value function is
    sure to grow by more. It ends ARRIVED, CUT_OFF, or GAVE_UP, after which the caller solves the child another way. A
    parametric active-set method: Best, "An algorithm for the solution of the parametric quadratic programming
    problem", 1996.
    """
    x, reduced, basic = point.x, point.reduced, point.basic
    n = x.size
    if basic[j]:
        if size == 1:
            return size, made, GAVE_UP
        before = made
        made = push(tableau, made, j + 1, -1.0, 0.0)
        if made == before:
            return size, made, GAVE_UP
        basic[j] = False
        reduced[j] = 0.0
        size -= 1
    sign = 1.0 if target > x[j] else -1.0
    growth = 0.0
    row = np.empty(n + 1)
    row_of(tableau, made, j + 1, row)
    while True:
        remaining = abs(target - x[j])
        slope = sign * reduced[j]
        if growth + max(slope, 0.0) * remaining > excess:
            return size, made, CUT_OFF
        if remaining == 0.0:
            return size, made, ARRIVED
        event, length = next_event(point, row, j, sign, remaining)
        growth += length * max(slope, 0.0) + 0.5 * length * length * max(row[j + 1], 0.0)
        advance(point, row, sign * length)
        if event < 0:
            x[j] = target
            return size, made, CUT_OFF if growth > excess else ARRIVED
        x[j] += sign * length
        before = made
        if basic[event]:
            x[event] = 0.0 if sign * row[event + 1] > 0.0 else 1.0
            # the last basic variable reaches a bound: the price would jump
            if size == 1:
                return size, made, GAVE_UP
            made = push(tableau, made, event + 1, -1.0, 0.0)
            size -= made - before
        else:
            made = push(tableau, made, event + 1, 1.0, singular(program.matrix, event))
            size += made - before
        if made == before:
            return size, made, GAVE_UP
        basic[event] = not basic[event]
        reduced[event] = 0.0
        sweep_row(row, j + 1, n + 1, tableau.sweeps, made - 1, made)


@merged
def next_event(point: Point, row: FloatArray, j: int, sign: float, remaining: float) -> tuple[int, float]:
    """How far x_j, whose row is given, can move in direction `sign` before the set of basic variables changes.

    Returns (the variable that reaches or leaves a bound, −1: none within `remaining`; the length).
    """
    x, reduced, fixed, basic = point.x, point.reduced, point.fixed, point.basic
    length = remaining
    event = -1
    for i in range(x.size):
        rate = sign * row[i + 1]
        if basic[i]:
            # x_i moves at rate −rate
            room = x[i] if rate > 0.0 else 1.0 - x[i]
            if room < abs(rate) * length:
                length = max(room, 0.0) / abs(rate)
                event = i
        elif fixed[i] == FREE and i != j:
            if x[i] < 0.5:
                if rate < 0.0 and max(reduced[i], 0.0) < -rate * length:
                    length = max(reduced[i], 0.0) / -rate
                    event = i
            elif rate > 0.0 and max(-reduced[i], 0.0) < rate * length:
                length = max(-reduced[i], 0.0) / rate
                event = i
    return event, length


@merged
def advance(point: Point, row: FloatArray, move: float) -> None:
    """Update the basic variables and the other reduced costs after a move of the variable whose row is given."""
    x, reduced, basic = point.x, point.reduced, point.basic
    for i in range(x.size):
        change = move * row[i + 1]
        if basic[i]:
            x[i] -= change
        else:
            reduced[i] += change
