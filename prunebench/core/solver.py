"""The solver contract: what a solver is, its facts, making one by name, and checking its answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, final, runtime_checkable

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput, Refusal, RefusalKind, SolverFault, SolverRefused
from prunebench.core.import_path import imported, is_import_path
from prunebench.core.incumbent import START, Incumbent
from prunebench.core.keeping import Count, Quota
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.quadratic import QuadraticForm
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
"""Share of |objective| by which two evaluations may differ, beyond their rounding."""


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The base class of solvers: a frozen dataclass whose fields are its options, all JSON-able.

    A subclass overrides the facts below by plain assignments without a type annotation, so that none
    becomes an option, and implements `search`. `solve` does what all solvers have in common.
    """

    name: ClassVar[str] = ""
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    """Modes it solves itself; if that is only select, a bridge refits its masks in mode refit."""
    preferred_mode: ClassVar[Mode | None] = None
    """The mode in which a run uses it if none is requested; None: the first it handles."""
    exact: ClassVar[bool] = False
    """Whether it proves optimality when given time."""
    stochastic: ClassVar[bool] = False
    """Whether its answer depends on the seed."""
    baseline: ClassVar[bool] = False
    """Whether to return its own answer even if magnitude pruning is better; only a given start mask is compared."""
    whole_at_limit: ClassVar[bool] = False
    """Whether its answer is complete when a limit ends it, as for samplers: status feasible, not time_limit."""
    forms: ClassVar[frozenset[type]] = frozenset({QuadraticForm})
    """Types of `block.form` that it solves: `QuadraticForm`, or `GroupForm` for solvers that choose among groups."""
    takes: ClassVar[frozenset[type]] = frozenset({Count})
    """Types of `block.constraint` that it satisfies: Count, Quota, Cost."""
    whole_layers: ClassVar[bool] = False
    """Whether it takes a `RowsForm`: a layer whose rows share one Hessian."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Import names of the packages that only it needs."""
    install: ClassVar[str] = "pip install prunebench"
    """The command that installs them."""
    max_size: ClassVar[int | None] = None
    """The largest p; None: no limit."""
    reference: ClassVar[str] = ""
    """The paper it implements."""
    miniature: ClassVar[bool] = True
    """Whether a small block may be solved before the clock starts (`core.warm`); False if jobs go to a device."""
    miniature_size: ClassVar[int] = 8
    """Weights of that block; more if eight do not reach all of its code."""

    logs: ClassVar[bool] = False
    """Whether the program behind it has a log, which it passes on to who listens (`core.solver_log`)."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Why this block is not accepted, with the remedy; "" if it is."""
        return ""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile code that solving a miniature of the block does not reach."""

    def settle(self, best: Incumbent) -> Stop:
        """The stop for a block with only one feasible mask, which `best` holds."""
        return Stop.finished("there is one feasible mask")

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Offer masks to `best` until the search or the budget ends, and return why it ended.

        best : holds the block, the budget with its clock, and all parts of the answer: best mask, bounds, details,
               timings. It starts with `block.incumbent`; for a baseline, only if the block has a start mask
        rng : the only source of randomness
        """
        raise NotImplementedError(f"solver {self.name!r} has no method search")

    @final
    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best mask that `search` offered, never worse than the start, also after a limit or Ctrl-C."""
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
    """The minimal interface of a solver: a `Solver`, or any object with these members. Further facts: `facts`."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def modes(self) -> frozenset[str]:
        """The modes it solves itself."""
        ...

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Why this block is not accepted, with the remedy; "" if it is."""
        ...

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """A feasible solution, never worse than `block.incumbent`; randomness only from `rng`."""
        ...


class Facts(NamedTuple):
    """What is known of a solver before it solves; `Solver` explains each fact."""

    name: str
    modes: frozenset[str]
    preferred_mode: Mode | None
    exact: bool
    stochastic: bool
    forms: frozenset[type]
    takes: frozenset[type]
    whole_layers: bool
    requires: tuple[str, ...]
    install: str
    max_size: int | None
    reference: str
    miniature: bool
    miniature_size: int
    logs: bool

    @property
    def quotas(self) -> bool:
        """Whether it satisfies quotas."""
        return Quota in self.takes

    @property
    def budgets(self) -> bool:
        """Whether it stays within budgets."""
        return Cost in self.takes


def facts(solver: "SolverLike | type[Any]") -> Facts:
    """The facts of a solver or its class; facts that it lacks have the defaults of `Solver`.

    A solver whose facts depend on its options has a property `facts`.
    """
    own = getattr(solver, "facts", None)
    if isinstance(own, Facts):
        return own
    found = Facts(*(getattr(solver, name, getattr(Solver, name)) for name in Facts._fields))
    # solvers older than `takes` have `quotas` instead
    return found._replace(takes=frozenset({Count, Quota})) if getattr(solver, "quotas", False) else found


def make_solver(solver: "str | SolverLike", options: Mapping[str, Any] | None = None) -> SolverLike:
    """A solver by registered name and options, by module:Object or FILE.py:Object, or the given object itself.

    The named object is a solver or its class, a dimod sampler or its class, or a function that makes one.

    Raises
    ------
    UnknownName      no solver or option of that name, with the nearest match
    InvalidInput     what is named cannot be imported, or is no solver
    MissingPackage   the solver's own library is not installed
    """
    if not isinstance(solver, str):
        return replace(solver, **options) if options else solver  # type: ignore[type-var]  # solvers are dataclasses
    if is_import_path(solver):
        return _imported(solver, options or {})
    cls = SOLVERS.get(solver)
    known = facts(cls)
    require_packages(f"solver {solver!r}", known.requires, known.install)
    made: SolverLike = option_tools.build(cls, options or {})
    return made


def _imported(path: str, options: Mapping[str, Any]) -> SolverLike:
    """The solver that an import path names. A sampler is run by solver `dimod`, whose options it then has."""
    held = imported(path)
    if not is_solver(held) and not is_sampler(held) and callable(held):
        try:
            held = held()
        except Exception as error:  # code of others may raise anything
            raise InvalidInput(f"solver {path!r}: {type(error).__name__}: {error}") from error
    if is_sampler(held) and not is_solver(held):
        return make_solver("dimod", {"sampler": path, **options})
    if not is_solver(held):
        raise InvalidInput(
            f"solver {path!r} is {held!r}, which has no name, modes and solve; name a solver, a dimod sampler, a class "
            "of one, or a function that makes one"
        )
    if not options and not isinstance(held, type):
        made: SolverLike = held
    elif is_dataclass(held):
        cls = held if isinstance(held, type) else type(held)
        made = option_tools.build(cls, {**({} if held is cls else option_tools.as_json(held)), **options})
    elif options:
        raise InvalidInput(f"solver {path!r} is no dataclass and has no options; leave out {next(iter(options))!r}")
    else:
        made = held()
    return made


def is_solver(held: Any) -> bool:
    """Whether an object, or a class, has what a solver needs."""
    return isinstance(getattr(held, "name", None), str) and all(hasattr(held, word) for word in ("modes", "solve"))


def is_sampler(held: Any) -> bool:
    """Whether an object, or a class, is a dimod sampler."""
    return any(callable(getattr(held, word, None)) for word in ("sample", "sample_cqm"))


def refused(name: str, block: BlockProblem, refusal: str | Refusal) -> SolverRefused:
    """The error that reports a solver's refusal of a block."""
    told = refusal if isinstance(refusal, Refusal) else Refusal(refusal)
    return SolverRefused(f"solver {name!r} refuses {described(block)}: {told.reason}", told.reason, told.kind)


