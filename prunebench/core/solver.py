"""The solver contract, the one function that runs a solver, and the wrapper that refits a mask solver's mask."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from time import perf_counter
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import whole_number
from prunebench.core.block import BlockProblem
from prunebench.core.errors import SolverFault, SolverRefused
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.registry import SOLVERS, register_solver, require_packages
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget, Progress, Recorder, Solution, Status
from prunebench.core.warm import SIZE, warm_up

__all__ = ["Budget", "Progress", "Recorder", "Refit", "Solver", "make_solver", "register", "solve"]

register = register_solver

RELATIVE_ROUNDING = 1e-12
"""Part of |objective| by which two ways of computing it may differ, beside the rounding of evaluating it."""


@runtime_checkable
class Solver(Protocol):
    """A frozen dataclass whose fields are its options, all JSON-able.

    Class facts: `name`; `modes` it handles natively; `exact` (proves optimality when given time);
    `stochastic` (depends on the seed); `requires` (import names of packages that only it needs)
    and `install` (the command that brings them); `max_size` (largest p, or None); `reference`;
    `quotas`, True where it honours `block.quota` (a solver without this fact does not);
    `whole_layers`, True where it takes a `RowsForm`, a layer whose rows share one Hessian (likewise);
    `miniature`, False where no small block may be solved before the clock starts (`core.warm`);
    `miniature_size`, more than 8 where it takes more weights to go through all of its code; and a method
    `warm_up(block)` for what a small block does not load or compile.
    """

    name: ClassVar[str]
    modes: ClassVar[frozenset[str]]
    exact: ClassVar[bool]
    stochastic: ClassVar[bool]
    requires: ClassVar[tuple[str, ...]]
    max_size: ClassVar[int | None]
    reference: ClassVar[str]

    def refuses(self, block: BlockProblem) -> str:
        """The reason, with its remedy, why this block is not accepted; "" accepts it."""
        ...

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """A feasible solution, never worse than `block.incumbent`; random numbers only from `rng`."""
        ...


@dataclass(frozen=True)
class Refit:
    """Solve the select problem with a mask solver, then re-optimise the kept weights.

    The two-step split of Combinatorial Brain Surgeon (Yu et al., ICML 2022): selection, then update.
    The mask was chosen for another objective, so "optimal" becomes "feasible" and the mask solver's
    bound is dropped for the trivial one of the quadratic form.
    """

    mask_solver: Solver

    @property
    def name(self) -> str:
        """The mask solver's name followed by +refit."""
        return f"{self.mask_solver.name}+refit"

    modes: ClassVar[frozenset[str]] = frozenset({"refit"})
    exact: ClassVar[bool] = False

    @property
    def miniature(self) -> bool:
        """Whether the mask solver may be given a small block before the clock starts."""
        return getattr(self.mask_solver, "miniature", True)

    @property
    def miniature_size(self) -> int:
        """How many weights of it the mask solver asks for."""
        return getattr(self.mask_solver, "miniature_size", SIZE)

    def warm_up(self, block: BlockProblem) -> None:
        """The mask solver's own, if it has one."""
        own = getattr(self.mask_solver, "warm_up", None)
        if own is not None:
            own(block.in_mode("select"))

    @property
    def quotas(self) -> bool:
        """Whether the mask solver honours quotas."""
        return getattr(self.mask_solver, "quotas", False)

    def refuses(self, block: BlockProblem) -> str:
        """The mask solver's own reason, for the select problem."""
        return self.mask_solver.refuses(block.in_mode("select"))

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The refitted mask, or the refitted incumbent where that is better."""
        recorder = Recorder(budget, progress)
        selected = self.mask_solver.solve(block.in_mode("select"), budget, rng)
        chosen = selected.mask
        before = recorder.seconds
        start_objective = block.evaluate(block.incumbent)
        recorder.record(start_objective)
        if block.evaluate(chosen) > start_objective:
            chosen = block.incumbent
        status = Status.FEASIBLE if selected.status is Status.OPTIMAL else selected.status
        timings = {**selected.timings, "refit": recorder.seconds - before}
        return Solution.from_mask(
            block,
            chosen,
            status=status,
            stop_reason=f"{selected.stop_reason}; then refitted (the mask was chosen for mode select)",
            recorder=recorder,
            lower_bound=block.form.lower_bound(),
            timings=timings,
            details={**selected.details, "select_objective": selected.objective},
            alternatives=selected.alternatives,
        )


def make_solver(solver: "str | Solver", options: Mapping[str, Any] | None = None) -> Solver:
    """A solver by registered name and options, or the object itself.

    Raises
    ------
    UnknownName      no solver or option of that name, with the nearest match
    MissingPackage   the solver's own library is not installed
    """
    if not isinstance(solver, str):
        return replace(solver, **options) if options else solver  # type: ignore[type-var]  # solvers are dataclasses
    cls = SOLVERS.get(solver)
    require_packages(
        f"solver {solver!r}", getattr(cls, "requires", ()), getattr(cls, "install", "pip install prunebench")
    )
    made: Solver = option_tools.build(cls, options or {})
    return made


def native_or_refit(solver: Solver, block: BlockProblem) -> Solver:
    """The solver itself if it handles the block's mode, wrapped in Refit if it only chooses masks.

    Raises
    ------
    InvalidInput    an option of another type than its field declares
    SolverRefused   a refit-only solver for a select problem, or the solver's own refusal
    """
    runnable: Solver = solver
    if is_dataclass(solver):
        option_tools.require_kinds(solver)
    if block.mode not in solver.modes:
        if block.mode == "select":
            raise SolverRefused(f"solver {solver.name!r} handles mode refit only; use --mode refit or another solver")
        runnable = Refit(solver)  # type: ignore[assignment]  # its name is a property, which only type checkers mind
    if block.quota is not None and not getattr(solver, "quotas", False):
        able = ", ".join(name for name in SOLVERS.names() if getattr(SOLVERS.get(name), "quotas", False))
        raise SolverRefused(
            f"solver {solver.name!r} refuses {block.name}: it has a quota of {block.quota.counts.size} groups, which "
            f"this solver does not honour; choose one of {able}, or give the block a plain count"
        )
    if isinstance(block.form, RowsForm) and not getattr(solver, "whole_layers", False):
        able = ", ".join(name for name in SOLVERS.names() if getattr(SOLVERS.get(name), "whole_layers", False))
        raise SolverRefused(
            f"solver {solver.name!r} refuses {block.name}: it is a whole layer of {block.form.rows} rows, and this "
            f"solver takes one row at a time; choose one of {able}, or the coordinator layer-wise, which cuts rows"
        )
    reason = runnable.refuses(block)
    if reason:
        raise SolverRefused(f"solver {solver.name!r} refuses {block.name} (p={block.p}, keep={block.keep}): {reason}")
    return runnable


def solve(
    block: BlockProblem,
    solver: "str | Solver" = "swap",
    *,
    options: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Solution:
    """Run a solver on a block and check what it gives back.

    Parameters
    ----------
    block : BlockProblem
    solver : registered name, or a solver object
    options : the solver's options by name
    budget : when to stop; none by default. Imports, compilation and building come before its clock
    seed : the only source of randomness; the same seed gives the same answer
    progress : called with (seconds, objective, lower bound) at each improvement

    Raises
    ------
    UnknownName, MissingPackage, SolverRefused   the request is wrong
    SolverFault                                  the solver broke its contract
    """
    runnable = native_or_refit(make_solver(solver, options), block)
    budget = budget or Budget()
    seed = whole_number("seed", seed, 0)
    warming = warm_up(runnable, block) if 0.0 < budget.seconds < np.inf else 0.0
    started = perf_counter()
    try:
        solution = runnable.solve(block, budget, np.random.default_rng(seed), progress)
    except np.linalg.LinAlgError as error:
        raise SolverRefused(
            f"solver {runnable.name!r} refuses {block.name} (p={block.p}, keep={block.keep}): its matrices cannot be "
            f"decomposed in float64 ({error}); raise the ridge, for example to 1e-3 of the curvature's mean diagonal"
        ) from error
    seconds = perf_counter() - started - solution.timings.get("build", 0.0)
    checked = verified(block, solution, runnable.name)
    return replace(checked, timings={**checked.timings, "warm_up": warming, "total": max(0.0, seconds)})


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
