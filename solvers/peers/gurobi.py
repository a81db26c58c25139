"""Gurobi on the block as a mixed-integer quadratic program; the package's own licence is limited in size.

Gurobi Optimizer reference manual, https://docs.gurobi.com.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.errors import Refusal, RefusalKind, SolverFailed
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, refused, register
from prunebench.core.stop import StopKind
from prunebench.solvers.peers.model import Quadratic, mask_of, rows, too_large

MAX_SIZE = 2000
"""Most weights: variables that the licence of the package allows."""
SIZE_LIMITED = 10010
"""Gurobi's code for a model that is too large for the licence."""
INTEGER = 1e-9
"""Tolerance on whole numbers: the usual 1e-5 is as large as the differences between good masks."""


@register
@dataclass(frozen=True, kw_only=True)
class Gurobi(Solver):
    """Gurobi, one thread; in mode refit with bounds on the weights from the best mask so far.

    The licence that comes with the package allows 2000 variables, and fewer where the objective is quadratic; larger
    blocks are refused when Gurobi says so. Its bound and its word "optimal" are its own and are not proved here.
    """

    name = "gurobi"
    takes = frozenset({Count, Quota})
    requires = ("gurobipy",)
    install = "pip install 'prunebench[peers]'"
    max_size = MAX_SIZE
    reference = "Gurobi Optimizer reference manual"

    def refuses(self, block: Any) -> str:
        """More weights than any licence of the package allows."""
        return too_large(block, MAX_SIZE)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Every better solution that Gurobi finds.

        Raises
        ------
        SolverRefused   the licence does not allow a model of this size
        SolverFailed    Gurobi raised another error, such as that there is no licence
        """
        import gurobipy as gurobi

        try:
            with best.building():
                held = Quadratic.of(best)
            with gurobi.Env(params={"OutputFlag": 0}) as env, gurobi.Model(env=env) as model:
                return _run(gurobi, model, best, held)
        except gurobi.GurobiError as error:
            if error.errno == SIZE_LIMITED:
                raise refused(self.name, best.block, Refusal(
                    "Gurobi's licence here does not allow a model of this size; set GRB_LICENSE_FILE to one that does, "
                    "or use solver 'branch-and-bound'", RefusalKind.SIZE,
                )) from error  # fmt: skip
            raise SolverFailed(f"Gurobi failed: {error}") from error


def _run(gurobi: Any, model: Any, best: Incumbent, held: Quadratic) -> Stop:
    block = best.block
    with best.building():
        model.Params.Threads, model.Params.MIPGap, model.Params.IntFeasTol = 1, 1e-8, INTEGER
        kept = model.addMVar(block.p, vtype="B")
        for members, count in rows(block):
            model.addConstr(kept[members].sum() == count)
        if held.reach is None:
            # z = 1 − kept, written out so that no further variables count against the licence
            sums = held.matrix.sum(axis=1)
            constant = float(held.linear.sum() + 0.5 * sums.sum())
            model.setObjective(constant - (held.linear + sums) @ kept + 0.5 * kept @ held.matrix @ kept)
        else:
            weights = model.addMVar(block.p, lb=-held.reach, ub=held.reach)
            model.addConstr(weights <= held.reach * kept)
            model.addConstr(weights >= -held.reach * kept)
            model.setObjective(held.linear @ weights + 0.5 * weights @ held.matrix @ weights)
        if np.isfinite(best.wall_remaining):
            model.Params.TimeLimit = max(best.wall_remaining, 0.0)
        if np.isfinite(best.budget.evaluations):
            model.Params.NodeLimit = max(1.0, best.budget.evaluations)

    def watch(inner: Any, where: int) -> None:
        if where == gurobi.GRB.Callback.MIPSOL:
            best.offer(mask_of(block, inner.cbGetSolution(kept)), "gurobi")
        if where != gurobi.GRB.Callback.POLLING and best.stop():
            inner.terminate()

    model.optimize(watch)
    if model.SolCount:
        best.offer(mask_of(block, kept.X), "gurobi")
    bound = held.value(float(model.ObjBound))
    if np.isfinite(bound):
        best.details["claimed_bound"] = bound
    states = gurobi.GRB.Status
    words = {states.OPTIMAL: "optimal", states.TIME_LIMIT: "time limit", states.NODE_LIMIT: "node limit"}
    best.details["claims"] = words.get(model.Status, f"status {model.Status}")
    kinds = {
        states.TIME_LIMIT: StopKind.TIME, states.INTERRUPTED: StopKind.TIME, states.NODE_LIMIT: StopKind.EVALUATIONS,
    }  # fmt: skip
    return Stop(kinds.get(model.Status, StopKind.FINISHED), f"Gurobi says {best.details['claims']}")
