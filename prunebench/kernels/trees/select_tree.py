"""The select tree's loop: prune, fix, round, branch; leaves what it did not finish as open nodes.

Where a tree is widest a third of its variables or less are free. So a node with few free ones, or
with many sweeps since its tableau was made, opens a frame: the program and the tableau of the free
variables alone, the fixed ones put in. All below it uses that, and the search leaves it again when
it is through.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.trees.branching import branching_variable
from prunebench.kernels.trees.frames import put_in, restrict, views
from prunebench.kernels.trees.points import descend, reachable, repair, rounded, value_at
from prunebench.kernels.trees.select_node import FREE, ROUNDED, Pattern, Records, bound_at, gradient_at
from prunebench.kernels.trees.tableau import (
    build,
    diagonal_of,
    follow,
    optimal,
    optimum,
    price_at,
    push,
    refine,
    start,
    sweep_all,
    sweep_now,
)

SHRINK, PENDING, LEAST = 0.5, 0.25, 4
"""A frame is opened where at most the first share of the variables is free, or for more sweeps than the second share
of them and than a few."""
TOLERANCE = 1e-8
"""Reduced costs that are wrong by this part of the gap at most cost a bound next to nothing."""


@njit(cache=True, error_model="numpy", nogil=True)
def hand_on(
    index: IndexArray, outside: Pattern, x: FloatArray, fixed: Pattern, out_x: FloatArray, out_fixed: Pattern
) -> None:
    """A node of a frame, of the variables `index`, as one of the whole program; `outside` is fixed in the frame."""
    out_fixed[:] = outside
    for i in range(out_x.size):
        out_x[i] = 1.0 if outside[i] == 1 else 0.0
    for i in range(x.size):
        out_x[index[i]] = x[i]
        out_fixed[index[i]] = fixed[i]


@njit(cache=True, error_model="numpy", nogil=True)
def write_record(
    records: Records,
    at: int,
    branch: int,
    index: IndexArray,
    outside: Pattern,
    x: FloatArray,
    fixed: Pattern,
) -> None:
    """Row `at` of the records, of a node of a frame."""
    hand_on(index, outside, x, fixed, records.point[at], records.fixed[at])
    records.branch[at] = index[branch] if branch >= 0 else -1


@njit(cache=True, error_model="numpy", nogil=True)
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
    ceiling: float,
    out_x: FloatArray,
    out_fixed: Pattern,
    out_branch: IndexArray,
    out_bound: FloatArray,
    out_record: IndexArray,
    records: Records,
) -> tuple[float, int, int, float, int]:
    """Search below one open node, at most `node_limit` nodes, only where bounds are below `ceiling`.

    root_matrix (p, p), root_linear (p,): the convexified objective. A node is pruned once its safe
    bound is at least best − margin. best_x is overwritten when a better binary point is found.
    `rounding` covers that of the objective at any point and of putting fixed variables in.
    `records` receives what a proof needs of every node that was bounded (none where they have no room),
    out_record the record of each open node's parent.
    Returns (best value, nodes, how many open nodes were left in the out arrays, the smallest bound of a
    point that was left although it is below the cut-off, how many records were made).
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
    if np.isfinite(root_bound):
        tolerance = max(tolerance, TOLERANCE * (best_value - root_bound))
    depth, nodes, handed_on = 0, 0, 0
    record, done, left_open = -1, 0, np.inf
    writes = records.parent.size > 0
    stack_record = np.empty(p + 1, np.int64)
    room = out_bound.size - p - 2
    price = 0.0
    bound, j, target = root_bound, root_j, root_target
    gradient_at(matrix, linear, x, grad)
    made, size = 0, 0
    if start(grad, x, fixed, basic):
        size = build(matrix, tableau, single, basic)
    ready = size > 0
    if ready:
        price = price_at(grad, basic, size)
        reduced[:] = grad - price
    while True:
        # one node: x is its parent's optimum and j goes to target; without a branch x is its own
        nodes += 1
        cut = best_value - margin
        pruned = bound >= cut
        state = 0
        parent, value, solved, current = record, -1, False, -np.inf
        if j >= 0:
            value = 1 if target > 0.5 else 0
        if not pruned and j >= 0:
            fixed[j] = 1 if target > 0.5 else 0
            pruned = not reachable(fixed, count)
        if not pruned and ready and j < 0:
            state = 1
        elif not pruned and ready:
            excess = cut - bound + 2.0 * rounding + 1e-7 * abs(cut - bound)
            size, made, state = follow(matrix, x, reduced, fixed, tableau, sweeps, made, basic, size, j, target, excess)
            if state == 2:
                gradient_at(matrix, linear, x, grad)
                price = price_at(grad, basic, size)
                current = constant + bound_at(matrix, linear, x, grad, price, fixed, count, rounding)
                if current > bound:
                    bound = current
                solved = True
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
            current = constant + bound_at(matrix, linear, x, grad, price, fixed, count, rounding)
            reduced[:] = grad - price
            if current > bound:
                bound = current
            solved = True
            pruned = bound >= cut
        found = np.inf
        if not pruned and (nodes & 15) == ROUNDED:
            rounded(x, fixed, count, trial)
            found = constant + descend(matrix, linear, trial, trial_grad, n)
        j = -1
        if not pruned:
            diagonal_of(source, sweeps, 0 if own else made, diagonal[: n + 1])
            j = branching_variable(x, diagonal, basic, source, sweeps, 0 if own else made)
            if j >= 0 and fixed[j] != FREE:
                # on a block that is singular to rounding a fixed variable can be left between its values
                j = -1
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
            if j < 0:
                # one mask, with its value below its bound by no more than rounding
                pruned = True
                left_open = min(left_open, bound)
        if not pruned:
            free = 1
            for i in range(n):
                if fixed[i] == FREE and i != j:
                    # the bound may be the parent's, the reduced costs are those of the point
                    if x[i] == 0.0 and current + reduced[i] >= cut:
                        fixed[i] = 0
                    elif x[i] == 1.0 and current - reduced[i] >= cut:
                        fixed[i] = 1
                    else:
                        free += 1
            # nothing better is left where the reduced costs leave no feasible point
            pruned = not reachable(fixed, count)
        if solved and writes:
            onward = not (pruned or (nodes > 1 and bound >= ceiling and handed_on < room))
            write_record(records, done, j if onward else -1, frame_index[frame], frame_fixed[frame], x, fixed)
            records.parent[done], records.value[done] = parent, value
            record = done
            done += 1
        if not pruned and nodes > 1 and bound >= ceiling and handed_on < room:
            out_record[handed_on] = record
            hand_on(frame_index[frame], frame_fixed[frame], x, fixed, out_x[handed_on], out_fixed[handed_on])
            out_branch[handed_on] = -1
            out_bound[handed_on] = bound
            handed_on += 1
            pruned = True
        if not pruned:
            ready = True
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
            stack_record[depth] = record
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
            stack_record[depth] = record
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
        record = stack_record[depth]
    for a in range(depth):
        frame = stack_frame[a]
        n = frame_size[frame]
        at = handed_on + a
        hand_on(frame_index[frame], frame_fixed[frame], stack_x[a, :n], stack_fixed[a, :n], out_x[at], out_fixed[at])
        out_branch[at, 0] = frame_index[frame, stack_j[a]]
        out_branch[at, 1] = int(stack_target[a])
        out_bound[at] = stack_bound[a]
        out_record[at] = stack_record[a]
    return best_value, nodes, handed_on + depth, left_open, done
