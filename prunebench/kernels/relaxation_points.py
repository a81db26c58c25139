"""Where tangents of a select program are worth most: the optima of its relaxations in a small tree.

A tangent of the convexified objective at a node's optimum has the node's bound as its smallest value
over the node. So the tangents at the leaves of a tree that closes, and wherever reduced costs fixed
a variable, say together that no mask is better than the cut-off; each holds for every mask.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray
from prunebench.kernels.branch_and_bound_select import FAST, FREE, Pattern, gradient_at, safe_bound
from prunebench.kernels.branch_and_bound_tableau import optimum
from prunebench.kernels.branch_and_bound_tree import branching_variable, reachable, repair


@njit(cache=True, fastmath=FAST, nogil=True)
def relaxation_points(
    matrix: FloatArray,
    linear: FloatArray,
    count: int,
    rounding: float,
    root: FloatArray,
    root_fixed: Pattern,
    cut: float,
    points: FloatArray,
) -> tuple[int, bool, int]:
    """Points for tangents, into the rows of `points` (nodes, p), from a depth-first tree of at most `nodes` nodes.

    matrix (p, p), linear (p,): the convexified objective; root (p,): a feasible point with
    what `root_fixed` fixes. Returns how many
    points there are, whether the tree is closed (every node's bound reaches `cut`), and the variable
    that the root branches on, −1 where it need not.
    """
    p = linear.size
    stack_x = np.empty((p + 2, p))
    stack_fixed = np.empty((p + 2, p), np.int8)
    stack_j = np.empty(p + 2, np.int64)
    stack_target = np.empty(p + 2)
    stack_bound = np.empty(p + 2)
    x = root.copy()
    fixed = root_fixed.copy()
    grad = np.empty(p)
    basic = np.zeros(p, np.bool_)
    tableau = np.empty((p + 1, p + 1))
    sweeps = (np.empty((1, p + 1)), np.empty(1, np.int64), np.empty((1, 2)))
    bound = -np.inf
    j = -1
    target = 0.0
    depth = 0
    held = 0
    first_branch = -1
    for _ in range(points.shape[0]):
        open_node = True
        if j >= 0:
            fixed[j] = 1 if target > 0.5 else 0
            open_node = reachable(fixed, count)
            if open_node:
                x[j] = target
                gradient_at(matrix, linear, x, grad)
                repair(x, fixed, grad, count)
        if open_node:
            size, price = optimum(matrix, linear, x, grad, fixed, tableau, sweeps, basic, 1e-9)
            own = safe_bound(linear, x, grad, price, fixed, count, rounding)
            bound = max(bound, own)
            points[held] = x
            held += 1
            open_node = bound < cut
        if open_node:
            j = branching_variable(x, np.diag(tableau), basic) if size > 0 else -1
            if j < 0:
                for i in range(p):
                    if fixed[i] == FREE:
                        j = i
                        break
            open_node = j >= 0
        if open_node:
            useful = False
            for i in range(p):
                if fixed[i] == FREE and i != j:
                    reduced = grad[i] - price
                    if x[i] == 0.0 and own + reduced >= cut:
                        fixed[i] = 0
                        useful = True
                    elif x[i] == 1.0 and own - reduced >= cut:
                        fixed[i] = 1
                        useful = True
            if not useful:
                held -= 1
            first = 1.0 if x[j] > 0.5 else 0.0
            if first_branch < 0:
                first_branch = j
            stack_x[depth] = x
            stack_fixed[depth] = fixed
            stack_j[depth] = j
            stack_target[depth] = 1.0 - first
            stack_bound[depth] = bound
            depth += 1
            target = first
            continue
        if depth == 0:
            return held, True, first_branch
        depth -= 1
        x[:] = stack_x[depth]
        fixed[:] = stack_fixed[depth]
        j = stack_j[depth]
        target = stack_target[depth]
        bound = stack_bound[depth]
    return held, False, first_branch
