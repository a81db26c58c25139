"""The solver contract: what a solver is, what is known of it, how it is made by name and what it may give back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, final, runtime_checkable

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import Refusal, RefusalKind, SolverFault, SolverRefused
from prunebench.core.incumbent import START, Incumbent
from prunebench.core.keeping import Count, Quota
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.registry import SOLVERS, register_solver, require_packages
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget, Progress, Solution, Status
from prunebench.core.stop import INTERRUPTED, Stop, StopKind

__all__ = [
    "Budget",
    "Facts",
    "Incumbent",
    "Progress",
    "Solver",
    "SolverLike",
    "Stop",
    "facts",
    "make_solver",
    "register",
]

register = register_solver

RELATIVE_ROUNDING = 1e-12
"""Part of |objective| by which two ways of computing it may differ, beside the rounding of evaluating it."""


@dataclass(frozen=True, kw_only=True)
class Solver:
    """What every solver here is: a frozen dataclass whose fields are its options, all JSON-able, and one method.

    A subclass sets the facts that differ from those below, as plain assignments without a type, so that none
    becomes an option, and writes `search`. `solve` does what is the same for all.
    """

    name: ClassVar[str] = ""
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    """The modes it handles itself; a block in mode refit reaches one that only selects over a bridge."""
    preferred_mode: ClassVar[Mode | None] = None
    """The mode in which a run uses it where none is asked for; none: the first that it handles."""
    exact: ClassVar[bool] = False
    """Whether it proves optimality when given time."""
    stochastic: ClassVar[bool] = False
    """Whether its answer depends on the seed."""
    baseline: ClassVar[bool] = False
    """Whether its own answer is what comes back: magnitude pruning is not looked at, only a start that is given."""
    whole_at_limit: ClassVar[bool] = False
    """Whether a limit leaves a whole answer of its method, as of one that samples: feasible, not time_limit."""
    takes: ClassVar[frozenset[type]] = frozenset({Count})
    """How a block may say what it keeps: the types of `block.keeping` that it honours."""
    whole_layers: ClassVar[bool] = False
    """Whether it takes a `RowsForm`, a layer whose rows share one Hessian."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Import names of the packages that only it needs."""
    install: ClassVar[str] = "pip install prunebench"
    """The command that brings them."""
    max_size: ClassVar[int | None] = None
    """The largest p; none where there is no limit."""
    reference: ClassVar[str] = ""
    """The paper."""
    miniature: ClassVar[bool] = True
    """Whether a small block may be solved before the clock starts (`core.warm`): no job on a device may."""
    miniature_size: ClassVar[int] = 8
    """Weights of that block: more where eight do not go through all of its code."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """The reason, with its remedy, why this block is not accepted; "" accepts it."""
        return ""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile what solving a miniature of the block does not reach."""

    def settle(self, best: Incumbent) -> Stop:
        """What is said of a block with one feasible mask, which `best` holds."""
        return Stop.finished("there is one feasible mask")

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Offer masks to `best` until the search or the budget ends, and say why it ended.

        best : holds the block, the budget and its clock, and what the answer is made of: the best mask offered,
               bounds, details, timings. It begins with `block.incumbent`, in a baseline with a start that is given
        rng : the only source of randomness
        """
        raise NotImplementedError(f"solver {self.name!r} has no method search")

    @final
    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best that `search` offered, never worse than the start; after a limit or Ctrl-C the best so far."""
        best = Incumbent(block, budget, progress)
        try:
            stop = _searched(self, best, rng)
        except KeyboardInterrupt:
            stop = INTERRUPTED
        return best.solution(stop, whole=self.whole_at_limit)


def _searched(solver: Solver, best: Incumbent, rng: np.random.Generator) -> Stop:
    block = best.block
    if block.settled:
        best.begin()
        return solver.settle(best)
    if not solver.baseline or block.start_mask is not None:
        best.begin()
    stop = best.stop() or solver.search(best, rng)
    if solver.baseline and best.source == START and stop.kind is StopKind.FINISHED:
        stop = stop.also("the start mask was better")
    return stop


@runtime_checkable
class SolverLike(Protocol):
    """What is asked of a solver: a `Solver`, or any object that has these. `facts` knows what else it may say."""

    @property
    def name(self) -> str:
        """How it is called."""
        ...

    @property
    def modes(self) -> frozenset[str]:
        """The modes it handles itself."""
        ...

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """The reason, with its remedy, why this block is not accepted; "" accepts it."""
        ...

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """A feasible solution, never worse than `block.incumbent`; random numbers only from `rng`."""
        ...


class Facts(NamedTuple):
    """What is known of a solver before it solves anything; what each means is said in `Solver`."""

    name: str
    modes: frozenset[str]
    preferred_mode: Mode | None
    exact: bool
    stochastic: bool
    takes: frozenset[type]
    whole_layers: bool
    requires: tuple[str, ...]
    install: str
    max_size: int | None
    reference: str
    miniature: bool
    miniature_size: int

    @property
    def quotas(self) -> bool:
        """Whether it honours a quota."""
        return Quota in self.takes


