"""The select tree's loop: prune, fix, round, branch; leaves what it did not finish as open nodes."""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.branch_and_bound_select import (
    FAST,
    FREE,
    Pattern,
    gradient_at,
    leave,
    move_to_bound,
    refine,
    safe_bound,
    start_members,
)


@njit(cache=True, fastmath=FAST, nogil=True)
def value_at(linear: FloatArray, x: FloatArray, grad: FloatArray) -> float:
    """½x'Mx + g'x from the gradient at x."""
    total = 0.0
    for i in range(linear.size):
        total += 0.5 * x[i] * (linear[i] + grad[i])
    return total


@njit(cache=True, nogil=True)
def descend(matrix: FloatArray, linear: FloatArray, chosen: FloatArray, grad: FloatArray, passes: int) -> float:
    """Best-improvement 1-swaps on a binary point, in place. Returns its value."""
    p = linear.size
    gradient_at(matrix, linear, chosen, grad)
    for _ in range(passes):
        best = -1e-9 * (1e-300 + abs(value_at(linear, chosen, grad)))
        into = -1
        out = -1
        low = np.inf
        for k in range(p):
            if chosen[k] == 0.0:
                low = min(low, grad[k] + 0.5 * matrix[k, k])
        for i in range(p):
            if chosen[i] == 1.0:
                row = matrix[i]
                base = 0.5 * row[i] - grad[i]
                for k in range(p):
                    if chosen[k] == 0.0:
                        change = base + grad[k] + 0.5 * matrix[k, k] - row[k]
                        if change < best:
                            best = change
                            into = k
                            out = i
        if into < 0:
            break
        chosen[into] = 1.0
        chosen[out] = 0.0
        for k in range(p):
            grad[k] += matrix[into, k] - matrix[out, k]
    gradient_at(matrix, linear, chosen, grad)
    return value_at(linear, chosen, grad)


@njit(cache=True, nogil=True)
def kicked(matrix: FloatArray, linear: FloatArray, chosen: FloatArray, kicks: int) -> float:
    """Iterated descent in place: exchange a few pairs at random, descend, go on from the better. Returns its value.

    The exchanges are those of a fixed linear congruential sequence (Knuth, MMIX): the answer is always the same.
    """
    p = linear.size
    grad = np.empty(p)
    best = descend(matrix, linear, chosen, grad, 4 * p)
    trial = np.empty(p)
    state = np.uint64(88172645463325252)
    ones = np.empty(p, np.int64)
    zeros = np.empty(p, np.int64)
    for _ in range(kicks):
        trial[:] = chosen
        taken = 0
        left = 0
        for i in range(p):
            if trial[i] == 1.0:
                ones[taken] = i
                taken += 1
            else:
                zeros[left] = i
                left += 1
        if taken == 0 or left == 0:
            return best
        for _ in range(4):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            a = int((state >> np.uint64(33)) % np.uint64(taken))
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            b = int((state >> np.uint64(33)) % np.uint64(left))
            trial[ones[a]] = 0.0
            trial[zeros[b]] = 1.0
            ones[a], zeros[b] = zeros[b], ones[a]
        value = descend(matrix, linear, trial, grad, 4 * p)
        if value < best:
            best = value
            chosen[:] = trial
    return best


@njit(cache=True, nogil=True)
def rounded(x: FloatArray, fixed: Pattern, count: int, chosen: FloatArray) -> None:
    """The binary point that takes the `count` largest entries of x, fixed ones first."""
    p = x.size
    key = np.empty(p)
    for i in range(p):
        key[i] = -x[i] if fixed[i] == FREE else (-2.0 if fixed[i] == 1 else 2.0)
    order = np.argsort(key, kind="mergesort")
    chosen[:] = 0.0
    for a in range(count):
        chosen[order[a]] = 1.0


@njit(cache=True, nogil=True)
def repair(x: FloatArray, fixed: Pattern, grad: FloatArray, count: int) -> None:
    """Make Σx = count by filling or emptying free variables, the cheapest first."""
    missing = float(count)
    for i in range(x.size):
        missing -= x[i]
    order = np.argsort(grad, kind="mergesort")
    for a in range(x.size):
        i = order[a] if missing > 0.0 else order[x.size - 1 - a]
        if fixed[i] != FREE or missing == 0.0:
            continue
        move = min(missing, 1.0 - x[i]) if missing > 0.0 else max(missing, -x[i])
        x[i] += move
        missing -= move


