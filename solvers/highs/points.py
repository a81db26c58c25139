"""Where tangents are worth most: the optima of a program's relaxations in a small tree.

A tangent at a node's optimum has the node's bound as its smallest value over the node. So the
tangents at the leaves of a tree that closes, and wherever reduced costs fixed a variable, say
together that no mask is better than the cut-off; each holds for every mask.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import FloatArray
from prunebench.kernels.trees import refit_node as refit
from prunebench.kernels.trees.branching import branching_variable, dearest_to_prune
from prunebench.kernels.trees.points import reachable, repair
from prunebench.kernels.trees.select_node import FAST, FREE, Pattern, bound_at, gradient_at
from prunebench.kernels.trees.tableau import optimum


@njit(cache=True, error_model="numpy", fastmath=FAST, nogil=True)
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
            own = bound_at(matrix, linear, x, grad, price, fixed, count, rounding)
            bound = max(bound, own)
            points[held] = x
            held += 1
            open_node = bound < cut
        if open_node:
            j = branching_variable(x, np.diag(tableau), basic, tableau, sweeps, 0) if size > 0 else -1
            if j < 0 or fixed[j] != FREE:
                j = -1
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


@njit(cache=True, error_model="numpy", nogil=True)
def refit_points(
    matrix: FloatArray,
    linear: FloatArray,
    sizes: FloatArray,
    keep: int,
    accuracy: float,
    root_pattern: Pattern,
    root_sign: FloatArray,
    cut: float,
    points: FloatArray,
) -> tuple[int, bool]:
    """The same for the refit program: weights y, into the rows of `points` (nodes, p).

    matrix K (p, p), linear h (p,): the split-off form; the row −½y'Ky − ½ Σ ρᵢ² mᵢ with ρ = h − Ky
    lies below the program's value at every mask m. Returns how many points, and whether the tree is closed.
    """
    p = linear.size
    stack_pattern = np.empty((p + 2, p), np.int8)
    stack_sign = np.empty((p + 2, p))
    stack_fixed = np.empty((p + 2, p), np.int8)
    stack_j = np.empty(p + 2, np.int64)
    stack_target = np.empty(p + 2, np.int64)
    pattern = root_pattern.copy()
    wanted = root_pattern.copy()
    sign = root_sign.copy()
    fixed = np.full(p, FREE, np.int8)
    y = np.zeros(p)
    rho = np.empty(p)
    spread = np.zeros(p)
    members = np.empty(p, np.int64)
    inverse = np.empty((p, p))
    j = -1
    target = 0
    depth = 0
    held = 0
    for _ in range(points.shape[0]):
        size = refit.build(matrix, pattern, inverse, members)
        open_node = True
        if j >= 0:
            fixed[j] = target
            open_node = reachable(fixed, keep)
        if open_node:
            if j >= 0:
                refit.pattern_point(matrix, linear, keep, pattern, sign, inverse, members, size, y, rho, spread)
                wanted[:] = pattern
                wanted[j] = refit.IN if target == 1 else refit.OUT
                refit.legal(keep, fixed, wanted, rho)
                for i in range(p):
                    if wanted[i] == refit.TIED and pattern[i] != refit.TIED:
                        sign[i] = -1.0 if rho[i] < 0.0 else 1.0
                size = refit.change_pattern(matrix, pattern, wanted, inverse, members, size)
            size, bound, level, _, tied = refit.solve_node(
                matrix, linear, sizes, keep, fixed, pattern, sign, inverse, members, size,
                y, rho, spread, wanted, -np.inf, cut, accuracy, 40,
            )  # fmt: skip
            points[held] = y
            held += 1
            open_node = bound < cut
        if open_node:
            j = -1
            if tied > 0:
                j = dearest_to_prune(pattern, sign, fixed, inverse, members, size, y, np.sqrt(level))
            if j < 0:
                for i in range(p):
                    nearer = j < 0 or abs(abs(rho[i]) - np.sqrt(level)) < abs(abs(rho[j]) - np.sqrt(level))
                    if fixed[i] == FREE and nearer:
                        j = i
            open_node = j >= 0
        if open_node:
            current = refit.dual_bound(linear, sizes, keep, fixed, y, rho, level, accuracy)
            useful = False
            for i in range(p):
                if fixed[i] == FREE and i != j:
                    reduced = 0.5 * (level - rho[i] * rho[i])
                    if pattern[i] == refit.OUT and current + reduced >= cut:
                        fixed[i] = 0
                        useful = True
                    elif pattern[i] == refit.IN and current - reduced >= cut:
                        fixed[i] = 1
                        useful = True
            if not useful:
                held -= 1
            share = 1.0 if pattern[j] == refit.IN else 0.0
            if pattern[j] == refit.TIED:
                share = sign[j] * y[j] / np.sqrt(level)
            stack_pattern[depth] = pattern
            stack_sign[depth] = sign
            stack_fixed[depth] = fixed
            stack_j[depth] = j
            target = 1 if share > 0.5 else 0
            stack_target[depth] = 1 - target
            depth += 1
            continue
        if depth == 0:
            return held, True
        depth -= 1
        pattern[:] = stack_pattern[depth]
        sign[:] = stack_sign[depth]
        fixed[:] = stack_fixed[depth]
        j = stack_j[depth]
        target = stack_target[depth]
    return held, False
