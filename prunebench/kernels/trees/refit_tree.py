"""The refit tree's loop: prune, fix, round, branch; leaves what it did not finish as open nodes."""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.trees.branching import tied_branching_variable
from prunebench.kernels.trees.refit_node import (
    IN,
    OUT,
    TIED,
    build,
    change_pattern,
    dual_bound,
    legal,
    one_mask_point,
    pattern_point,
    reach_of,
    solve_node,
    square_end,
)
from prunebench.kernels.trees.select_node import FREE, ROUNDED, Pattern, Records


@njit(cache=True, error_model="numpy", nogil=True)
def rounded_value(
    matrix: FloatArray,
    linear: FloatArray,
    keep: int,
    pattern: Pattern,
    sign: FloatArray,
    fixed: Pattern,
    y: FloatArray,
    inverse: FloatArray,
    members: IndexArray,
    size: int,
    scratch: Pattern,
) -> float:
    """The mask of the largest shares and its value; `scratch` receives the mask as IN and OUT."""
    p = linear.size
    key = np.empty(p)
    for i in range(p):
        if pattern[i] == IN:
            key[i] = -1e300 if fixed[i] == 1 else -1e200
        elif pattern[i] == TIED:
            key[i] = -sign[i] * y[i]
        else:
            key[i] = 1e300 if fixed[i] == 0 else 1e200
    order = np.argsort(key, kind="mergesort")
    scratch[:] = OUT
    for a in range(keep):
        scratch[order[a]] = IN
    now = pattern.copy()
    own = members.copy()
    work = np.empty((p, p))
    work[:size, :size] = inverse[:size, :size]
    held = change_pattern(matrix, now, scratch, work, own, size)
    if held != keep:
        return np.inf
    kept = np.zeros(held)
    for a in range(held):
        for b in range(held):
            kept[a] += work[a, b] * linear[own[b]]
    # the objective at these weights, not −½h'y: an inverse that has drifted must not flatter it
    value = 0.0
    for a in range(held):
        row = matrix[own[a]]
        slope = kept[a]
        for b in range(held):
            slope += row[own[b]] * kept[b]
        value += kept[a] * (0.5 * slope - linear[own[a]])
    return value


