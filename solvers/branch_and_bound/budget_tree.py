"""The compiled dive of branch and bound within budgets: bound, fix, round, branch, depth first."""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.compiled import compiled
from prunebench.kernels.relaxations.budget_relaxation import FREE, BudgetProgram, Pattern, gradient, solve_relaxation

ROUND_EVERY = 16
"""One in this many nodes has its point rounded to a mask; at all it would cost as much as the bounds."""
SWEEPS = 6
"""Sweeps of descent at a node: its point starts from its parent's, which is near."""


class BudgetNodes(NamedTuple):
    """Waiting nodes, one a row: what is fixed (int8), the parent's point and prices, and its bound.

    fixed : int8 (r, p), FREE, 0 kept or 1 pruned;  x : float64 (r, p);  prices : float64 (r, k);  bound : float64 (r,)
    """

    fixed: Pattern
    x: FloatArray
    prices: FloatArray
    bound: FloatArray

    @staticmethod
    def of(rows: int, p: int, budgets: int) -> "BudgetNodes":
        """Space for nodes."""
        return BudgetNodes(np.empty((rows, p), np.int8), np.empty((rows, p)), np.empty((rows, budgets)), np.empty(rows))

    def row(self, at: int) -> "BudgetNodes":
        """One node as a copy."""
        one = slice(at, at + 1)
        return BudgetNodes(self.fixed[one].copy(), self.x[one].copy(), self.prices[one].copy(), self.bound[one].copy())

    def load(self, node: "BudgetNodes") -> None:
        """Write a node, such as `row` gives, to the first row."""
        self.fixed[0], self.x[0], self.prices[0], self.bound[0] = (
            node.fixed[0],
            node.x[0],
            node.prices[0],
            node.bound[0],
        )


class BudgetDive(NamedTuple):
    """Space and state of a dive, in arrays that the compiled loop changes.

    depth : int64 (1,)              nodes waiting
    best : float64 (3,)             the incumbent's value, the smallest bound of single masks below the cut-off, and
                                    the bound at the present node's point
    mask : float64 (p,)             the incumbent if the dive improved it, 1 where pruned
    x, grad, prices, trial, slope : of the present node
    costs : float64 (k, p), raw;  safe, unsafe : (k,), the limits for accepting a mask and for cutting one off
    """

    depth: IndexArray
    best: FloatArray
    mask: FloatArray
    x: FloatArray
    fixed: Pattern
    grad: FloatArray
    prices: FloatArray
    trial: FloatArray
    slope: FloatArray
    costs: FloatArray
    safe: FloatArray
    unsafe: FloatArray


@compiled()
def dive(program: BudgetProgram, stack: BudgetNodes, work: BudgetDive, margin: float, limit: int) -> int:
    """Search below the nodes on the stack, the last first, at most `limit` nodes. -> how many

    A node is cut off if its safe bound is at least best − margin. What is left stays on the stack.
    """
    nodes = 0
    while work.depth[0] > 0 and nodes < limit:
        work.depth[0] -= 1
        at = work.depth[0]
        parent = stack.bound[at]
        if parent >= work.best[0] - margin:
            continue
        nodes += 1
        take(stack, at, work)
        if not forced(work):
            continue
        work.best[2] = solve_relaxation(program, work.fixed, work.x, work.grad, work.prices, SWEEPS)
        bound = max(parent, work.best[2])
        if bound >= work.best[0] - margin:
            continue
        if nodes % ROUND_EVERY == 1:
            rounded(program, work)
        fix_by_costs(program, work, work.best[0] - margin)
        branch = fractional(program, work)
        if branch < 0:
            single(program, work, bound)
            continue
        first = 1 if work.x[branch] > 0.5 else 0
        push(stack, work, branch, 1 - first, bound)
        push(stack, work, branch, first, bound)
    return nodes


@compiled(inner=True)
def take(stack: BudgetNodes, at: int, work: BudgetDive) -> None:
    """Copy a waiting node into the workspace."""
    for i in range(work.x.size):
        work.x[i], work.fixed[i] = stack.x[at, i], stack.fixed[at, i]
    for k in range(work.prices.size):
        work.prices[k] = stack.prices[at, k]


@compiled(inner=True)
def push(stack: BudgetNodes, work: BudgetDive, branch: int, value: int, bound: float) -> None:
    """Put the present node on the stack, with one variable more fixed."""
    at = work.depth[0]
    for i in range(work.x.size):
        stack.x[at, i], stack.fixed[at, i] = work.x[i], work.fixed[i]
    for k in range(work.prices.size):
        stack.prices[at, k] = work.prices[k]
    stack.fixed[at, branch] = value
    stack.bound[at] = bound
    work.depth[0] += 1


