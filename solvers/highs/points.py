"""Points where tangents are most useful: optima of a program's relaxations in a small tree.

The minimum over a node of the tangent at the node's optimum is the node's bound. If the tree closes, the
tangents at its leaves, and wherever reduced costs fixed a variable, together show that no mask is better
than the cut-off; each of them holds for every mask.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.kernels.compiled import ZERO, Row, compiled, copy, fill, merged
from prunebench.kernels.trees import refit_node as refit
from prunebench.kernels.trees.branching import branching_variable, dearest_to_prune
from prunebench.kernels.trees.points import reachable, repair
from prunebench.kernels.trees.refit_tree import ITERATIONS, STATE, take_target
from prunebench.kernels.trees.select_node import FREE, Pattern, Point, Program, bound_at, gradient_at, point_at
from prunebench.kernels.trees.select_tree import LEAST_TOLERANCE
from prunebench.kernels.trees.tableau import Tableau, diagonal_of, new_tableau, optimum

WAITING = np.dtype([("branch", np.int64), ("target", np.int64), ("bound", np.float64)], align=True)
"""A node: the variable that it fixes (−1 at the root), its value, and the best bound known."""


class SelectStack(NamedTuple):
    """The waiting second children, one per row: Point's x and fixed, and WAITING; p + 2 rows."""

    x: FloatArray
    fixed: Pattern
    nodes: npt.NDArray[np.void]


class RefitStack(NamedTuple):
    """The same in mode refit: pattern, signs, fixed weights, and WAITING; p + 2 rows."""

    pattern: Pattern
    sign: FloatArray
    fixed: Pattern
    nodes: npt.NDArray[np.void]


def relaxation_points(
    program: Program, root: FloatArray, fixed: Pattern, cut: float, points: FloatArray
) -> tuple[int, bool, int]:
    """Points for tangents, written to `points` (nodes, p), from a depth-first tree of at most `nodes` nodes.

    root (p,) : a feasible point that respects `fixed`. Returns the number of points, whether the tree is closed
    (every node's bound reaches `cut`), and the variable on which the root branches, −1 if it need not.
    """
    p = root.size
    stack = SelectStack(np.empty((p + 2, p)), np.empty((p + 2, p), np.int8), np.zeros(p + 2, WAITING))
    held, closed, branch = _relaxation_points(
        program, point_at(root.copy(), fixed.copy()), new_tableau(p), cut, points, stack
    )
    return int(held), bool(closed), int(branch)


@compiled(fast=True, allocates=True)
def _relaxation_points(
    program: Program, point: Point, tableau: Tableau, cut: float, points: FloatArray, stack: SelectStack
) -> tuple[int, bool, int]:
    x, fixed = point.x, point.fixed
    diagonal = np.empty(x.size + 1)
    bound, j, target = -np.inf, -1, 0
    depth, held, first_branch = 0, 0, -1
    for _ in range(points.shape[0]):
        going = j < 0 or moved(program, point, j, target)
        if going:
            size, price = optimum(program, point, tableau, LEAST_TOLERANCE)
            own = bound_at(program, point, price)
            bound = max(bound, own)
            copy(x, points[held])
            held += 1
            going = bound < cut
        if going:
            diagonal_of(tableau, ZERO, diagonal)
            j = branching_variable(point, diagonal, tableau, ZERO) if size > 0 else -1
            if j < 0 or fixed[j] != FREE:
                j = first_free(fixed)
            going = j >= 0
        if going:
            if not fixed_by_costs(point, price, own, j, cut):
                held -= 1
            if first_branch < 0:
                first_branch = j
            target = 1 if x[j] > 0.5 else 0
            copy(x, stack.x[depth])
            copy(fixed, stack.fixed[depth])
            waiting = stack.nodes[depth]
            waiting.branch, waiting.target, waiting.bound = j, 1 - target, bound
            depth += 1
            continue
        if depth == 0:
            return held, True, first_branch
        depth -= 1
        copy(stack.x[depth], x)
        copy(stack.fixed[depth], fixed)
        waiting = stack.nodes[depth]
        j, target, bound = waiting.branch, waiting.target, waiting.bound
    return held, False, first_branch


@merged
def moved(program: Program, point: Point, j: int, target: int) -> bool:
    """Fix variable j and restore the count of x. False: the count cannot be met any more."""
    point.fixed[j] = target
    possible = reachable(point.fixed, program.ones)
    if possible:
        point.x[j] = float(target)
        gradient_at(program.matrix, program.linear, point.x, point.grad)
        repair(point.x, point.fixed, point.grad, program.ones)
    return possible


@merged
def first_free(fixed: Pattern) -> int:
    """The first free variable; −1: none."""
    first = -1
    for i in range(fixed.size):
        if fixed[i] == FREE:
            first = i
            break
    return first