@njit(cache=True, error_model="numpy", nogil=True)
def explore(
    matrix: FloatArray,
    linear: FloatArray,
    sizes: FloatArray,
    keep: int,
    accuracy: float,
    margin: float,
    root_pattern: Pattern,
    root_sign: FloatArray,
    root_fixed: Pattern,
    root_j: int,
    root_target: int,
    root_bound: float,
    best_mask: Pattern,
    best_value: float,
    node_limit: int,
    ceiling: float,
    out_pattern: Pattern,
    out_sign: FloatArray,
    out_fixed: Pattern,
    out_branch: IndexArray,
    out_bound: FloatArray,
    out_record: IndexArray,
    out_single: Pattern,
    out_single_bound: FloatArray,
    records: Records,
) -> tuple[float, int, int, int, float, int]:
    """Search below one open node, at most `node_limit` nodes, only where bounds are below `ceiling`.

    matrix K (p, p), linear h (p,): the split-off form. A node is pruned once its safe bound is at
    least best − margin. best_mask (IN or OUT) is overwritten when a better mask is found.
    `records` receives what a proof needs of every node that was bounded (none where they have no room),
    out_record the record of each open node's parent.
    A node of one mask whose bound rounding leaves below the cut-off is handed back in out_single (IN or OUT).
    Returns (best value, nodes, how many open nodes were left in the out arrays, how many single masks,
    the smallest bound of a single mask for which there was no room, how many records were made).
    """
    p = linear.size
    pattern = root_pattern.copy()
    wanted = root_pattern.copy()
    scratch = root_pattern.copy()
    sign = root_sign.copy()
    fixed = root_fixed.copy()
    y = np.zeros(p)
    rho = np.empty(p)
    spread = np.zeros(p)
    members = np.empty(p, np.int64)
    inverse = np.empty((p, p))
    stack_pattern = np.empty((p + 1, p), np.int8)
    stack_sign = np.empty((p + 1, p))
    stack_fixed = np.empty((p + 1, p), np.int8)
    stack_members = np.empty((p + 1, p), np.int64)
    stack_size = np.empty(p + 1, np.int64)
    stack_j = np.empty(p + 1, np.int64)
    stack_target = np.empty(p + 1, np.int64)
    stack_bound = np.empty(p + 1)
    stack_at = np.zeros(p + 2, np.int64)
    packed = np.empty(1 << 16)
    depth = 0
    nodes = 0
    handed_on = 0
    record = -1
    made = 0
    writes = records.parent.size > 0
    stack_record = np.empty(p + 1, np.int64)
    singles = 0
    left_open = np.inf
    room = out_bound.size - p - 2
    size = build(matrix, pattern, inverse, members)
    bound = root_bound
    j = root_j
    target = root_target
    while True:
        nodes += 1
        cut = best_value - margin
        pruned = bound >= cut
        solved = not pruned
        tied = 0
        level = 0.0
        current = -np.inf
        single = False
        if not pruned:
            if writes:
                records.parent[made], records.value[made] = record, target
            inherited = bound
            if j >= 0:
                fixed[j] = target
                wanted[:] = pattern
                wanted[j] = IN if target == 1 else OUT
                legal(keep, fixed, wanted, rho)
                for i in range(p):
                    if wanted[i] == TIED and pattern[i] != TIED:
                        sign[i] = -1.0 if rho[i] < 0.0 else 1.0
                size = change_pattern(matrix, pattern, wanted, inverse, members, size)
            size, bound, level, _, tied = solve_node(
                matrix,
                linear,
                sizes,
                keep,
                fixed,
                pattern,
                sign,
                inverse,
                members,
                size,
                y,
                rho,
                spread,
                wanted,
                bound,
                cut,
                accuracy,
                40,
            )
            pruned = bound >= cut
        if not pruned:
            # what the last point proves: an earlier one may have proved more, but is gone
            current = dual_bound(linear, sizes, keep, fixed, y, rho, level, accuracy)
            bound = max(inherited, current)
            free = 0
            kept = 0
            for i in range(p):
                free += fixed[i] == FREE
                kept += fixed[i] == 1
            single = kept == keep or kept + free == keep
        if single:
            for i in range(p):
                scratch[i] = IN if fixed[i] == 1 or (fixed[i] == FREE and kept < keep) else OUT
            size = change_pattern(matrix, pattern, scratch, inverse, members, size)
            found = one_mask_point(matrix, linear, pattern, inverse, members, size, y, rho)
            level = 0.0
            for i in range(p):
                if fixed[i] == FREE and kept == keep:
                    level = max(level, rho[i] * rho[i])
            level *= 1.0 + 1e-6
            bound = max(bound, dual_bound(linear, sizes, keep, fixed, y, rho, level, accuracy))
            if found < best_value:
                best_value = found
                best_mask[:] = scratch
                cut = best_value - margin
            if not bound >= cut and singles < out_single_bound.size:
                out_single[singles] = scratch
                out_single_bound[singles] = bound
                singles += 1
            elif not bound >= cut:
                left_open = min(left_open, bound)
            pruned = True
        if not pruned and ((nodes & 15) == ROUNDED or tied == 0):
            found = rounded_value(matrix, linear, keep, pattern, sign, fixed, y, inverse, members, size, scratch)
            if found < best_value:
                best_value = found
                best_mask[:] = scratch
                cut = best_value - margin
                pruned = bound >= cut
        j = -1
        if not pruned:
            if tied > 0:
                j = tied_branching_variable(
                    keep, pattern, sign, fixed, inverse, members, size, y, spread, np.sqrt(level)
                )
            if j < 0:
                for i in range(p):
                    if fixed[i] == FREE and pattern[i] == TIED:
                        j = i
                        break
            if j < 0:
                for i in range(p):
                    if fixed[i] == FREE and (
                        j < 0 or abs(abs(rho[i]) - np.sqrt(level)) < abs(abs(rho[j]) - np.sqrt(level))
                    ):
                        j = i
        if not pruned:
            span = reach_of(sizes, y)
            for i in range(p):
                if fixed[i] == FREE and i != j:
                    reduced = 0.5 * (level - square_end(sizes, span, accuracy, rho, i))
                    if pattern[i] == OUT and current + max(reduced, 0.0) >= cut:
                        fixed[i] = 0
                    elif pattern[i] == IN and current + max(-reduced, 0.0) >= cut:
                        fixed[i] = 1
            free = 0
            kept = 0
            for i in range(p):
                free += fixed[i] == FREE
                kept += fixed[i] == 1
            # nothing better is left where the reduced costs leave no feasible mask
            pruned = kept > keep or kept + free < keep
        if solved and writes:
            records.point[made] = y
            records.fixed[made] = fixed
            records.branch[made] = -1 if pruned else j
            record = made
            made += 1
        if not pruned and nodes > 1 and bound >= ceiling and handed_on < room:
            if writes:
                records.branch[record] = -1
                out_record[handed_on] = record
            out_pattern[handed_on] = pattern
            out_sign[handed_on] = sign
            out_fixed[handed_on] = fixed
            out_branch[handed_on] = -1
            out_bound[handed_on] = bound
            handed_on += 1
            pruned = True
        if not pruned:
            share = 0.0
            if pattern[j] == IN:
                share = 1.0
            elif pattern[j] == TIED:
                share = sign[j] * y[j] / (np.sqrt(level) + 1e-300)
            first = 1 if share > 0.5 else 0
            # a child whose count cannot be met holds no mask
            if kept + 1 > keep:
                first = 0
            if kept + free - 1 < keep:
                first = 1
            only = kept + 1 > keep or kept + free - 1 < keep
            start = stack_at[depth]
            if start + size * size > packed.size:
                grown = np.empty(2 * packed.size + size * size)
                grown[:start] = packed[:start]
                packed = grown
            at = start
            for a in range(size):
                for b in range(size):
                    packed[at] = inverse[a, b]
                    at += 1
            stack_at[depth + 1] = at
            stack_pattern[depth] = pattern
            stack_sign[depth] = sign
            stack_fixed[depth] = fixed
            stack_members[depth] = members
            stack_size[depth] = size
            stack_j[depth] = j
            stack_target[depth] = 1 - first
            stack_bound[depth] = np.inf if only else bound
            stack_record[depth] = record
            depth += 1
            target = first
            if nodes < node_limit:
                continue
            # the first child is handed over as an open node too
            stack_pattern[depth] = pattern
            stack_sign[depth] = sign
            stack_fixed[depth] = fixed
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
        pattern[:] = stack_pattern[depth]
        sign[:] = stack_sign[depth]
        fixed[:] = stack_fixed[depth]
        members[:] = stack_members[depth]
        size = stack_size[depth]
        j = stack_j[depth]
        target = stack_target[depth]
        bound = stack_bound[depth]
        record = stack_record[depth]
        at = stack_at[depth]
        for a in range(size):
            for b in range(size):
                inverse[a, b] = packed[at]
                at += 1
        pattern_point(matrix, linear, keep, pattern, sign, inverse, members, size, y, rho, spread)
    for a in range(depth):
        at = handed_on + a
        out_pattern[at] = stack_pattern[a]
        out_sign[at] = stack_sign[a]
        out_fixed[at] = stack_fixed[a]
        out_branch[at, 0] = stack_j[a]
        out_branch[at, 1] = stack_target[a]
        out_bound[at] = stack_bound[a]
        out_record[at] = stack_record[a]
    return best_value, nodes, handed_on + depth, singles, left_open, made
