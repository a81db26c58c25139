"""The select relaxation's optimum and how it moves, on a tableau of all variables.

    minimise ½ x'Mx + g'x  over 0 <= x <= 1, Σx = count,     M positive semidefinite on Σd = 0.

The tableau is the matrix [[0, 1'], [1, M]] swept on its first row and on the fractional variables F
(the sweep operator: Goodnight, "A tutorial on the SWEEP operator", The American Statistician 33,
1979). Row j of it says all that happens when x_j moves: how the other fractional variables follow,
and how the reduced costs at the bounds change. About half of a tree's nodes are cut off after a few
events, so a node does not sweep its parent's tableau, O(n²) an event: it keeps the rows it swept by
(`Sweeps`, a stack), and takes a row through them when it needs it, O(n) an event passed.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.trees.select_node import FAST, FREE, Pattern, gradient_at

Sweeps = tuple[FloatArray, IndexArray, FloatArray]
"""Stacks of swept rows (capacity, ≥ n + 1), their places, and (capacity, 2): 1/pivot, 1 for in or −1 for out."""


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def sweep_row(row: FloatArray, k: int, order: int, sweeps: Sweeps, begin: int, end: int) -> None:
    """Take row k of the tableau, (order,), through the sweeps from `begin` to before `end`, in place."""
    rows, places, pivots = sweeps
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


@njit(cache=True, error_model="numpy", nogil=True)
def row_of(tableau: FloatArray, sweeps: Sweeps, made: int, k: int, out: FloatArray) -> None:
    """Row k after the first `made` sweeps."""
    order = tableau.shape[0]
    for b in range(order):
        out[b] = tableau[k, b]
    sweep_row(out, k, order, sweeps, 0, made)


@njit(cache=True, error_model="numpy", nogil=True)
def push(tableau: FloatArray, sweeps: Sweeps, made: int, k: int, sign: float, least: float) -> int:
    """One more sweep, on row k: into the swept set (sign 1) or out of it (sign −1).

    Returns how many sweeps there are: as many as before if the pivot is not above `least` or there is no room.
    """
    rows, places, pivots = sweeps
    if made == places.size:
        return made
    row = rows[made]
    row_of(tableau, sweeps, made, k, row)
    if not abs(row[k]) > least:
        return made
    places[made] = k
    pivots[made, 0] = 1.0 / row[k]
    pivots[made, 1] = sign
    return made + 1


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def diagonal_of(tableau: FloatArray, sweeps: Sweeps, made: int, out: FloatArray) -> None:
    """The tableau's diagonal after the first `made` sweeps."""
    rows, places, pivots = sweeps
    order = tableau.shape[0]
    for b in range(order):
        out[b] = tableau[b, b]
    for q in range(made):
        inverse = pivots[q, 0]
        for b in range(order):
            out[b] -= inverse * rows[q, b] * rows[q, b]
        out[places[q]] = -inverse


@njit(cache=True, error_model="numpy", nogil=True)
def sweep_all(tableau: FloatArray, sweeps: Sweeps, made: int) -> None:
    """Apply the first `made` sweeps to the tableau itself."""
    order = tableau.shape[0]
    for k in range(order):
        sweep_row(tableau[k], k, order, sweeps, 0, made)


@njit(cache=True, error_model="numpy", nogil=True)
def sweep_now(tableau: FloatArray, sweeps: Sweeps, k: int, sign: float) -> None:
    """Sweep the tableau itself on row k; uses the first place of `sweeps`."""
    push(tableau, sweeps, 0, k, sign, 0.0)
    sweep_all(tableau, sweeps, 1)


@njit(cache=True, error_model="numpy", nogil=True)
def singular(matrix: FloatArray, i: int) -> float:
    """A pivot of variable i up to this is zero but for rounding."""
    return float(1e-13 * abs(matrix[i, i]) + 1e-300)