def facts(solver: "SolverLike | type[Any]") -> Facts:
    """The facts of a solver or of its class. One that leaves some out, being no `Solver`, has that class's defaults.

    A solver whose facts depend on its options says them itself, in a property `facts`.
    """
    own = getattr(solver, "facts", None)
    if isinstance(own, Facts):
        return own
    found = Facts(*(getattr(solver, name, getattr(Solver, name)) for name in Facts._fields))
    # a solver that was written before `takes` says `quotas`
    return found._replace(takes=frozenset({Count, Quota})) if getattr(solver, "quotas", False) else found


def make_solver(solver: "str | SolverLike", options: Mapping[str, Any] | None = None) -> SolverLike:
    """A solver by registered name and options, or the object itself.

    Raises
    ------
    UnknownName      no solver or option of that name, with the nearest match
    MissingPackage   the solver's own library is not installed
    """
    if not isinstance(solver, str):
        return replace(solver, **options) if options else solver  # type: ignore[type-var]  # solvers are dataclasses
    cls = SOLVERS.get(solver)
    known = facts(cls)
    require_packages(f"solver {solver!r}", known.requires, known.install)
    made: SolverLike = option_tools.build(cls, options or {})
    return made


def refused(name: str, block: BlockProblem, refusal: str | Refusal) -> SolverRefused:
    """The error that tells a solver's refusal of a block."""
    told = refusal if isinstance(refusal, Refusal) else Refusal(refusal)
    return SolverRefused(
        f"solver {name!r} refuses {block.name} (p={block.p}, keep={block.keep}): {told.reason}", told.reason, told.kind
    )


def require_taken(solver: SolverLike, block: BlockProblem) -> None:
    """Raise SolverRefused where a solver takes no quota or no whole layer and the block has or is one."""
    known = facts(solver)
    if type(block.keeping) not in known.takes:
        what = "keeps a plain count" if block.quota is None else f"has a quota of {block.quota.counts.size} groups"
        raise refused(solver.name, block, Refusal(
            f"it {what}, which this solver does not honour; choose one of "
            f"{_able(lambda facts: type(block.keeping) in facts.takes)}, or give the block a plain count",
            RefusalKind.QUOTA,
        ))  # fmt: skip
    if isinstance(block.form, RowsForm) and not known.whole_layers:
        raise refused(solver.name, block, Refusal(
            f"it is a whole layer of {block.form.rows} rows, and this solver takes one row at a time; choose one of "
            f"{_able(lambda facts: facts.whole_layers)}, or the coordinator layer-wise, which cuts rows",
            RefusalKind.WHOLE_LAYER,
        ))  # fmt: skip


def _able(can: Callable[[Facts], bool]) -> str:
    return ", ".join(name for name in SOLVERS.names() if can(facts(SOLVERS.get(name))))


def verified(block: BlockProblem, solution: Solution, solver_name: str) -> Solution:
    """The solution with its objective recomputed by the block.

    Raises
    ------
    SolverFault   an infeasible mask or weights, an objective that is not the block's, a bound above
                  the objective, "optimal" beside a bound that does not prove it (core.optimality), or an
                  answer worse than the start
    """
    try:
        objective = block.evaluate(solution.weights, solution.mask)
    except ValueError as error:
        raise SolverFault(f"solver {solver_name!r} gave back an infeasible answer: {error}") from error
    if objective != solution.objective and abs(objective - solution.objective) > _rounding(block, objective, solution):
        raise SolverFault(
            f"solver {solver_name!r} reports objective {solution.objective!r} "
            f"where {block.name} evaluates {objective!r}"
        )
    bound = solution.lower_bound
    if np.isnan(bound) or (bound > objective and bound - objective > _rounding(block, objective, solution)):
        raise SolverFault(f"solver {solver_name!r} reports the lower bound {bound!r} above its objective {objective!r}")
    bound = min(bound, objective)
    if solution.status is Status.OPTIMAL and not is_proved(objective, bound):
        if not np.isfinite(bound):
            raise SolverFault(f"solver {solver_name!r} says optimal without a proven bound")
        raise SolverFault(
            f"solver {solver_name!r} says optimal at {objective!r} beside the lower bound {bound!r}, which leaves more "
            f"than {PROOF_TOLERANCE:g} of it; an answer without a proof is feasible"
        )
    if block.start_mask is not None:
        start = block.weights_of(block.start_mask)
        worse = objective - block.form.value(start)
        if worse > 0.0 and worse > _rounding(block, objective, solution) + block.form.rounding_of(start):
            raise SolverFault(
                f"solver {solver_name!r} gave back {objective!r}, worse than its start {objective - worse!r}"
            )
    return replace(solution, objective=objective, lower_bound=bound)


def _rounding(block: BlockProblem, objective: float, solution: Solution) -> float:
    """How far two honest evaluations of the solution's weights may lie apart."""
    return block.form.rounding_of(solution.weights) + RELATIVE_ROUNDING * abs(objective)
