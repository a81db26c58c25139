"""Neural-network pruning as combinatorial optimization: any solver on the same block of weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunebench.bridges.refit import Refit
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.keeping import Quota
from prunebench.core.problem import make_problem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import PROBLEMS, SOLVERS, register_problem, register_solver
from prunebench.core.solution import Budget, Solution, Status
from prunebench.core.solver import Solver, make_solver
from prunebench.core.stop import Stop, StopKind
from prunebench.solving import solve

if TYPE_CHECKING:
    from prunebench.comparison.run import compare
    from prunebench.dimod_sampler import PruneSampler
    from prunebench.forms.foreign.reading import import_block
    from prunebench.kernels.relaxations.bounds import lower_bound
    from prunebench.networks.own import own_network
    from prunebench.pruned import Pruned
    from prunebench.pruning import prune
    from prunebench.runs.cut import cut_block
    from prunebench.verification import verify

__version__ = "0.1.0"

__all__ = [
    "PROBLEMS",
    "SOLVERS",
    "BlockProblem",
    "Budget",
    "Incumbent",
    "PruneSampler",
    "Pruned",
    "QuadraticForm",
    "Quota",
    "Refit",
    "Solution",
    "Solver",
    "Status",
    "Stop",
    "StopKind",
    "compare",
    "cut_block",
    "import_block",
    "lower_bound",
    "make_problem",
    "make_solver",
    "own_network",
    "prune",
    "register_problem",
    "register_solver",
    "solve",
    "verify",
]

LAZY = {
    "PruneSampler": "prunebench.dimod_sampler",
    "Pruned": "prunebench.pruned",
    "compare": "prunebench.comparison.run",
    "cut_block": "prunebench.runs.cut",
    "import_block": "prunebench.forms.foreign.reading",
    "lower_bound": "prunebench.kernels.relaxations.bounds",
    "own_network": "prunebench.networks.own",
    "prune": "prunebench.pruning",
    "verify": "prunebench.verification",
}
"""Names whose modules are loaded only for those who ask: dimod with PruneSampler, torch with cut_block, and so on."""


def __getattr__(name: str) -> Any:
    """The names of LAZY, loaded when they are first used."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
