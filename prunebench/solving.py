"""The one function that runs a solver on a block, over bridges where it needs them, and checks what comes back."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from time import perf_counter
from typing import Any, cast

import numpy as np

from prunebench.bridges.refit import Refit
from prunebench.core import options as option_tools
from prunebench.core.arrays import whole_number
from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal, RefusalKind, SolverRefused
from prunebench.core.group_block import GroupBlock
from prunebench.core.solution import Budget, Progress, Solution
from prunebench.core.solver import SolverLike, described, make_solver, refused, require_form, require_taken, verified
from prunebench.core.warm import warm_up


def native_or_refit(solver: SolverLike, block: BlockProblem | GroupBlock) -> SolverLike:
    """The solver itself if it handles the block's mode, behind the bridge Refit if it only chooses masks.

    Raises
    ------
    InvalidInput    an option of another type than its field declares
    SolverRefused   a refit-only solver for a select problem, or the solver's own refusal
    """
    if is_dataclass(solver):
        option_tools.require_kinds(solver)
    require_form(solver, type(block.form), described(_handed_on(block)))
    block = _handed_on(block)
    runnable = solver
    if block.mode not in solver.modes:
        if block.mode == "select":
            reason = f"solver {solver.name!r} handles mode refit only; use --mode refit or another solver"
            raise SolverRefused(reason, reason, RefusalKind.MODE)
        runnable = Refit(solver)
    require_taken(solver, block)
    if refusal := runnable.refuses(block):
        raise refused(solver.name, block, refusal)
    return runnable


def _handed_on(block: BlockProblem | GroupBlock) -> BlockProblem:
    """The block under the type that solvers declare; a group block has the members used on the way to its solvers."""
    return cast(BlockProblem, block)


def solve(
    block: BlockProblem | GroupBlock,
    solver: "str | SolverLike | None" = None,
    *,
    options: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Solution:
    """Run a solver on a block and check what it gives back.

    Parameters
    ----------
    block : BlockProblem, or a GroupBlock for solvers that choose among groups
    solver : registered name, or a solver object; default: swap, for a group block group-swap
    options : the solver's options by name
    budget : when to stop; none by default. Imports, compilation and building come before its clock
    seed : the only source of randomness; the same seed gives the same answer
    progress : called with (seconds, objective, lower bound) at each improvement

    Raises
    ------
    UnknownName, MissingPackage, SolverRefused   the request is wrong
    SolverFault                                  the solver broke its contract
    """
    if solver is None:
        solver = "group-swap" if isinstance(block, GroupBlock) else "swap"
    runnable = native_or_refit(make_solver(solver, options), block)
    block = _handed_on(block)
    budget = budget or Budget()
    seed = whole_number("seed", seed, 0)
    warming = warm_up(runnable, block) if 0.0 < budget.seconds < np.inf else 0.0
    started = perf_counter()
    try:
        solution = runnable.solve(block, budget, np.random.default_rng(seed), progress)
    except np.linalg.LinAlgError as error:
        raise refused(runnable.name, block, Refusal(
            f"its matrices cannot be decomposed in float64 ({error}); raise the ridge, for example to 1e-3 of the "
            "curvature's mean diagonal", RefusalKind.NUMERICS,
        )) from error  # fmt: skip
    seconds = perf_counter() - started - solution.timings.get("build", 0.0)
    checked = verified(block, solution, runnable.name)
    return replace(checked, timings={**checked.timings, "warm_up": warming, "total": max(0.0, seconds)})
