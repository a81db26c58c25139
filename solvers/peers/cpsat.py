"""CP-SAT of OR-Tools on the block with whole coefficients, a variable for every product.

Perron, Didier, Gay: The CP-SAT-LP solver, CP 2023.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.solvers.peers.model import Quadratic, mask_of, rows, too_large

MAX_SIZE = 256
"""Most weights: each product of two is a variable, p²/2 of them."""
LARGEST = 2.0**30
"""What the largest coefficient becomes before it is rounded to a whole number: sums of all stay far below 2^63."""
LOOK_SECONDS = 0.05
"""Wall seconds between two looks at a budget of processor seconds."""


@register
@dataclass(frozen=True, kw_only=True)
class CpSat(Solver):
    """CP-SAT, one worker. Coefficients are rounded to whole numbers, so that its bound is one of a rounded problem.

    It only chooses masks; in mode refit a bridge refits them.
    """

    name = "cp-sat"
    modes = frozenset({"select"})
    stochastic = True
    takes = frozenset({Count, Quota})
    requires = ("ortools",)
    install = "pip install 'prunebench[peers]'"
    max_size = MAX_SIZE
    reference = "Perron, Didier, Gay 2023"

    def refuses(self, block: Any) -> str:
        """More weights than there are products for."""
        return too_large(block, MAX_SIZE)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Every better solution that CP-SAT finds."""
        from ortools.sat.python import cp_model

        with best.building():
            held = Quadratic.of(best)
            model, kept, unit = _model(cp_model, best, held)
            solver = cp_model.CpSolver()
            solver.parameters.num_workers = 1
            solver.parameters.random_seed = int(rng.integers(2**31 - 1))
            if np.isfinite(best.wall_remaining):
                solver.parameters.max_time_in_seconds = max(best.wall_remaining, 1e-3)
            if np.isfinite(best.budget.evaluations):
                solver.parameters.max_number_of_conflicts = max(1, int(min(best.budget.evaluations, 2**40)))
        watch = _watch(cp_model, best, kept)
        done = threading.Event()
        looker = threading.Thread(target=_look, args=(best, watch, done), daemon=True)
        looker.start()
        try:
            status = solver.solve(model, watch)
        finally:
            done.set()
            looker.join()
        words = solver.status_name(status).lower()
        best.details["claims"] = words
        if status == cp_model.OPTIMAL or np.isfinite(best.budget.seconds):
            best.details["claimed_bound"] = held.value(float(solver.best_objective_bound) * unit)
        if status == cp_model.OPTIMAL:
            return Stop.finished("CP-SAT says optimal")
        kind = StopKind.TIME if best.stop() is None or np.isfinite(best.budget.seconds) else StopKind.EVALUATIONS
        return Stop(kind, f"CP-SAT says {words}")


def _model(cp: Any, best: Incumbent, held: Quadratic) -> tuple[Any, list[Any], float]:
    """The model, the variables of what is kept, and what a whole unit of its objective is worth."""
    block = best.block
    model = cp.CpModel()
    kept = [model.new_bool_var(f"m{i}") for i in range(block.p)]
    for members, count in rows(block):
        model.add(sum(kept[i] for i in members) == count)
    # pruned z = 1 − kept: ½ z'Qz + linear'z over kept m
    sums = held.matrix.sum(axis=1)
    linear = 0.5 * held.matrix.diagonal() - (held.linear + sums)
    constant = float(held.linear.sum() + 0.5 * sums.sum())
    upper = np.triu(held.matrix, 1)
    unit = max(float(np.abs(upper).max(initial=0.0)), float(np.abs(linear).max(initial=0.0)), 1e-300) / LARGEST
    terms = [round(linear[i] / unit) * kept[i] for i in range(block.p)]
    for i, j in zip(*np.nonzero(upper), strict=True):
        weight = round(upper[i, j] / unit)
        if not weight:
            continue
        both = model.new_bool_var("")
        # minimised, a positive product needs to be at least both, a negative one at most each
        if weight > 0:
            model.add_bool_or([kept[i].Not(), kept[j].Not(), both])
        else:
            model.add_implication(both, kept[i])
            model.add_implication(both, kept[j])
        terms.append(weight * both)
    model.minimize(sum(terms) + round(constant / unit))
    return model, kept, unit


def _watch(cp: Any, best: Incumbent, kept: list[Any]) -> Any:
    """A callback that offers each better solution."""

    class Watch(cp.CpSolverSolutionCallback):  # type: ignore[misc]  # ortools has no types here
        """Called by CP-SAT."""

        def on_solution_callback(self) -> None:
            """A better solution is there."""
            values = np.array([float(self.value(variable)) for variable in kept])
            best.offer(mask_of(best.block, values), "cp-sat")
            if best.stop():
                self.stop_search()

    return Watch()


def _look(best: Incumbent, watch: Any, done: threading.Event) -> None:
    """Stop the search when the budget is used up; CP-SAT itself counts wall-clock seconds only."""
    while not done.wait(LOOK_SECONDS):
        if best.stop():
            watch.stop_search()
            return
