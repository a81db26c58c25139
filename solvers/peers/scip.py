"""SCIP on the block as a mixed-integer quadratic program, through PySCIPOpt.

Bolusani et al.: The SCIP Optimization Suite 9.0, ZIB report 24-02-29, 2024.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.solvers.peers.model import Quadratic, mask_of, rows, too_large

MAX_SIZE = 256
"""Most weights: the objective is written product by product, p²/2 of them."""


@register
@dataclass(frozen=True, kw_only=True)
class Scip(Solver):
    """SCIP by its own settings, one thread; in mode refit with bounds on the weights from the best mask so far.

    Give it a limit: without one it has searched for minutes on eight weights in awkward units.
    Its bound and its word "optimal" are its own and are not proved here. `branch-and-bound` proves larger blocks.
    """

    name = "scip"
    takes = frozenset({Count, Quota})
    requires = ("pyscipopt",)
    install = "pip install 'prunebench[peers]'"
    max_size = MAX_SIZE
    reference = "Bolusani et al. 2024"

    def refuses(self, block: Any) -> str:
        """More weights than products are written for."""
        return too_large(block, MAX_SIZE)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Every better solution that SCIP finds."""
        import pyscipopt

        with best.building():
            held = Quadratic.of(best)
            model, kept = _model(pyscipopt, best, held)

        def look() -> None:
            solution = model.getBestSol()
            values = np.array([model.getSolVal(solution, variable) for variable in kept])
            best.offer(mask_of(best.block, values), "scip")
            if best.stop():
                model.interruptSolve()

        model.includeEventhdlr(_handler(pyscipopt, look), "better", "offers each better solution")
        if np.isfinite(best.remaining):
            # 1: processor seconds, 2: wall-clock seconds
            model.setParam("timing/clocktype", 1 if best.budget.cpu else 2)
            model.setParam("limits/time", best.remaining)
        if np.isfinite(best.budget.evaluations):
            model.setParam("limits/nodes", max(1, int(min(best.budget.evaluations, 2**40))))
        model.optimize()
        status = str(model.getStatus())
        best.details["claims"] = status
        bound = held.value(float(model.getDualbound()))
        if np.isfinite(bound):
            best.details["claimed_bound"] = bound
        kind = {"timelimit": StopKind.TIME, "nodelimit": StopKind.EVALUATIONS, "userinterrupt": StopKind.TIME}
        return Stop(kind.get(status, StopKind.FINISHED), f"SCIP says {status}")


def _model(scip: Any, best: Incumbent, held: Quadratic) -> tuple[Any, list[Any]]:
    """The model, and for each weight an expression that is 1 where it is kept: SCIP's variables of the mask."""
    block = best.block
    model = scip.Model()
    model.hideOutput()
    kept = [model.addVar(vtype="B") for _ in range(block.p)]
    for members, count in rows(block):
        model.addCons(scip.quicksum(kept[i] for i in members) == count)
    if held.reach is None:
        # the program speaks of what is pruned
        moved = [1 - variable for variable in kept]
    else:
        moved = [model.addVar(lb=-float(most), ub=float(most)) for most in held.reach]
        for variable, mark, most in zip(moved, kept, held.reach, strict=True):
            model.addCons(variable <= float(most) * mark)
            model.addCons(variable >= -float(most) * mark)
    level = model.addVar(lb=None)
    matrix, linear = held.matrix, held.linear
    terms = [float(linear[i]) * moved[i] + 0.5 * float(matrix[i, i]) * moved[i] * moved[i] for i in range(block.p)]
    terms += [
        float(matrix[i, j]) * moved[i] * moved[j] for i in range(block.p) for j in range(i + 1, block.p) if matrix[i, j]
    ]
    model.addCons(level >= scip.quicksum(terms))
    model.setObjective(level)
    return model, kept


def _handler(scip: Any, look: Any) -> Any:
    """An event handler that calls `look` whenever SCIP has a better solution."""

    class Better(scip.Eventhdlr):  # type: ignore[misc]  # pyscipopt has no types
        """Called by SCIP."""

        def eventinit(self) -> None:
            """Subscribe."""
            self.model.catchEvent(scip.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexit(self) -> None:
            """Unsubscribe."""
            self.model.dropEvent(scip.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexec(self, event: Any) -> None:
            """A better solution is there."""
            look()

    return Better()
