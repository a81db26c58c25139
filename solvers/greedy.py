"""Greedy elimination: prune one weight at a time, always the one whose loss is smallest, with all couplings.

Backward elimination repeats the selection step of Optimal Brain Damage after every removal and includes
the pair terms that it neglects (Le Cun, Denker, Solla, NeurIPS 1989, §2; Yu et al.: The Combinatorial
Brain Surgeon, ICML 2022, §4, for the objective).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, times
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.keeping import Count
from prunebench.core.qubo import Qubo
from prunebench.core.solver import Incumbent, Solver, Stop, register

LOOK_EVERY = 16
"""Removals between two looks at the clock."""


@register
@dataclass(frozen=True, kw_only=True)
class Greedy(Solver):
    """Change one weight at a time until exactly `keep` are kept, the cheapest first.

    Within a budget: backward until it is met, the least loss per saving first, then what fits and lowers the loss
    comes back; forward while something fits and lowers the loss, the most gain per cost first. What raises the loss
    by being kept is pruned at the end.

    Solves mode select; in mode refit the mask is refitted. Proves nothing; deterministic. Each
    removal or addition costs p on a matrix and 2np on the factor. When the time is used up, the rest is
    decided by the current fields.
    """

    name = "greedy"
    modes = frozenset({"select"})
    baseline = True
    whole_at_limit = True
    takes = frozenset({Count, Cost})
    reference = "Le Cun, Denker, Solla, NeurIPS 1989; Yu et al., ICML 2022"

    direction: Literal["backward", "forward"] = "backward"
    """backward: from all kept, prune the cheapest; forward: from none, keep the most useful."""

    def refuses(self, block: BlockProblem) -> str:
        """An unknown direction."""
        if self.direction not in ("backward", "forward"):
            return f"direction is {self.direction!r}; choose backward or forward"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """One weight at a time; when the time is used up, the rest at once."""
        budget = best.block.budget
        mask, stop = self._descend(best) if budget is None else self._within(best, budget)
        best.offer(mask, "greedy")
        best.details = {"greedy": best.objectives["greedy"]}
        return stop

    def _descend(self, best: Incumbent) -> tuple[BoolArray, Stop]:
        block = best.block
        qubo = block.to_qubo()
        removing = self.direction == "backward"
        mask = np.full(block.p, removing, dtype=np.bool_)
        steps = block.p - block.keep if removing else block.keep
        coupling = _Couplings(qubo)
        # field_i: change of E when weight i is added to the other kept ones
        field = qubo.linear + (coupling.sums() if removing else 0.0)
        for step in range(steps):
            stop = best.stop(step) if step % LOOK_EVERY == 0 else None
            if stop:
                _finish(mask, field, steps - step, removing)
                return mask, stop.also(f"the last {steps - step} by their fields")
            candidates = np.where(mask, -field, np.inf) if removing else np.where(mask, np.inf, field)
            at = int(np.argmin(candidates))
            mask[at] = not removing
            row = coupling.row(at)
            field = field - row if removing else field + row
        return mask, Stop.finished(f"{'pruned' if removing else 'kept'} {steps} weights one at a time")

    def _within(self, best: Incumbent, budget: Cost) -> tuple[BoolArray, Stop]:
        """The same within a budget; a limit ends it with the weights that are decided, repaired to fit."""
        block = best.block
        qubo = block.to_qubo()
        coupling = _Couplings(qubo)
        removing = self.direction == "backward"
        mask = np.full(block.p, removing, dtype=np.bool_)
        field = qubo.linear + (coupling.sums() if removing else 0.0)
        for step in range(2 * block.p):
            stop = best.stop(step) if step % LOOK_EVERY == 0 else None
            if stop:
                return budget.repair(mask, np.where(mask, -field, 0.0)), stop.also("the rest by their fields")
            removing = removing and not budget.feasible(mask)
            at = _next(budget, mask, field, removing)
            if at < 0:
                # nothing fits and helps: what raises the loss by being kept is pruned
                at = int(np.argmin(np.where(mask, -field, np.inf)))
                if not (mask[at] and field[at] > 0.0):
                    break
            mask[at] = not mask[at]
            field = field + coupling.row(at) if mask[at] else field - coupling.row(at)
        return mask, Stop.finished(f"kept {int(mask.sum())} weights within the budget, one change at a time")


def _next(budget: Cost, mask: BoolArray, field: FloatArray, removing: bool) -> int:
    """The weight to prune (least loss per saving in the exceeded budgets) or to keep (most gain per cost); −1: none."""
    spent = budget.spent(mask)
    unit = np.maximum(budget.allowed, 1e-300)
    if removing:
        saved = (budget.costs / unit[:, None])[spent > budget.allowed].sum(axis=0)
        loss = -field
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(saved > 0.0, np.where(loss > 0.0, loss / saved, loss * saved), np.inf)
        return int(np.argmin(np.where(mask, worth, np.inf)))
    fits = ~mask & (spent[:, None] + budget.costs <= budget.safe[:, None]).all(axis=0) & (field < 0.0)
    if not fits.any():
        return -1
    share = (budget.costs / unit[:, None]).sum(axis=0)
    with np.errstate(divide="ignore"):
        return int(np.argmax(np.where(fits, -field / share, -np.inf)))


class _Couplings:
    """Rows of J, from the matrix if it is stored, otherwise from the factor."""

    def __init__(self, qubo: Qubo) -> None:
        small = qubo.factor is None or qubo.p <= 2 * qubo.factor.shape[0] or qubo.p <= 2048
        self._matrix = qubo.couplings if small else None
        self._columns = None if small else qubo.scaled_factor()

    def row(self, at: int) -> FloatArray:
        """J[at], float64 (p,), with zero at position `at`."""
        if self._matrix is not None:
            return np.asarray(self._matrix[at])
        assert self._columns is not None
        out = self._columns.T @ self._columns[:, at]
        out[at] = 0.0
        return np.asarray(out)

    def sums(self) -> FloatArray:
        """J·1, float64 (p,)."""
        if self._matrix is not None:
            return np.asarray(self._matrix.sum(axis=1))
        assert self._columns is not None
        whole = times(self._columns, np.ones(self._columns.shape[1]))
        own = np.einsum("ij,ij->j", self._columns, self._columns)
        return np.asarray(self._columns.T @ whole - own)


def _finish(mask: BoolArray, field: FloatArray, count: int, removing: bool) -> None:
    """Make the remaining decisions at once, by the current fields."""
    if count == 0:
        return
    candidates = np.where(mask, -field, np.inf) if removing else np.where(mask, np.inf, field)
    mask[np.argpartition(candidates, count - 1)[:count]] = not removing