@njit(cache=True, nogil=True)
def reachable(fixed: Pattern, count: int) -> bool:
    """Whether the free variables can still bring the sum to `count`."""
    kept = 0
    free = 0
    for i in range(fixed.size):
        kept += fixed[i] == 1
        free += fixed[i] == FREE
    return kept <= count <= kept + free


@njit(cache=True, nogil=True)
def branching_variable(x: FloatArray, inverse: FloatArray, members: IndexArray, size: int) -> int:
    """The fractional variable whose fixing costs most: x(1 − x) over its variance in the inverse; -1: none."""
    best = -1
    score = -1.0
    for a in range(size):
        value = x[members[a]]
        if 1e-7 < value < 1.0 - 1e-7:
            worth = value * (1.0 - value) / (inverse[a + 1, a + 1] + 1e-300)
            if worth > score:
                score = worth
                best = a
    return members[best] if best >= 0 else -1


@njit(cache=True, nogil=True)
def explore(
    matrix: FloatArray,
    linear: FloatArray,
    count: int,
    rounding: float,
    margin: float,
    root_x: FloatArray,
    root_fixed: Pattern,
    root_j: int,
    root_target: float,
    root_bound: float,
    best_x: FloatArray,
    best_value: float,
    node_limit: int,
    out_x: FloatArray,
    out_fixed: Pattern,
    out_branch: IndexArray,
    out_bound: FloatArray,
) -> tuple[float, int, int]:
    """Search below one open node, at most `node_limit` nodes.

    matrix (p, p), linear (p,): the convexified objective. A node is pruned once its safe bound is
    at least best − margin. best_x is overwritten when a better binary point is found.
    Returns (best value, nodes, how many open nodes were left in the out arrays, iterations).
    """
    p = linear.size
    x = root_x.copy()
    fixed = root_fixed.copy()
    grad = np.empty(p)
    trial = np.empty(p)
    trial_grad = np.empty(p)
    members = np.empty(p, np.int64)
    inverse = np.empty((p + 1, p + 1))
    stack_x = np.empty((p + 1, p))
    stack_fixed = np.empty((p + 1, p), np.int8)
    stack_members = np.empty((p + 1, p), np.int64)
    stack_size = np.empty(p + 1, np.int64)
    stack_j = np.empty(p + 1, np.int64)
    stack_target = np.empty(p + 1)
    stack_bound = np.empty(p + 1)
    stack_price = np.empty(p + 1)
    stack_at = np.zeros(p + 2, np.int64)
    packed = np.empty(1 << 16)
    depth = 0
    nodes = 0
    tolerance = 1e-9
    gradient_at(matrix, linear, x, grad)
    size, price = start_members(matrix, grad, x, fixed, inverse, members)
    bound = root_bound
    j = root_j
    target = root_target
    while True:
        # one node: x is its parent's optimum and j goes to target, or j < 0 and x is feasible
        nodes += 1
        cut = best_value - margin
        pruned = bound >= cut
        if not pruned and j >= 0:
            fixed[j] = 1 if target > 0.5 else 0
            pruned = not reachable(fixed, count)
        if not pruned and j >= 0:
            excess = cut - bound + 2.0 * rounding + 1e-7 * abs(cut - bound)
            size, price, state = move_to_bound(
                matrix, x, grad, fixed, inverse, members, size, price, j, target, excess, 10 * p + 50
            )
            if state == 2:
                gradient_at(matrix, linear, x, grad)
                bound = max(bound, safe_bound(linear, x, grad, price, fixed, count, rounding))
                pruned = bound >= cut
                if not pruned:
                    size, price, state = move_to_bound(
                        matrix, x, grad, fixed, inverse, members, size, price, j, target, np.inf, 10 * p + 50
                    )
            if state == 0:
                x[j] = target
                gradient_at(matrix, linear, x, grad)
                repair(x, fixed, grad, count)
                gradient_at(matrix, linear, x, grad)
                size, price = start_members(matrix, grad, x, fixed, inverse, members)
        if not pruned:
            size, price, converged = refine(
                matrix, linear, x, grad, fixed, inverse, members, size, tolerance, 10 * p + 50
            )
            if not converged:
                size, price = start_members(matrix, grad, x, fixed, inverse, members)
                size, price, converged = refine(
                    matrix, linear, x, grad, fixed, inverse, members, size, tolerance, 10 * p + 50
                )
            bound = max(bound, safe_bound(linear, x, grad, price, fixed, count, rounding))
            pruned = bound >= cut
        if not pruned and (nodes & 15) == 1:
            rounded(x, fixed, count, trial)
            found = descend(matrix, linear, trial, trial_grad, p)
            if found < best_value:
                best_value = found
                best_x[:] = trial
                cut = best_value - margin
                pruned = bound >= cut
        j = -1
        if not pruned:
            j = branching_variable(x, inverse, members, size)
            if j < 0:
                rounded(x, fixed, count, trial)
                gradient_at(matrix, linear, trial, trial_grad)
                found = value_at(linear, trial, trial_grad)
                if found < best_value:
                    best_value = found
                    best_x[:] = trial
                    cut = best_value - margin
                pruned = bound >= cut
                if not pruned:
                    for i in range(p):
                        if fixed[i] == FREE:
                            j = i
                            break
                    pruned = j < 0
        if not pruned:
            for i in range(p):
                if fixed[i] == FREE and i != j:
                    reduced = grad[i] - price
                    if x[i] == 0.0 and bound + reduced >= cut:
                        fixed[i] = 0
                    elif x[i] == 1.0 and bound - reduced >= cut:
                        fixed[i] = 1
            # a fixed variable at its bound must not stay in the basis
            a = 0
            while a < size:
                if fixed[members[a]] != FREE and size > 1:
                    size = leave(inverse, members, size, a)
                else:
                    a += 1
            first = 1.0 if x[j] > 0.5 else 0.0
            order = size + 1
            start = stack_at[depth]
            if start + order * order > packed.size:
                grown = np.empty(2 * packed.size + order * order)
                grown[:start] = packed[:start]
                packed = grown
            at = start
            for a in range(order):
                for b in range(order):
                    packed[at] = inverse[a, b]
                    at += 1
            stack_at[depth + 1] = at
            stack_x[depth] = x
            stack_fixed[depth] = fixed
            stack_members[depth] = members
            stack_size[depth] = size
            stack_j[depth] = j
            stack_target[depth] = 1.0 - first
            stack_bound[depth] = bound
            stack_price[depth] = price
            depth += 1
            target = first
            if nodes < node_limit:
                continue
            # hand the first child over as an open node too
            out_x[depth] = x
            out_fixed[depth] = fixed
            out_branch[depth, 0] = j
            out_branch[depth, 1] = int(target)
            out_bound[depth] = bound
            break
        while depth > 0 and stack_bound[depth - 1] >= best_value - margin:
            depth -= 1
        if depth == 0 or nodes >= node_limit:
            for a in range(depth):
                out_x[a] = stack_x[a]
                out_fixed[a] = stack_fixed[a]
                out_branch[a, 0] = stack_j[a]
                out_branch[a, 1] = int(stack_target[a])
                out_bound[a] = stack_bound[a]
            return best_value, nodes, depth
        depth -= 1
        x[:] = stack_x[depth]
        fixed[:] = stack_fixed[depth]
        members[:] = stack_members[depth]
        size = stack_size[depth]
        j = stack_j[depth]
        target = stack_target[depth]
        bound = stack_bound[depth]
        price = stack_price[depth]
        at = stack_at[depth]
        for a in range(size + 1):
            for b in range(size + 1):
                inverse[a, b] = packed[at]
                at += 1
        gradient_at(matrix, linear, x, grad)
    for a in range(depth):
        out_x[a] = stack_x[a]
        out_fixed[a] = stack_fixed[a]
        out_branch[a, 0] = stack_j[a]
        out_branch[a, 1] = int(stack_target[a])
        out_bound[a] = stack_bound[a]
    return best_value, nodes, depth + 1