@njit(cache=True, error_model="numpy", nogil=True)
def build(matrix: FloatArray, tableau: FloatArray, sweeps: Sweeps, basic: BoolArray) -> int:
    """The tableau afresh, of the variables that are basic; dependent ones are no longer. Returns how many are left."""
    n: int = basic.size
    first = 0
    while first < n and not basic[first]:
        first += 1
    if first == n:
        return 0
    # the count and one variable, in closed form: [[0, 1], [1, m]] has an inverse whatever m is
    own = matrix[first]
    square = own[first]
    for i in range(n):
        tableau[0, i + 1] = tableau[i + 1, 0] = own[i] - square
        for k in range(n):
            tableau[i + 1, k + 1] = matrix[i, k] + square - own[i] - own[k]
    for i in range(n):
        tableau[first + 1, i + 1] = tableau[i + 1, first + 1] = 1.0
    tableau[0, 0] = square
    tableau[0, first + 1] = tableau[first + 1, 0] = -1.0
    tableau[first + 1, first + 1] = 0.0
    size = 1
    for i in range(first + 1, n):
        if basic[i]:
            basic[i] = tableau[i + 1, i + 1] > singular(matrix, i)
            if basic[i]:
                sweep_now(tableau, sweeps, i + 1, 1.0)
                size += 1
    return size


@njit(cache=True, error_model="numpy", nogil=True)
def start(grad: FloatArray, x: FloatArray, fixed: Pattern, basic: BoolArray) -> bool:
    """F from the fractional entries of x; one free variable where there is none. False: none is free."""
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


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def price_at(grad: FloatArray, basic: BoolArray, size: int) -> float:
    """The multiplier of the count: the gradient where x is fractional, which at an optimum is the same everywhere."""
    total = 0.0
    for i in range(basic.size):
        total += grad[i] if basic[i] else 0.0
    return total / size


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def optimal(reduced: FloatArray, x: FloatArray, fixed: Pattern, basic: BoolArray, tolerance: float) -> bool:
    """Whether these reduced costs are an optimum's to `tolerance`."""
    for i in range(x.size):
        if basic[i]:
            if abs(reduced[i]) > tolerance:
                return False
        elif fixed[i] == FREE and (reduced[i] if x[i] > 0.5 else -reduced[i]) > tolerance:
            return False
    return True


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def refine(
    matrix: FloatArray,
    linear: FloatArray,
    x: FloatArray,
    grad: FloatArray,
    fixed: Pattern,
    tableau: FloatArray,
    sweeps: Sweeps,
    basic: BoolArray,
    size: int,
    tolerance: float,
    limit: int,
) -> tuple[int, bool]:
    """Primal active set from a feasible x to the optimum, on the tableau itself; `grad` receives its gradient.

    Returns (how many are basic, converged).
    """
    n = linear.size
    step = np.empty(n)
    slope = np.empty(n)
    for iteration in range(limit):
        gradient_at(matrix, linear, x, grad)
        price = price_at(grad, basic, size)
        for i in range(n):
            slope[i] = grad[i] - price if basic[i] else 0.0
        length = 1.0
        blocking = -1
        largest = 0.0
        for i in range(n):
            if not basic[i]:
                continue
            row = tableau[i + 1]
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
        if blocking >= 0:
            x[blocking] = 0.0 if step[blocking] < 0.0 else 1.0
            sweep_now(tableau, sweeps, blocking + 1, -1.0)
            basic[blocking] = False
            size -= 1
            continue
        if largest > 1e-7 and iteration + 1 < limit:
            gradient_at(matrix, linear, x, grad)
            price = price_at(grad, basic, size)
        worst = tolerance
        entering = -1
        for i in range(n):
            if fixed[i] == FREE and not basic[i]:
                violation = price - grad[i] if x[i] < 0.5 else grad[i] - price
                if violation > worst:
                    worst = violation
                    entering = i
        if entering < 0:
            return size, True
        if not tableau[entering + 1, entering + 1] > singular(matrix, entering):
            return size, False
        sweep_now(tableau, sweeps, entering + 1, 1.0)
        basic[entering] = True
        size += 1
    gradient_at(matrix, linear, x, grad)
    return size, False


