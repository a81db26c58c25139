"""Any solver that Pyomo supports, with the block as an algebraic model.

Bynum et al.: Pyomo, Optimization Modeling in Python, 3rd ed., Springer 2021.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any, Literal

import numpy as np

from prunebench.core import solver_log
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import MissingPackage, SolverFailed
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.core.trust import RUNS_CODE, is_path

MAX_SIZE = 512
"""Most weights in a model: its objective has p²/2 products, which Pyomo writes one by one."""
MOST_WORDS = 500
"""Most characters of a failed solver's message that are passed on."""

LIMITS = {
    "maxTimeLimit": StopKind.TIME,
    "maxIterations": StopKind.EVALUATIONS,
    "maxEvaluations": StopKind.EVALUATIONS,
    "userInterrupt": StopKind.INTERRUPTED,
    "resourceInterrupt": StopKind.FAILED,
}
"""Pyomo's termination conditions for limits: not failures, even if no mask was found."""

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
"""Name of the time-limit option, by solver."""


@register
@dataclass(frozen=True, kw_only=True)
class Pyomo(Solver):
    """Reach, not speed: the model is built term by term; 'highs' and 'branch-and-bound' are far faster.

    The named solver's claims are its own: its bound is reported, but not "optimal", since its tolerances
    are not proved here. HiGHS takes no MIQP, so it gets the MILP.
    """

    name = "pyomo"
    takes = frozenset({Count, Quota, Cost})
    requires = ("pyomo",)
    install = "pip install pyomo"
    max_size = MAX_SIZE
    logs = True
    reference = "Bynum et al. 2021"

    solver: str = field(default="highs", metadata={RUNS_CODE: is_path})
    """The solver by Pyomo's name: highs, appsi_highs, gurobi, scip, cbc, glpk, …"""

    formulation: Literal["auto", "miqp", "milp"] = "auto"
    """The model: milp for HiGHS, CBC and GLPK, miqp for the others. In mode refit the milp is an outer
    approximation: its mask is refitted and its bound claimed, but it need not be the optimum."""

    def refuses(self, block: BlockProblem) -> str:
        """More weights than a model built term by term can have."""
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'branch-and-bound' or 'swap'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Build the model, pass it to the named solver, and take its mask.

        Raises
        ------
        MissingPackage   Pyomo does not find the solver
        SolverFailed     the solver raised, or ended without an answer for a reason other than a limit
        """
        from prunebench.forms import pyomo as forms

        best.details = {"solver": self.solver, "formulation": self._chosen()}
        with best.building():
            solver = self._factory()
            model = forms.build(best.block, self._chosen())
        return self._asked_for(solver, model, best)

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

    def _asked_for(self, solver: Any, model: Any, best: Incumbent) -> Stop:
        """One run of the named solver: offers its mask and reports the bound that it claims."""
        from pyomo.common.log import LoggingIntercept

        from prunebench.forms import pyomo as forms

        options = {}
        limit = TIME_OPTIONS.get(self.solver)
        if math.isfinite(best.remaining) and limit is not None:
            # wall-clock seconds: a solver that Pyomo calls cannot be stopped in between
            options[limit] = max(best.remaining, 1e-3)
        told = StringIO()
        try:
            with LoggingIntercept(told, "pyomo"), _passed_on(solver_log.listener()) as heard:
                outcome = self._asked(solver, model, options, heard)
                condition = str(outcome.solver.termination_condition)
                solved = len(outcome.solution) > 0 or condition == "optimal"
                if solved:
                    model.solutions.load_from(outcome)
        except Exception as error:
            raise SolverFailed(f"{self.solver} failed: {type(error).__name__}: {_words(error, told)}") from error
        found = forms.mask_of(model, best.block) if solved else None
        if found is None and condition not in LIMITS:
            message = getattr(outcome.solver, "message", None)
            raise SolverFailed(f"{self.solver} gave no answer; it says {condition}: {_words(message, told)}")
        low = getattr(outcome.problem, "lower_bound", None)
        if isinstance(low, (int, float)) and math.isfinite(low):
            bound = forms.unscaled(model, float(low))
            if math.isfinite(bound):
                best.details["claimed_bound"] = bound
        stop = Stop(LIMITS.get(condition, StopKind.FINISHED), f"{self.solver} says {condition}")
        if found is None:
            return replace(stop, text=f"{stop.text}, without a mask of its own; the start is kept")
        best.offer(found, self.solver)
        return stop

    @staticmethod
    def _asked(solver: Any, model: Any, options: dict[str, float], tee: bool) -> Any:
        """Results of one run. Pyomo's older persistent interfaces need the model set before solving."""
        from pyomo.solvers.plugins.solvers.persistent_solver import PersistentSolver

        printed = {"tee": True} if tee else {}
        if isinstance(solver, PersistentSolver):
            solver.set_instance(model)
            return solver.solve(load_solutions=False, options=options, **printed)
        return solver.solve(model, load_solutions=False, options=options, **printed)


@contextmanager
def _passed_on(listen: solver_log.Listener | None) -> Iterator[bool]:
    """Inside, what a solver prints goes to `listen`, line by line; yields whether anybody listens."""
    if listen is None:
        yield False
        return
    from pyomo.common.tee import TeeStream, redirect_fd

    # standard output alone, of Python and of the libraries: who listens may write on standard error
    with TeeStream(_Lines(listen)) as tee, redirect_stdout(tee.STDOUT), redirect_fd(1, tee.STDOUT.fileno()):
        yield True


class _Lines(StringIO):
    """A stream that hands on every whole line."""

    def __init__(self, listen: solver_log.Listener) -> None:
        super().__init__()
        self._listen, self._begun = listen, ""

    def write(self, text: str) -> int:
        """Hand on what ends in this text."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._listen(line)
        return len(text)


def _words(said: object, told: StringIO) -> str:
    """A solver's message, its own or from Pyomo's log, on one line."""
    words = " ".join(f"{said or ''}".split()) or " ".join(told.getvalue().split())
    return words[:MOST_WORDS] or "nothing"
