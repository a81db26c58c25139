"""The select tree's loop: prune, fix, round, branch; leaves what it did not finish as open nodes.

Where a tree is widest a third of its variables or less are free. So a node with few free ones, or
with many sweeps since its tableau was made, opens a frame: the program and the tableau of the free
variables alone, the fixed ones put in. All below it uses that, and the search leaves it again when
it is through.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.branch_and_bound_select import FAST, FREE, Pattern, gradient_at, safe_bound
from prunebench.kernels.branch_and_bound_tableau import (
    Sweeps,
    diagonal_of,
    follow,
    optimal,
    optimum,
    price_at,
    push,
    refine,
    row_of,
    sweep_all,
    sweep_now,
)

SHRINK, PENDING, LEAST = 0.75, 0.1, 4
"""A frame is opened where at most the first share of the variables is free, or for more sweeps than the second share
of them and than a few."""


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
def branching_variable(x: FloatArray, diagonal: FloatArray, basic: BoolArray) -> int:
    """The fractional variable whose fixing costs most: x(1 − x) over its variance in the inverse; -1: none."""
    best = -1
    score = -1.0
    for i in range(x.size):
        if basic[i] and 1e-7 < x[i] < 1.0 - 1e-7:
            worth = x[i] * (1.0 - x[i]) / (1e-300 - diagonal[i + 1])
            if worth > score:
                score = worth
                best = i
    return best


@njit(cache=True, nogil=True)
def views(sheets: FloatArray, at: int, n: int) -> tuple[FloatArray, FloatArray]:
    """The matrix (n, n) and the tableau (n + 1, n + 1) of a frame whose place begins at `at`."""
    middle = at + n * n
    return sheets[at:middle].reshape((n, n)), sheets[middle : middle + (n + 1) * (n + 1)].reshape((n + 1, n + 1))


@njit(cache=True, fastmath=FAST, nogil=True)
def put_in(
    matrix: FloatArray, linear: FloatArray, fixed: Pattern, free: IndexArray, part: FloatArray, slope: FloatArray
) -> tuple[float, int]:
    """The objective of the `free` variables with the others at their values; its constant, and how many are 1.

    part (f, f), slope (f,) receive the matrix and the linear term.
    """
    f = free.size
    for a in range(f):
        row = matrix[free[a]]
        slope[a] = linear[free[a]]
        for b in range(f):
            part[a, b] = row[free[b]]
    constant = 0.0
    kept = np.flatnonzero(fixed == 1)
    for c in range(kept.size):
        row = matrix[kept[c]]
        for a in range(f):
            slope[a] += row[free[a]]
        # row by row: a sum of p² terms in one go could round by p² units
        pairs = 0.0
        for d in range(kept.size):
            pairs += row[kept[d]]
        constant += linear[kept[c]] + 0.5 * pairs
    return constant, kept.size


@njit(cache=True, nogil=True)
def restrict(tableau: FloatArray, sweeps: Sweeps, made: int, free: IndexArray, out: FloatArray) -> None:
    """The tableau after `made` sweeps, of the count and the `free` variables; the others are at bounds."""
    f = free.size
    row = np.empty(tableau.shape[0])
    for a in range(f + 1):
        row_of(tableau, sweeps, made, 0 if a == 0 else free[a - 1] + 1, row)
        out[a, 0] = row[0]
        for b in range(f):
            out[a, b + 1] = row[free[b] + 1]


@njit(cache=True, nogil=True)
def explore(
    root_matrix: FloatArray,
    root_linear: FloatArray,
    root_count: int,
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

    root_matrix (p, p), root_linear (p,): the convexified objective. A node is pruned once its safe
    bound is at least best − margin. best_x is overwritten when a better binary point is found.
    `rounding` covers that of the objective at any point and of putting fixed variables in.
    Returns (best value, nodes, how many open nodes were left in the out arrays).
    """
    p = root_linear.size
    # of a frame: how many variables, which, what is fixed outside, where its program, tableau and sweeps are
    frame_size = np.empty(p + 2, np.int64)
    frame_count = np.empty(p + 2, np.int64)
    frame_constant = np.zeros(p + 2)
    frame_index = np.empty((p + 2, p), np.int64)
    frame_fixed = np.empty((p + 2, p), np.int8)
    frame_linear = np.empty((p + 2, p))
    frame_at = np.zeros(p + 3, np.int64)
    frame_sweeps = np.zeros(p + 2, np.int64)
    sheets = np.empty(6 * (p + 1) * (p + 1))
    scratch = np.empty((p + 1) * (p + 1))
    capacity = 8 * p + 64
    rows, places, pivots = np.empty((capacity, p + 1)), np.empty(capacity, np.int64), np.empty((capacity, 2))
    single = (np.empty((1, p + 1)), np.empty(1, np.int64), np.empty((1, 2)))
    # of a node: by the variables of its frame
    all_x, all_grad, all_reduced = np.empty(p), np.empty(p), np.empty(p)
    all_fixed, all_basic = np.empty(p, np.int8), np.zeros(p, np.bool_)
    all_trial, all_trial_grad, diagonal = np.empty(p), np.empty(p), np.empty(p + 1)
    stack_x = np.empty((p + 1, p))
    stack_reduced = np.empty((p + 1, p))
    stack_fixed = np.empty((p + 1, p), np.int8)
    stack_basic = np.empty((p + 1, p), np.bool_)
    stack_frame = np.empty(p + 1, np.int64)
    stack_made = np.empty(p + 1, np.int64)
    stack_size = np.empty(p + 1, np.int64)
    stack_j = np.empty(p + 1, np.int64)
    stack_target = np.empty(p + 1)
    stack_bound = np.empty(p + 1)
    frame, n, count, constant = 0, p, root_count, 0.0
    frame_size[0], frame_count[0] = p, root_count
    frame_index[0] = np.arange(p)
    frame_fixed[0] = root_fixed
    frame_linear[0] = root_linear
    frame_at[1] = p * p + (p + 1) * (p + 1)
    matrix, tableau = views(sheets, 0, p)
    matrix[:] = root_matrix
    linear = frame_linear[0]
    sweeps = (rows[0:], places[0:], pivots[0:])
    x, grad, reduced, fixed, basic = all_x[:p], all_grad[:p], all_reduced[:p], all_fixed[:p], all_basic[:p]
    trial, trial_grad = all_trial[:p], all_trial_grad[:p]
    x[:] = root_x
    fixed[:] = root_fixed
    tolerance = 1e-9
    depth, nodes, made, size = 0, 0, 0, 0
    price = 0.0
    bound, j, target = root_bound, root_j, root_target
    while True:
        # one node: x is its parent's optimum and j goes to target; the first has no tableau yet
        nodes += 1
        cut = best_value - margin
        pruned = bound >= cut
        state = 0
        if not pruned and j >= 0:
            fixed[j] = 1 if target > 0.5 else 0
            pruned = not reachable(fixed, count)
        if not pruned and nodes > 1:
            excess = cut - bound + 2.0 * rounding + 1e-7 * abs(cut - bound)
            size, made, state = follow(matrix, x, reduced, fixed, tableau, sweeps, made, basic, size, j, target, excess)
            if state == 2:
                gradient_at(matrix, linear, x, grad)
                price = price_at(grad, basic, size)
                bound = max(bound, constant + safe_bound(linear, x, grad, price, fixed, count, rounding))
                pruned = bound >= cut
                if not pruned:
                    size, made, state = follow(
                        matrix, x, reduced, fixed, tableau, sweeps, made, basic, size, j, target, np.inf
                    )
        # where the walk's optimum is not one, or there is none: the active set, on a tableau of this node's own
        own = False
        source = tableau
        if not pruned:
            if state == 0 and j >= 0:
                x[j] = target
                gradient_at(matrix, linear, x, grad)
                repair(x, fixed, grad, count)
            gradient_at(matrix, linear, x, grad)
            if state == 1:
                price = price_at(grad, basic, size)
                reduced[:] = grad - price
            if state != 1 or not optimal(reduced, x, fixed, basic, tolerance):
                own = True
                source = scratch[: (n + 1) * (n + 1)].reshape((n + 1, n + 1))
                converged = False
                if state == 1:
                    source[:] = tableau
                    sweep_all(source, sweeps, made)
                    size, converged = refine(
                        matrix, linear, x, grad, fixed, source, single, basic, size, tolerance, 10 * n + 50
                    )
                if converged:
                    price = price_at(grad, basic, size)
                else:
                    size, price = optimum(matrix, linear, x, grad, fixed, source, single, basic, tolerance)
                reduced[:] = grad - price
            bound = max(bound, constant + safe_bound(linear, x, grad, price, fixed, count, rounding))
            pruned = bound >= cut
        found = np.inf
        if not pruned and (nodes & 15) == 1:
            rounded(x, fixed, count, trial)
            found = constant + descend(matrix, linear, trial, trial_grad, n)
        j = -1
        if not pruned:
            diagonal_of(source, sweeps, 0 if own else made, diagonal[: n + 1])
            j = branching_variable(x, diagonal, basic)
            if j < 0:
                rounded(x, fixed, count, trial)
                gradient_at(matrix, linear, trial, trial_grad)
                found = min(found, constant + value_at(linear, trial, trial_grad))
        if found < best_value:
            best_value = found
            for i in range(p):
                best_x[i] = 1.0 if frame_fixed[frame, i] == 1 else 0.0
            for i in range(n):
                best_x[frame_index[frame, i]] = trial[i]
            cut = best_value - margin
            pruned = bound >= cut
        if not pruned and j < 0:
            for i in range(n):
                if fixed[i] == FREE:
                    j = i
                    break
            pruned = j < 0
        if not pruned:
            free = 1
            for i in range(n):
                if fixed[i] == FREE and i != j:
                    if x[i] == 0.0 and bound + reduced[i] >= cut:
                        fixed[i] = 0
                    elif x[i] == 1.0 and bound - reduced[i] >= cut:
                        fixed[i] = 1
                    else:
                        free += 1
            # nothing better is left where the reduced costs leave no feasible point
            pruned = not reachable(fixed, count)
        if not pruned:
            # a fixed variable at its bound must not stay in the basis
            stuck = False
            for i in range(n):
                if basic[i] and fixed[i] != FREE:
                    before = made
                    if size > 1 and own:
                        sweep_now(source, single, i + 1, -1.0)
                    elif size > 1:
                        made = push(source, sweeps, made, i + 1, -1.0, 0.0)
                    if size > 1 and (own or made > before):
                        basic[i] = False
                        size -= 1
                    else:
                        stuck = True
            held = np.flatnonzero(fixed == FREE)
            if stuck:
                # the program keeps it, and its column, as they are
                held = np.arange(n)
            if own or (not stuck and free <= SHRINK * n) or made > max(PENDING * n, LEAST):
                f = held.size
                at = frame_at[frame + 1]
                end = at + f * f + (f + 1) * (f + 1)
                if end > sheets.size:
                    grown = np.empty(2 * end)
                    grown[:at] = sheets[:at]
                    sheets = grown
                    matrix, tableau = views(sheets, frame_at[frame], n)
                    source = source if own else tableau
                part, smaller = views(sheets, at, f)
                slope = frame_linear[frame + 1, :f]
                restrict(source, sweeps, 0 if own else made, held, smaller)
                frame_fixed[frame + 1] = frame_fixed[frame]
                if f < n:
                    for i in range(n):
                        frame_fixed[frame + 1, frame_index[frame, i]] = fixed[i]
                    added, kept = put_in(matrix, linear, fixed, held, part, slope)
                else:
                    added, kept = 0.0, 0
                    part[:] = matrix
                    slope[:] = linear
                position = j
                for a in range(f):
                    i = held[a]
                    frame_index[frame + 1, a] = frame_index[frame, i]
                    x[a], reduced[a], basic[a], fixed[a] = x[i], reduced[i], basic[i], fixed[i]
                    if i == j:
                        position = a
                j = position
                frame_sweeps[frame + 1] = (
                    frame_sweeps[frame] + stack_made[depth - 1]
                    if (depth > 0 and stack_frame[depth - 1] == frame)
                    else frame_sweeps[frame]
                )
                frame += 1
                n, made = f, 0
                count -= kept
                constant += added
                frame_size[frame], frame_count[frame], frame_constant[frame] = n, count, constant
                frame_at[frame + 1] = end
                matrix, tableau, linear = part, smaller, slope
                first_sweep = frame_sweeps[frame]
                sweeps = (rows[first_sweep:], places[first_sweep:], pivots[first_sweep:])
                x, grad, reduced, fixed, basic = all_x[:n], all_grad[:n], all_reduced[:n], all_fixed[:n], all_basic[:n]
                trial, trial_grad = all_trial[:n], all_trial_grad[:n]
            first = 1.0 if x[j] > 0.5 else 0.0
            stack_x[depth, :n] = x
            stack_reduced[depth, :n] = reduced
            stack_fixed[depth, :n] = fixed
            stack_basic[depth, :n] = basic
            stack_frame[depth] = frame
            stack_made[depth] = made
            stack_size[depth] = size
            stack_j[depth] = j
            stack_target[depth] = 1.0 - first
            stack_bound[depth] = bound
            depth += 1
            target = first
            if nodes < node_limit:
                continue
            # the first child is handed over as an open node too
            stack_x[depth, :n] = x
            stack_fixed[depth, :n] = fixed
            stack_frame[depth] = frame
            stack_j[depth] = j
            stack_target[depth] = target
            stack_bound[depth] = bound
            depth += 1
            break
        while depth > 0 and stack_bound[depth - 1] >= best_value - margin:
            depth -= 1
        if depth == 0 or nodes >= node_limit:
            break
        depth -= 1
        if stack_frame[depth] != frame:
            frame = stack_frame[depth]
            n, count, constant = frame_size[frame], frame_count[frame], frame_constant[frame]
            matrix, tableau = views(sheets, frame_at[frame], n)
            linear = frame_linear[frame, :n]
            first_sweep = frame_sweeps[frame]
            sweeps = (rows[first_sweep:], places[first_sweep:], pivots[first_sweep:])
            x, grad, reduced, fixed, basic = all_x[:n], all_grad[:n], all_reduced[:n], all_fixed[:n], all_basic[:n]
            trial, trial_grad = all_trial[:n], all_trial_grad[:n]
        x[:] = stack_x[depth, :n]
        reduced[:] = stack_reduced[depth, :n]
        fixed[:] = stack_fixed[depth, :n]
        basic[:] = stack_basic[depth, :n]
        made = stack_made[depth]
        size = stack_size[depth]
        j = stack_j[depth]
        target = stack_target[depth]
        bound = stack_bound[depth]
    for a in range(depth):
        frame = stack_frame[a]
        out_fixed[a] = frame_fixed[frame]
        for i in range(p):
            out_x[a, i] = 1.0 if out_fixed[a, i] == 1 else 0.0
        for i in range(frame_size[frame]):
            out_x[a, frame_index[frame, i]] = stack_x[a, i]
            out_fixed[a, frame_index[frame, i]] = stack_fixed[a, i]
        out_branch[a, 0] = frame_index[frame, stack_j[a]]
        out_branch[a, 1] = int(stack_target[a])
        out_bound[a] = stack_bound[a]
    return best_value, nodes, depth
