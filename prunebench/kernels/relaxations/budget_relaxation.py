"""The select relaxation where budgets, not a count, say what may be kept: a solver for it, and its safe bound.

    minimise ½x'Mx + g'x  over 0 <= x <= 1 with costs·x >= need,     M positive semidefinite.

x is 1 where a weight is pruned; what is pruned must cost at least the excess of all weights over the limit. The
relaxation is solved by coordinate descent on its augmented Lagrangian (Rockafellar: The multiplier method of Hestenes
and Powell applied to convex programming, J. Optim. Theory Appl. 12, 1973). The bound needs no exact solution: it is the
linearisation at any point, minimised over the fractional knapsack (Dantzig: Discrete-variable extremum problems,
Operations Research 5, 1957) by multipliers of the budgets, minus all possible rounding.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.compiled import compiled
from prunebench.kernels.relaxations.programs import HALF_ULP, SelectProgram
from prunebench.kernels.relaxations.shift import certified_shift, plane_shift

FREE = -1
"""Marks a variable that is not fixed to 0 or 1."""
ROOT_SWEEPS = 400
"""Most sweeps of coordinate descent at the root: its point is where every other begins."""
ROUNDS = 2
"""How often the shift is improved for better prices of the budgets; a third round gained less than a hundredth."""
SETTLED = 1e-4
"""Largest move of a variable in a sweep after which descent stops."""
MET = 1e-5
"""Largest violation of a budget, as a share of all costs, with which it stops."""
HALVINGS = 60
"""Bisections of a budget's price: beyond float64's digits."""

Pattern = npt.NDArray[np.int8]


class BudgetProgram(NamedTuple):
    """minimise ½x'Mx + g'x over binaries with costs·x >= need.

    matrix : float64 (p, p)    M, positive semidefinite
    linear : float64 (p,)      g
    costs : float64 (k, p)     of each weight, as shares of the cost of all
    need : float64 (k,)        what has to be pruned, never above the exact number
    weight : float64 (k,)      of the squared violation in the augmented Lagrangian
    rounding : float           error bound of the objective and its linearisations at any point
    missing : float64 (k,)     space for what a point lacks of the need
    unit : float64 (k,)        what all weights cost
    """

    matrix: FloatArray
    linear: FloatArray
    costs: FloatArray
    need: FloatArray
    weight: FloatArray
    rounding: float
    missing: FloatArray
    unit: FloatArray


@dataclass(frozen=True, eq=False)
class BudgetRoot:
    """The root relaxation. program : with the shift;  shift, point : (p,);  prices : (k,);  bound : safe, scaled"""

    program: BudgetProgram
    shift: FloatArray
    point: FloatArray
    prices: FloatArray
    bound: float

    def proof(self, scale: float) -> dict[str, FloatArray]:
        """The certificate's shift, point and prices, in the block's units. scale : of the program"""
        shares = self.program.unit
        return {"shift": self.shift / scale, "point": self.point, "prices": self.prices / (shares * scale)}


def root_relaxation(program: SelectProgram, budget: Cost, upper: float, stop: StopCheck = never) -> BudgetRoot:
    """The relaxation with the best shift found: of the spectrum, or of a semidefinite program at the budgets' prices.

    upper : the incumbent's value, scaled. O(p³) an iteration of the semidefinite program.
    """
    quadratic = program.quadratic
    diagonal = np.maximum(quadratic.diagonal(), 1e-12 * max(float(np.abs(quadratic).max(initial=0.0)), 1e-300))
    unit = 1.0 / np.sqrt(diagonal)
    lowest = float(np.linalg.eigvalsh(quadratic * unit[:, None] * unit)[0]) if quadratic.any() else 0.0
    best = _relaxed(program, budget, -lowest * diagonal)
    for _ in range(ROUNDS):
        if stop(0.0):
            break
        priced = program.linear - best.prices @ best.program.costs
        paid = float(best.prices @ best.program.need)
        found = plane_shift(quadratic, priced, None, upper - paid, 1e-4, stop).diagonal
        tried = _relaxed(program, budget, found) if np.isfinite(found).all() else best
        if not tried.bound > best.bound:
            break
        best = tried
    return best


def _relaxed(program: SelectProgram, budget: Cost, shift: FloatArray) -> BudgetRoot:
    """The relaxation with one shift, solved."""
    shift = certified_shift(program.quadratic, shift, everywhere=True)
    made = budget_program(program, budget, shift)
    p = shift.size
    fixed = np.full(p, FREE, np.int8)
    point, gradient, prices = np.full(p, 0.5), np.empty(p), np.zeros(made.need.size)
    bound = solve_relaxation(made, fixed, point, gradient, prices, ROOT_SWEEPS)
    return BudgetRoot(made, shift, point, prices, float(bound))


def budget_program(program: SelectProgram, budget: Cost, shift: FloatArray) -> BudgetProgram:
    """The shifted program with the budgets as shares of what all weights cost; a budget that all meet needs nothing."""
    p = shift.size
    matrix = np.array(program.quadratic)
    matrix[np.diag_indices(p)] += shift
    linear = program.linear - 0.5 * shift
    whole = budget.costs.sum(axis=1)
    unit = np.where(whole > 0.0, whole, 1.0)
    costs = budget.costs / unit[:, None]
    # sums of p shares, their division and the limit round by less than that
    need = np.maximum(1.0 - budget.allowed / unit - 4.0 * (p + 8) * HALF_ULP, 0.0)
    curve = max(float(np.abs(matrix).mean()) * p, float(np.abs(linear).mean()), 1e-300)
    weight = 10.0 * curve / np.maximum((costs**2).sum(axis=1), 1e-300)
    size = float(np.abs(matrix).sum() + np.abs(linear).sum() + np.abs(shift).sum())
    rounding = program.rounding + 4.0 * HALF_ULP * (p + 16) * size
    return BudgetProgram(matrix, linear, costs, need, weight, rounding, np.empty(need.size), unit)


def root_of(block: BlockProblem, budget: Cost, stop: StopCheck = never) -> tuple[SelectProgram, BudgetRoot]:
    """The root relaxation of a block in mode select, and the program that says what its numbers mean."""
    upper = block.evaluate(block.incumbent)
    program = SelectProgram.of(block, upper).widened(block)
    return program, root_relaxation(program, budget, program.inner(upper), stop)


@compiled()
def solve_relaxation(
    program: BudgetProgram, fixed: Pattern, x: FloatArray, grad: FloatArray, prices: FloatArray, sweeps: int
) -> float:
    """Move x and the prices towards the relaxation's solution, from what they hold. -> the safe bound there

    x (p,), prices (k,) : changed in place; fixed variables take their value;  grad (p,) : overwritten
    """
    for i in range(x.size):
        if fixed[i] != FREE:
            x[i] = float(fixed[i])
    gradient(program, x, grad)
    descend(program, fixed, x, grad, prices, sweeps)
    gradient(program, x, grad)
    reprice(program, fixed, grad, prices)
    return safe_bound(program, fixed, x, grad, prices)


@compiled(fast=True)
def gradient(program: BudgetProgram, x: FloatArray, out: FloatArray) -> None:
    """out = g + Mx, skipping the zeros of x."""
    matrix, linear = program.matrix, program.linear
    for i in range(out.size):
        out[i] = linear[i]
    for j in range(x.size):
        value = x[j]
        if value != 0.0:
            for i in range(out.size):
                out[i] += value * matrix[j, i]


@compiled(inner=True)
def descend(
    program: BudgetProgram, fixed: Pattern, x: FloatArray, grad: FloatArray, prices: FloatArray, sweeps: int
) -> None:
    """Sweeps of coordinate descent on the augmented Lagrangian; after each, the prices follow the violations."""
    matrix, costs, weight, missing = program.matrix, program.costs, program.weight, program.missing
    budgets, p = missing.size, x.size
    for _ in range(sweeps):
        lacking(program, x, missing)
        furthest, violated = 0.0, 0.0
        for i in range(p):
            if fixed[i] == FREE:
                slope, curve = grad[i], matrix[i, i]
                for k in range(budgets):
                    slope -= costs[k, i] * max(0.0, prices[k] + weight[k] * missing[k])
                    curve += weight[k] * costs[k, i] * costs[k, i]
                to = 0.0
                if curve > 0.0:
                    to = min(1.0, max(0.0, x[i] - slope / curve))
                elif slope < 0.0:
                    to = 1.0
                moved = to - x[i]
                if moved != 0.0:
                    x[i] = to
                    furthest = max(furthest, abs(moved))
                    for j in range(p):
                        grad[j] += moved * matrix[i, j]
                    for k in range(budgets):
                        missing[k] -= moved * costs[k, i]
        for k in range(budgets):
            before = prices[k]
            prices[k] = max(0.0, before + weight[k] * missing[k])
            violated = max(violated, abs(prices[k] - before) / weight[k])
        if furthest < SETTLED and violated < MET:
            break


@compiled(inner=True)
def lacking(program: BudgetProgram, x: FloatArray, out: FloatArray) -> None:
    """out = need − costs·x, by budget."""
    for k in range(out.size):
        out[k] = program.need[k]
        for j in range(x.size):
            out[k] -= program.costs[k, j] * x[j]


@compiled(inner=True)
def reprice(program: BudgetProgram, fixed: Pattern, grad: FloatArray, prices: FloatArray) -> None:
    """Each budget's price in turn where the linearisation's knapsack is exactly full, by bisection."""
    costs, need = program.costs, program.need
    for k in range(need.size):
        high = 0.0
        for i in range(grad.size):
            if fixed[i] == FREE and costs[k, i] > 0.0:
                high = max(high, (grad[i] - others(costs, prices, k, i)) / costs[k, i])
        low = 0.0
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            pruned = 0.0
            for i in range(grad.size):
                if fixed[i] == 1 or (fixed[i] == FREE and grad[i] - others(costs, prices, k, i) < middle * costs[k, i]):
                    pruned += costs[k, i]
            if pruned < need[k]:
                low = middle
            else:
                high = middle
        prices[k] = high


@compiled(inner=True)
def others(costs: FloatArray, prices: FloatArray, own: int, i: int) -> float:
    """What a weight's cost in all budgets but one is worth at their prices."""
    total = 0.0
    for k in range(prices.size):
        if k != own:
            total += prices[k] * costs[k, i]
    return total


@compiled(inner=True)
def safe_bound(program: BudgetProgram, fixed: Pattern, x: FloatArray, grad: FloatArray, prices: FloatArray) -> float:
    """A lower bound over the node's binaries: the linearisation at x with the budgets priced, minimised over the box.

    Valid at any x and any prices >= 0.
    """
    linear, costs, need = program.linear, program.costs, program.need
    p, budgets = x.size, need.size
    total, size = 0.0, 0.0
    for k in range(budgets):
        total += prices[k] * need[k]
        size += prices[k] * need[k]
    for i in range(p):
        half = 0.5 * x[i] * (linear[i] - grad[i])
        total += half
        size += abs(half)
        if fixed[i] != 0:
            reduced = grad[i]
            held = abs(grad[i])
            for k in range(budgets):
                reduced -= prices[k] * costs[k, i]
                held += prices[k] * costs[k, i]
            size += held
            if fixed[i] == 1 or reduced < 0.0:
                total += reduced
    return total - program.rounding - HALF_ULP * (p + 2 * budgets + 16) * 2.0 * size
