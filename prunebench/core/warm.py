"""Warm-up: imports and compilation happen before a solver's clock starts, as a time limit is for solving only.

Libraries can take seconds to import, and compiled loops half a minute to compile if numba's cache is empty.
Before the first solve with a limit, a process therefore solves a miniature of the block: about eight weights of
the same mode, curvature, precision and kind of quota or budget, so that the same code runs.
"""

from dataclasses import is_dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core import solver_log
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import PrunebenchError
from prunebench.core.group_form import GroupForm
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget
from prunebench.core.solver import Solver, SolverLike, facts

SIZE = Solver.miniature_size
"""Weights of a miniature: nearly every solver then runs through all of its code."""
EVALUATIONS = 2000
"""Evaluations allowed on a miniature: ends solvers that would use any budget up."""
SIZE_CLASSES = (1024, 2048, 4096)
"""Block sizes beyond which some solver uses other code: descents at the first two, annealers at the last."""

_done: set[tuple[Any, ...]] = set()


def warm_up(solver: SolverLike, block: BlockProblem) -> float:
    """Load and compile what `solver` needs for blocks of this kind, once per process. -> seconds it took

    A solver may have its own `warm_up(block)` for code that a miniature does not reach, or set `miniature_size` to
    get a larger one. Solvers with `miniature = False`, which send jobs to a device, get none.
    """
    key = _kind(solver, block)
    if block.settled or key in _done:
        return 0.0
    _done.add(key)
    started = perf_counter()
    known = facts(solver)
    try:
        # what is said of a miniature is not about the user's block
        with solver_log.heard(None):
            if known.miniature:
                small = miniature(block, known.miniature_size)
                solver.solve(small, Budget(evaluations=EVALUATIONS), np.random.default_rng(0))
            if hasattr(solver, "warm_up"):
                solver.warm_up(block)
    except PrunebenchError:
        # the real solve will raise the same error, then about the user's own block
        pass
    return perf_counter() - started


def miniature(block: BlockProblem, most: int = SIZE) -> BlockProblem:
    """A small random block of the same mode, kind of curvature, precision and kind of constraint."""
    size = min(most, block.p - block.p % 2) if block.p > 1 else 1
    rng = np.random.default_rng(0)
    weights = rng.normal(size=size)
    linear = rng.normal(size=size) if block.form.linear.any() else np.zeros(size)
    terms: dict[str, Any] = {"ridge": 0.1, "linear": linear, "centre": weights, "constant": 0.5}
    form: QuadraticForm
    if isinstance(block.form, RowsForm):
        columns = max(1, size // 2)
        samples = rng.normal(size=(size, columns))
        form = RowsForm(shared=samples.T @ samples / size, rows=size // columns, **terms)
    elif block.form.factor is not None:
        rows = max(1, min(block.form.factor.shape[0], size // 2))
        factor = rng.normal(size=(rows, size)).astype(block.form.factor.dtype)
        # numba compiles separately for each memory order
        factor = factor if block.form.factor.flags.c_contiguous else np.asfortranarray(factor)
        form = QuadraticForm(factor=factor, **terms)
    else:
        samples = rng.normal(size=(2 * size, size))
        form = QuadraticForm(hessian=samples.T @ samples / size, **terms)
    keep = max(1, size // 2)
    small = BlockProblem(form, weights, keep, block.mode, problem="a miniature")
    if block.budget is not None:
        # about half fits
        budgets = block.budget.limits.size
        small = small.with_budget(Cost(np.ones((budgets, size)), np.full(budgets, float(keep))))
    elif not block.keeping.one_count and size >= 4:
        half = size // 2
        counts = np.array([half // 2, keep - half // 2])
        small = replace(small, quota=Quota(np.arange(size) // half, counts))
    return small if block.start_mask is None else small.with_start(small.incumbent)


def _kind(solver: Any, block: BlockProblem) -> tuple[Any, ...]:
    form: Any = block.form
    factor = None if isinstance(form, GroupForm) else form.factor
    curvature = (
        "groups" if isinstance(form, GroupForm) else
        "rows" if isinstance(form, RowsForm) else
        "hessian" if factor is None else
        f"factor {factor.dtype} {factor.flags.c_contiguous}"
    )  # fmt: skip
    large = tuple(block.p > size for size in SIZE_CLASSES)
    # the repr of other objects holds an address, not options
    options = repr(solver) if is_dataclass(solver) else ""
    kept = block.budget.limits.size if block.budget is not None else block.keeping.one_count
    return type(solver), options, block.mode, curvature, type(block.constraint), kept, large
