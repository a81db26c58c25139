"""Neural-network pruning as combinatorial optimization: any solver on the same block of weights."""

from typing import TYPE_CHECKING, Any

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Quota
from prunebench.core.problem import make_problem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import PROBLEMS, SOLVERS, register_problem, register_solver
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import Refit, Solver, make_solver, solve

if TYPE_CHECKING:
    from prunebench.comparison.run import compare
    from prunebench.dimod_sampler import PruneSampler

__version__ = "0.1.0"

__all__ = [
    "PROBLEMS",
    "SOLVERS",
    "BlockProblem",
    "Budget",
    "PruneSampler",
    "QuadraticForm",
    "Quota",
    "Refit",
    "Solution",
    "Solver",
    "Status",
    "compare",
    "make_problem",
    "make_solver",
    "register_problem",
    "register_solver",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Names whose modules are loaded only for those who ask: dimod with PruneSampler, much more with compare."""
    if name == "compare":
        from prunebench.comparison.run import compare

        return compare
    if name == "PruneSampler":
        from prunebench.dimod_sampler import PruneSampler

        return PruneSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