@njit(cache=True, error_model="numpy", nogil=True)
def optimum(
    matrix: FloatArray,
    linear: FloatArray,
    x: FloatArray,
    grad: FloatArray,
    fixed: Pattern,
    tableau: FloatArray,
    sweeps: Sweeps,
    basic: BoolArray,
    tolerance: float,
) -> tuple[int, float]:
    """The relaxation's optimum from a feasible x, with its gradient and tableau; uses the first place of `sweeps`.

    Returns (how many are basic, the price of the count).
    """
    gradient_at(matrix, linear, x, grad)
    start(grad, x, fixed, basic)
    size = build(matrix, tableau, sweeps, basic)
    if size > 0:
        size, _ = refine(matrix, linear, x, grad, fixed, tableau, sweeps, basic, size, tolerance, 10 * x.size + 50)
    return size, price_at(grad, basic, max(size, 1))


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
def follow(
    matrix: FloatArray,
    x: FloatArray,
    reduced: FloatArray,
    fixed: Pattern,
    tableau: FloatArray,
    sweeps: Sweeps,
    made: int,
    basic: BoolArray,
    size: int,
    j: int,
    target: float,
    excess: float,
) -> tuple[int, int, int]:
    """Follow the optimum while x_j goes to `target`. Returns (how many are basic, sweeps made, state).

    `reduced` holds ∂f/∂x_i less the price, kept up on the way. `excess` is how far the node's
    objective lies below the cut-off: once the growth that the convex optimal-value function is sure
    of exceeds it, the walk stops. state 1: arrived; 2: cut off on the way; 0: gave up (the caller
    solves the child another way). A parametric active set: Best, "An algorithm for the solution of
    the parametric quadratic programming problem", 1996.
    """
    n = x.size
    if basic[j]:
        if size == 1:
            return size, made, 0
        before = made
        made = push(tableau, sweeps, made, j + 1, -1.0, 0.0)
        if made == before:
            return size, made, 0
        basic[j] = False
        reduced[j] = 0.0
        size -= 1
    sign = 1.0 if target > x[j] else -1.0
    growth = 0.0
    row = np.empty(n + 1)
    row_of(tableau, sweeps, made, j + 1, row)
    while True:
        remaining = abs(target - x[j])
        slope = sign * reduced[j]
        if growth + max(slope, 0.0) * remaining > excess:
            return size, made, 2
        if remaining == 0.0:
            return size, made, 1
        length = remaining
        event = -1
        for i in range(n):
            rate = sign * row[i + 1]
            if basic[i]:
                # x_i follows at −rate
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
        growth += length * max(slope, 0.0) + 0.5 * length * length * max(row[j + 1], 0.0)
        move = sign * length
        for i in range(n):
            change = move * row[i + 1]
            if basic[i]:
                x[i] -= change
            else:
                reduced[i] += change
        if event < 0:
            x[j] = target
            slope = sign * reduced[j]
            return size, made, 2 if growth > excess else 1
        x[j] += move
        before = made
        if basic[event]:
            x[event] = 0.0 if sign * row[event + 1] > 0.0 else 1.0
            # the last fractional variable is blocked: the price would jump
            if size == 1:
                return size, made, 0
            made = push(tableau, sweeps, made, event + 1, -1.0, 0.0)
            size -= made - before
        else:
            made = push(tableau, sweeps, made, event + 1, 1.0, singular(matrix, event))
            size += made - before
        if made == before:
            return size, made, 0
        basic[event] = not basic[event]
        reduced[event] = 0.0
        sweep_row(row, j + 1, n + 1, sweeps, made - 1, made)