def described(block: BlockProblem) -> str:
    """A block's name, its size and what it may keep, for messages."""
    held = f"keep={block.keep}" if block.budget is None else f"budgets {', '.join(block.budget.names)}"
    return f"{block.name} (p={block.p}, {held})"


def solves(solver: "SolverLike | type[Any]", form: type) -> bool:
    """Whether a solver is for blocks of that type of form, `QuadraticForm` or `GroupForm`."""
    return any(issubclass(form, held) for held in facts(solver).forms)


def solvers_of(form: type) -> list[str]:
    """Names of the registered solvers for blocks of that type of form, sorted."""
    return [name for name in SOLVERS.names() if solves(SOLVERS.get(name), form)]


def require_form(solver: SolverLike, form: type, what: str) -> None:
    """Raise SolverRefused if the solver is not for that type of form. what : the block or the work, in the message"""
    if not solves(solver, form):
        quadratic = issubclass(form, QuadraticForm)
        known = "'prunebench solvers' lists them" if quadratic else ", ".join(solvers_of(form))
        needs = "chooses among weights, which this solver, for groups of inputs, does not" if quadratic else (
            "chooses among groups of inputs, which this solver, for single weights, does not"
        )  # fmt: skip
        reason = f"it {needs}; choose one that does: {known}"
        raise SolverRefused(f"solver {solver.name!r} refuses {what}: {reason}", reason, RefusalKind.FORM)


def require_taken(solver: SolverLike, block: BlockProblem) -> None:
    """Raise SolverRefused if the solver does not take the block's quota or budget, or whole layers."""
    known = facts(solver)
    kind = type(block.constraint)
    if kind not in known.takes:
        able = _able(lambda facts: kind in facts.takes)
        if kind is Cost:
            what, other, refusal = "has a budget", "give the block a count in its place", RefusalKind.BUDGET
        else:
            groups = 0 if block.quota is None else block.quota.counts.size
            what = f"has a quota of {groups} groups" if groups else "keeps a plain count"
            other, refusal = "give the block a plain count", RefusalKind.QUOTA
        raise refused(solver.name, block, Refusal(
            f"it {what}, which this solver does not honour; choose one of {able}, or {other}", refusal
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
    SolverFault   an infeasible mask, weights that do not match it, an objective that is not the block's, a
                  bound above the objective, "optimal" with a bound that does not prove it (core.optimality),
                  or an answer worse than the start
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
        worse = objective - block.evaluate(start, block.start_mask)
        if worse > 0.0 and worse > _rounding(block, objective, solution) + block.rounding_of(start):
            raise SolverFault(
                f"solver {solver_name!r} gave back {objective!r}, worse than its start {objective - worse!r}"
            )
    return replace(solution, objective=objective, lower_bound=bound)


def _rounding(block: BlockProblem, objective: float, solution: Solution) -> float:
    """How far two correct evaluations of the solution's weights may differ."""
    return block.rounding_of(solution.weights) + RELATIVE_ROUNDING * abs(objective)
