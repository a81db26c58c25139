"""Any solver that Pyomo knows, on the block as an algebraic model.

Bynum et al.: Pyomo, Optimization Modeling in Python, 3rd ed., Springer 2021.
"""

import math
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, ClassVar, Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import MissingPackage, SolverFailed
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register
from prunebench.core.trust import RUNS_CODE, is_path

MAX_SIZE = 512
MOST_WORDS = 500
"""Letters of a failed solver's own words that are passed on."""

LIMITS = ("maxTimeLimit", "maxIterations", "maxEvaluations", "userInterrupt", "resourceInterrupt")
"""Pyomo's words for a run that a limit ended: no failure, even where no mask was found."""

TIME_OPTIONS = {
    "scip": "limits/time",
    "scip_persistent": "limits/time",
    "scip_direct": "limits/time",
    "gurobi": "TimeLimit",
    "gurobi_direct": "TimeLimit",
    "gurobi_persistent": "TimeLimit",
    "highs": "time_limit",
    "appsi_highs": "time_limit",
    "cbc": "sec",
    "glpk": "tmlim",
    "cplex": "timelimit",
    "xpress": "maxtime",
}


@register
@dataclass(frozen=True, kw_only=True)
class Pyomo:
    """Reach, not speed: the model is built term by term; 'highs' and 'branch-and-bound' are far faster.

    What the named solver claims is its own: its bound is reported as it comes and "optimal" is not
    repeated, since its tolerances are not proved here. HiGHS takes no MIQP, so it gets the MILP.
    """

    name: ClassVar[str] = "pyomo"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("pyomo",)
    install: ClassVar[str] = "pip install pyomo"
    max_size: ClassVar[int | None] = MAX_SIZE
    reference: ClassVar[str] = "Bynum et al. 2021"

    solver: str = field(default="highs", metadata={RUNS_CODE: is_path})
    """The solver by Pyomo's name: highs, appsi_highs, gurobi, scip, cbc, glpk, …"""

    formulation: Literal["auto", "miqp", "milp"] = "auto"
    """The model: milp for HiGHS, CBC and GLPK, miqp for the others. In mode refit the milp is an outer
    approximation: its mask is refitted and its bound claimed, but it need not be the optimum."""

    def refuses(self, block: BlockProblem) -> str:
        """More weights than a model built term by term can hold."""
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'branch-and-bound' or 'swap'"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """Build the model, hand it over, and take back what the named solver found.

        Raises
        ------
        MissingPackage   Pyomo does not find the solver
        SolverFailed     the named solver raised, or ended without an answer for a reason other than a limit
        """
        recorder = Recorder(budget, progress)
        mask, objective = block.incumbent, block.evaluate(block.incumbent)
        recorder.record(objective)
        expired = recorder.expired()
        if block.settled or expired:
            status = Status.TIME_LIMIT if expired else Status.FEASIBLE
            return Solution.from_mask(
                block, mask, status=status, stop_reason=expired or "only one mask", recorder=recorder
            )
        from prunebench.forms import pyomo as forms

        with recorder.building():
            solver = self._factory()
            model = forms.build(block, self._chosen())
        found, bound, status, reason = self._run(solver, model, block, recorder)
        if found is not None and block.evaluate(found) < objective:
            mask = found
        details: dict[str, Any] = {"solver": self.solver, "formulation": self._chosen()}
        if bound is not None and math.isfinite(bound):
            details["claimed_bound"] = bound
        return Solution.from_mask(block, mask, status=status, stop_reason=reason, recorder=recorder, details=details)

    def _chosen(self) -> Literal["miqp", "milp"]:
        if self.formulation != "auto":
            return self.formulation
        return "milp" if self.solver in ("highs", "appsi_highs", "cbc", "glpk") else "miqp"

    def _factory(self) -> Any:
        import pyomo.environ as pyo
        from pyomo.common.log import LoggingIntercept

        missing = (
            f"Pyomo finds no solver {self.solver!r}; install it (pip install highspy, gurobipy or pyscipopt; "
            "conda install scip), or name another with --option solver=…"
        )
        try:
            with LoggingIntercept(StringIO(), "pyomo"):
                solver = pyo.SolverFactory(self.solver)
                usable = bool(solver.available(exception_flag=False))
        except Exception as error:
            raise MissingPackage(f"{missing} ({error})") from error
        if not usable:
            raise MissingPackage(missing)
        return solver

    def _run(self, solver: Any, model: Any, block: BlockProblem, recorder: Recorder) -> tuple[Any, Any, Status, str]:
        """(mask or None, claimed bound or None, status, reason) of one run of the named solver."""
        from pyomo.common.log import LoggingIntercept

        from prunebench.forms import pyomo as forms

        options = {}
        limit = TIME_OPTIONS.get(self.solver)
        if math.isfinite(recorder.remaining) and limit is not None:
            options[limit] = max(recorder.remaining, 1e-3)
        told = StringIO()
        try:
            with LoggingIntercept(told, "pyomo"):
                outcome = self._asked(solver, model, options)
                condition = str(outcome.solver.termination_condition)
                solved = len(outcome.solution) > 0 or condition == "optimal"
                if solved:
                    model.solutions.load_from(outcome)
        except KeyboardInterrupt:
            return None, None, Status.INTERRUPTED, "interrupted"
        except Exception as error:
            raise SolverFailed(f"{self.solver} failed: {type(error).__name__}: {_words(error, told)}") from error
        found = forms.mask_of(model, block) if solved else None
        if found is None and condition not in LIMITS:
            message = getattr(outcome.solver, "message", None)
            raise SolverFailed(f"{self.solver} gave no answer; it says {condition}: {_words(message, told)}")
        low = getattr(outcome.problem, "lower_bound", None)
        bound = forms.unscaled(model, float(low)) if isinstance(low, (int, float)) and math.isfinite(low) else None
        status = Status.TIME_LIMIT if "time" in condition.lower() else Status.FEASIBLE
        kept = "" if found is not None else ", without a mask of its own; the start is kept"
        return found, bound, status, f"{self.solver} says {condition}{kept}"

    @staticmethod
    def _asked(solver: Any, model: Any, options: dict[str, float]) -> Any:
        """The results of one run. Pyomo's older persistent interfaces hold the model and take it beforehand."""
        from pyomo.solvers.plugins.solvers.persistent_solver import PersistentSolver

        if isinstance(solver, PersistentSolver):
            solver.set_instance(model)
            return solver.solve(load_solutions=False, options=options)
        return solver.solve(model, load_solutions=False, options=options)


def _words(said: object, told: StringIO) -> str:
    """What a solver said, by itself or through Pyomo's log, on one line."""
    words = " ".join(f"{said or ''}".split()) or " ".join(told.getvalue().split())
    return words[:MOST_WORDS] or "nothing"
