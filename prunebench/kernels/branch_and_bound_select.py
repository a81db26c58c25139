"""The select tree: depth-first search over 0 <= x <= 1, Σx = count with exact node relaxations.

    minimise ½ x'Mx + g'x  over binaries with Σx = count,     M positive semidefinite on Σd = 0.

A node's relaxation is solved by following its optimum while the branching variable moves to its
bound (a parametric active set: Best, "An algorithm for the solution of the parametric quadratic
programming problem", 1996). `inverse` holds the inverse of [[0, 1'], [1, M_FF]] over the
fractional variables F, its first row the multiplier of the count; one row enters or leaves in
O(f²). A bound is never read off the iterate's objective: it is the linearisation at the iterate
minimised over the box by weak duality, valid at any point, less what rounding could have added.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray

FAST = {"reassoc", "contract", "nsz"}
HALF_ULP = 1.1102230246251565e-16
FREE = -1

Pattern = npt.NDArray[np.int8]


@njit(cache=True, fastmath=FAST, nogil=True)
def gradient_at(matrix: FloatArray, linear: FloatArray, x: FloatArray, out: FloatArray) -> None:
    """out = linear + matrix @ x, skipping the zeros of x."""
    p = linear.size
    out[:] = linear
    for k in range(p):
        value = x[k]
        if value != 0.0:
            row = matrix[k]
            for i in range(p):
                out[i] += value * row[i]


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


@njit(cache=True, fastmath=FAST, nogil=True)
def enter(matrix: FloatArray, inverse: FloatArray, members: IndexArray, size: int, i: int) -> int:
    """Variable i becomes fractional: border the inverse. Returns the new size, unchanged if singular."""
    order = size + 1
    product = np.empty(order)
    for a in range(order):
        total = inverse[a, 0]
        row = inverse[a]
        for b in range(size):
            total += row[b + 1] * matrix[i, members[b]]
        product[a] = total
    pivot = matrix[i, i] - product[0]
    for b in range(size):
        pivot -= product[b + 1] * matrix[i, members[b]]
    if not pivot > 1e-13 * abs(matrix[i, i]) + 1e-300:
        return size
    for a in range(order):
        scaled = product[a] / pivot
        for b in range(order):
            inverse[a, b] += scaled * product[b]
    for a in range(order):
        inverse[a, order] = -product[a] / pivot
        inverse[order, a] = inverse[a, order]
    inverse[order, order] = 1.0 / pivot
    members[size] = i
    return size + 1


@njit(cache=True, fastmath=FAST, nogil=True)
def leave(inverse: FloatArray, members: IndexArray, size: int, position: int) -> int:
    """The fractional variable at `position` goes to a bound; needs at least two of them."""
    last = size
    at = position + 1
    if at != last:
        for a in range(last + 1):
            keep = inverse[a, at]
            inverse[a, at] = inverse[a, last]
            inverse[a, last] = keep
        for a in range(last + 1):
            keep = inverse[at, a]
            inverse[at, a] = inverse[last, a]
            inverse[last, a] = keep
        members[position] = members[size - 1]
    pivot = inverse[last, last]
    for a in range(last):
        scaled = inverse[a, last] / pivot
        for b in range(last):
            inverse[a, b] -= scaled * inverse[last, b]
    return size - 1


@njit(cache=True, nogil=True)
def rebuild(matrix: FloatArray, inverse: FloatArray, members: IndexArray, size: int) -> int:
    """The inverse afresh from the list of fractional variables; drops dependent ones."""
    if size == 0:
        return 0
    first = members[0]
    inverse[0, 0] = -matrix[first, first]
    inverse[0, 1] = 1.0
    inverse[1, 0] = 1.0
    inverse[1, 1] = 0.0
    held = 1
    for a in range(1, size):
        held = enter(matrix, inverse, members, held, members[a])
    return held


@njit(cache=True, nogil=True)
def start_members(
    matrix: FloatArray, grad: FloatArray, x: FloatArray, fixed: Pattern, inverse: FloatArray, members: IndexArray
) -> tuple[int, float]:
    """F from the fractional entries of x; one free variable where there is none. Returns (size, price)."""
    p = x.size
    size = 0
    for i in range(p):
        if fixed[i] == FREE and 0.0 < x[i] < 1.0:
            members[size] = i
            size += 1
    if size == 0:
        best = -1
        for i in range(p):
            if fixed[i] == FREE and x[i] > 0.5 and (best < 0 or grad[i] > grad[best]):
                best = i
        if best < 0:
            for i in range(p):
                if fixed[i] == FREE and (best < 0 or grad[i] < grad[best]):
                    best = i
        if best < 0:
            return 0, 0.0
        members[0] = best
        size = 1
    size = rebuild(matrix, inverse, members, size)
    total = 0.0
    for a in range(size):
        total += grad[members[a]]
    return size, total / size


@njit(cache=True, fastmath=FAST, nogil=True)
def refine(
    matrix: FloatArray,
    linear: FloatArray,
    x: FloatArray,
    grad: FloatArray,
    fixed: Pattern,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    tolerance: float,
    limit: int,
) -> tuple[int, float, bool]:
    """Primal active set from a feasible x to the node's optimum. Returns (size, price, converged)."""
    p = linear.size
    inside = np.zeros(p, np.bool_)
    for a in range(size):
        inside[members[a]] = True
    step = np.empty(p)
    price = 0.0
    for iteration in range(limit):
        gradient_at(matrix, linear, x, grad)
        length = 1.0
        blocking = -1
        price = 0.0
        for a in range(size):
            price += inverse[0, a + 1] * grad[members[a]]
        largest = 0.0
        for a in range(size):
            total = 0.0
            for b in range(size):
                total -= inverse[a + 1, b + 1] * grad[members[b]]
            step[a] = total
            value = x[members[a]]
            if value + total < 0.0:
                reach = -value / total
                if reach < length:
                    length = reach
                    blocking = a
            elif value + total > 1.0:
                reach = (1.0 - value) / total
                if reach < length:
                    length = reach
                    blocking = a
            largest = max(largest, abs(total))
        if blocking >= 0 and size == 1:
            blocking = -1
        if largest > 0.0:
            for a in range(size):
                x[members[a]] = min(1.0, max(0.0, x[members[a]] + length * step[a]))
        if blocking >= 0:
            i = members[blocking]
            x[i] = 0.0 if step[blocking] < 0.0 else 1.0
            inside[i] = False
            size = leave(inverse, members, size, blocking)
            continue
        if largest > 1e-7 and iteration + 1 < limit:
            gradient_at(matrix, linear, x, grad)
            price = 0.0
            for a in range(size):
                price += inverse[0, a + 1] * grad[members[a]]
        worst = tolerance
        entering = -1
        for i in range(p):
            if fixed[i] == FREE and not inside[i]:
                reduced = grad[i] - price
                violation = -reduced if x[i] < 0.5 else reduced
                if violation > worst:
                    worst = violation
                    entering = i
        if entering < 0:
            return size, price, True
        before = size
        size = enter(matrix, inverse, members, size, entering)
        if size == before:
            return size, price, False
        inside[entering] = True
    gradient_at(matrix, linear, x, grad)
    return size, price, False