@merged
def fixed_by_costs(point: Point, price: float, bound: float, j: int, cut: float) -> bool:
    """Fix variables (except j) at a bound whose other value would cost `cut` by reduced costs. Whether any was."""
    x, grad, fixed = point.x, point.grad, point.fixed
    useful = False
    for i in range(x.size):
        if fixed[i] == FREE and i != j:
            reduced = grad[i] - price
            if x[i] == 0.0 and bound + reduced >= cut:
                fixed[i] = 0
                useful = True
            elif x[i] == 1.0 and bound - reduced >= cut:
                fixed[i] = 1
                useful = True
    return useful


def refit_points(
    program: refit.Program, pattern: Pattern, sign: FloatArray, cut: float, points: FloatArray
) -> tuple[int, bool]:
    """The same for the refit program, from a root's pattern and signs; the points are weights y.

    The row −½y'Ky − ½ Σ ρᵢ² mᵢ with ρ = h − Ky is below the program's value at every mask m.
    Returns the number of points and whether the tree is closed.
    """
    p, rows = sign.size, sign.size + 2
    stack = RefitStack(
        np.empty((rows, p), np.int8), np.empty((rows, p)), np.empty((rows, p), np.int8), np.zeros(rows, WAITING)
    )
    node = refit.node_of(pattern, sign, np.full(p, FREE, np.int8))
    held, closed = _refit_points(program, node, np.zeros(1, STATE), cut, points, stack)
    return int(held), bool(closed)


@compiled()
def _refit_points(
    program: refit.Program,
    node: refit.Node,
    states: npt.NDArray[np.void],
    cut: float,
    points: FloatArray,
    stack: RefitStack,
) -> tuple[int, bool]:
    state, pattern, fixed = states[0], node.system.pattern, node.fixed
    state.branch = -1
    depth, held = 0, 0
    for _ in range(points.shape[0]):
        going = entered(program, node, state)
        if going:
            state.size, state.bound, state.level, _, state.tied = refit.solve_node(
                program, node, state.size, -np.inf, cut, ITERATIONS
            )
            copy(node.y, points[held])
            held += 1
            going = state.bound < cut
        if going:
            state.branch = dearest_or_nearest(node, state)
            going = state.branch >= 0
        if going:
            if not fixed_by_levels(program, node, state, cut):
                held -= 1
            j = state.branch
            share = 1.0 if pattern[j] == refit.IN else 0.0
            if pattern[j] == refit.TIED:
                share = node.sign[j] * node.y[j] / np.sqrt(state.level)
            state.target = 1 if share > 0.5 else 0
            copy(pattern, stack.pattern[depth])
            copy(node.sign, stack.sign[depth])
            copy(fixed, stack.fixed[depth])
            stack.nodes[depth].branch, stack.nodes[depth].target = j, 1 - state.target
            depth += 1
            continue
        if depth == 0:
            return held, True
        depth -= 1
        copy(stack.pattern[depth], pattern)
        copy(stack.sign[depth], node.sign)
        copy(stack.fixed[depth], fixed)
        state.branch, state.target = stack.nodes[depth].branch, stack.nodes[depth].target
    return held, False


@merged
def entered(program: refit.Program, node: refit.Node, state: Row) -> bool:
    """Fix the node's variable and update its system. False: the count cannot be met any more."""
    state.size = refit.build(program.matrix, node.system)
    possible = True
    if state.branch >= 0:
        node.fixed[state.branch] = state.target
        possible = reachable(node.fixed, program.keep)
        if possible:
            fill(node.spread, 0.0)
            refit.pattern_point(program, node, state.size)
            take_target(program, node, state)
    return possible


@merged
def dearest_or_nearest(node: refit.Node, state: Row) -> int:
    """The weight to branch on: the tie dearest to prune, else the free weight nearest the threshold; −1: none."""
    tau = np.sqrt(state.level)
    j = -1
    if state.tied > 0:
        j = dearest_to_prune(node, state.size, tau)
    if j < 0:
        for i in range(node.fixed.size):
            nearer = j < 0 or abs(abs(node.rho[i]) - tau) < abs(abs(node.rho[j]) - tau)
            if node.fixed[i] == FREE and nearer:
                j = i
    return j


@merged
def fixed_by_levels(program: refit.Program, node: refit.Node, state: Row, cut: float) -> bool:
    """Fix weights (except the branching one) whose other value would cost `cut`. Whether any was fixed."""
    pattern, rho, fixed = node.system.pattern, node.rho, node.fixed
    current = refit.dual_bound(program, fixed, node.y, rho, state.level)
    useful = False
    for i in range(fixed.size):
        if fixed[i] == FREE and i != state.branch:
            reduced = 0.5 * (state.level - rho[i] * rho[i])
            if pattern[i] == refit.OUT and current + reduced >= cut:
                fixed[i] = 0
                useful = True
            elif pattern[i] == refit.IN and current - reduced >= cut:
                fixed[i] = 1
                useful = True
    return useful
