"""Neural-network pruning as combinatorial optimization: any solver on the same block of weights."""

from prunebench.core.block import BlockProblem
from prunebench.core.problem import make_problem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import PROBLEMS, SOLVERS, register_problem, register_solver
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import Refit, Solver, make_solver, solve

__version__ = "0.1.0"

__all__ = [
    "PROBLEMS",
    "SOLVERS",
    "BlockProblem",
    "Budget",
    "QuadraticForm",
    "Refit",
    "Solution",
    "Solver",
    "Status",
    "make_problem",
    "make_solver",
    "register_problem",
    "register_solver",
    "solve",
]