@njit(cache=True, fastmath=FAST, nogil=True)
def move_to_bound(
    matrix: FloatArray,
    x: FloatArray,
    grad: FloatArray,
    fixed: Pattern,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    price: float,
    j: int,
    target: float,
    excess: float,
    limit: int,
) -> tuple[int, float, int]:
    """Follow the optimum while x_j goes to `target`. Returns (size, price, state).

    `excess` is how far the node's objective lies below the cut-off: once the growth that the
    convex optimal-value function is sure of exceeds it, the walk stops. state 1: arrived;
    2: cut off on the way; 0: gave up (the caller solves the child another way).
    """
    p = x.size
    position = -1
    for a in range(size):
        if members[a] == j:
            position = a
    if position >= 0:
        if size == 1:
            return size, price, 0
        size = leave(inverse, members, size, position)
    inside = np.zeros(p, np.bool_)
    for a in range(size):
        inside[members[a]] = True
    direction = np.empty(p)
    change = np.empty(p)
    sign = 1.0 if target > x[j] else -1.0
    growth = 0.0
    for _ in range(limit):
        remaining = abs(target - x[j])
        slope = sign * (grad[j] - price)
        if growth + max(slope, 0.0) * remaining > excess:
            return size, price, 2
        if remaining == 0.0:
            return size, price, 1
        shift = 0.0
        row = matrix[j]
        for a in range(size + 1):
            total = inverse[a, 0]
            for b in range(size):
                total += inverse[a, b + 1] * row[members[b]]
            if a == 0:
                shift = sign * total
            else:
                direction[a - 1] = -sign * total
        for i in range(p):
            change[i] = sign * row[i]
        for a in range(size):
            value = direction[a]
            other = matrix[members[a]]
            for i in range(p):
                change[i] += value * other[i]
        # `shift` is the change of the price per unit, so reduced costs change by change − shift
        length = remaining
        event = -1
        entering = False
        for a in range(size):
            value = x[members[a]]
            if direction[a] < 0.0:
                reach = value / -direction[a]
            elif direction[a] > 0.0:
                reach = (1.0 - value) / direction[a]
            else:
                continue
            if reach < length:
                length = reach
                event = a
                entering = False
        for i in range(p):
            if fixed[i] == FREE and not inside[i] and i != j:
                rate = change[i] - shift
                reduced = grad[i] - price
                if x[i] < 0.5:
                    if rate < 0.0 and max(reduced, 0.0) < -rate * length:
                        length = max(reduced, 0.0) / -rate
                        event = i
                        entering = True
                elif rate > 0.0 and max(-reduced, 0.0) < rate * length:
                    length = max(-reduced, 0.0) / rate
                    event = i
                    entering = True
        curvature = max(sign * (change[j] - shift), 0.0)
        growth += length * max(slope, 0.0) + 0.5 * length * length * curvature
        for a in range(size):
            x[members[a]] += length * direction[a]
        for i in range(p):
            grad[i] += length * change[i]
        price += length * shift
        x[j] += sign * length
        if event < 0:
            x[j] = target
            slope = sign * (grad[j] - price)
            return size, price, 2 if growth > excess else 1
        if entering:
            before = size
            size = enter(matrix, inverse, members, size, event)
            if size == before:
                return size, price, 0
            inside[event] = True
            continue
        out = members[event]
        x[out] = 0.0 if direction[event] < 0.0 else 1.0
        if size == 1:
            # the last fractional variable is blocked: the price jumps to the next reduced cost
            rising = sign < 0.0
            best = -1
            for i in range(p):
                if fixed[i] != FREE or i in (j, out) or (x[i] < 0.5) != rising:
                    continue
                if best < 0 or (grad[i] < grad[best]) == rising:
                    best = i
            if best < 0:
                return size, price, 0
            price = grad[best]
            inside[out] = False
            members[0] = best
            inside[best] = True
            size = rebuild(matrix, inverse, members, 1)
            continue
        inside[out] = False
        size = leave(inverse, members, size, event)
    return size, price, 0