@compiled(inner=True)
def forced(work: BudgetDive) -> bool:
    """Prune what no longer fits beside what is kept. False: what is kept exceeds a budget."""
    for k in range(work.safe.size):
        spent = 0.0
        for i in range(work.x.size):
            if work.fixed[i] == 0:
                spent += work.costs[k, i]
        if spent > work.unsafe[k]:
            return False
        for i in range(work.x.size):
            if work.fixed[i] == FREE and spent + work.costs[k, i] > work.unsafe[k]:
                work.fixed[i] = 1
    return True


@compiled(inner=True)
def fix_by_costs(program: BudgetProgram, work: BudgetDive, cut: float) -> None:
    """Fix variables whose other value would raise the linearisation's bound to the cut-off."""
    for i in range(work.x.size):
        if work.fixed[i] == FREE:
            reduced = work.grad[i]
            for k in range(work.prices.size):
                reduced -= work.prices[k] * program.costs[k, i]
            # these costs belong to the bound at this point, which the parent's may exceed
            if reduced > 0.0 and work.best[2] + reduced >= cut:
                work.fixed[i] = 0
            elif reduced < 0.0 and work.best[2] - reduced >= cut:
                work.fixed[i] = 1


@compiled(inner=True)
def fractional(program: BudgetProgram, work: BudgetDive) -> int:
    """The free variable whose fixing moves most: far from 0 and 1, and curved; any free one else; −1: none."""
    best, found = -1.0, -1
    for i in range(work.x.size):
        if work.fixed[i] == FREE:
            value = work.x[i]
            score = min(value, 1.0 - value) * (program.matrix[i, i] + abs(work.grad[i]) + 1e-300)
            if score > best:
                best, found = score, i
    return found


@compiled(inner=True)
def single(program: BudgetProgram, work: BudgetDive, bound: float) -> None:
    """The node's only mask: the incumbent if it is better and surely within the budgets; its own bound counts."""
    for i in range(work.x.size):
        work.trial[i] = float(work.fixed[i])
    if spends_within(work, work.unsafe):
        value = value_of_trial(program, work)
        work.best[1] = min(work.best[1], max(bound, value - program.rounding))
        if spends_within(work, work.safe):
            accept(program, work)


@compiled(inner=True)
def rounded(program: BudgetProgram, work: BudgetDive) -> None:
    """Round the point, prune further what costs least per saving until it fits, and take it if it is better."""
    for i in range(work.x.size):
        work.trial[i] = 1.0 if work.x[i] > 0.5 else 0.0
    for k in range(work.safe.size):
        for _ in range(work.x.size):
            spent = 0.0
            for i in range(work.x.size):
                if work.trial[i] == 0.0:
                    spent += work.costs[k, i]
            if spent <= work.safe[k]:
                break
            best, found = np.inf, -1
            for i in range(work.x.size):
                if work.trial[i] == 0.0 and work.fixed[i] == FREE and work.costs[k, i] > 0.0:
                    score = (1.0 - work.x[i]) / work.costs[k, i]
                    if score < best:
                        best, found = score, i
            if found < 0:
                return
            work.trial[found] = 1.0
    if spends_within(work, work.safe):
        accept(program, work)


@compiled(inner=True)
def accept(program: BudgetProgram, work: BudgetDive) -> None:
    """Make the trial the incumbent if it is better."""
    value = value_of_trial(program, work)
    if value < work.best[0]:
        work.best[0] = value
        for i in range(work.trial.size):
            work.mask[i] = work.trial[i]


@compiled(inner=True)
def value_of_trial(program: BudgetProgram, work: BudgetDive) -> float:
    """The objective of the trial."""
    gradient(program, work.trial, work.slope)
    value = 0.0
    for i in range(work.trial.size):
        value += 0.5 * work.trial[i] * (program.linear[i] + work.slope[i])
    return value


@compiled(inner=True)
def spends_within(work: BudgetDive, limits: FloatArray) -> bool:
    """Whether what the trial keeps costs no more than the limits."""
    for k in range(limits.size):
        spent = 0.0
        for i in range(work.trial.size):
            if work.trial[i] == 0.0:
                spent += work.costs[k, i]
        if spent > limits[k]:
            return False
    return True


def workspace(p: int, costs: FloatArray, safe: FloatArray, unsafe: FloatArray) -> BudgetDive:
    """The workspace of dives of p variables."""
    return BudgetDive(
        np.zeros(1, np.int64), np.full(3, np.inf), np.zeros(p), np.empty(p), np.empty(p, np.int8), np.empty(p),
        np.empty(safe.size), np.empty(p), np.empty(p), costs, safe, unsafe,
    )  # fmt: skip


def pruned_mask(work: BudgetDive) -> BoolArray:
    """The incumbent of a dive as a mask, true where kept."""
    return np.asarray(work.mask < 0.5)
