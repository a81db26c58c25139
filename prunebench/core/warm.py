"""A time limit is time for solving: what a solver has to import and to compile is done before its clock starts.

Libraries take up to seconds to import and compiled loops up to half a minute to compile where no earlier process
left them in numba's cache. Before the first solve with a limit, a process solves a miniature of the block: eight
weights or so of the same mode, curvature, precision and kind of quota, so that the same code runs.
"""

from dataclasses import is_dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import PrunebenchError
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget
from prunebench.core.solver import Solver, SolverLike, facts

SIZE = Solver.miniature_size
"""Weights of a miniature: with so many nearly every solver goes through all of its parts."""
EVALUATIONS = 2000
"""Budget of a miniature's solve: it ends those that would go on for as long as they may."""
SIZE_CLASSES = (1024, 2048, 4096)
"""Numbers of weights beyond which some solver takes other code: descents at the first two, anneals at the last."""

_done: set[tuple[Any, ...]] = set()


def warm_up(solver: SolverLike, block: BlockProblem) -> float:
    """Load and compile what `solver` needs for blocks of this kind, once in each process. -> seconds it took

    A solver may have a `warm_up(block)` of its own, for what a miniature does not reach, or ask for a larger one by
    `miniature_size`; one that says `miniature = False`, since it sends jobs to a device, is given none.
    """
    key = _kind(solver, block)
    if block.settled or key in _done:
        return 0.0
    _done.add(key)
    started = perf_counter()
    known = facts(solver)
    try:
        if known.miniature:
            small = miniature(block, known.miniature_size)
            solver.solve(small, Budget(evaluations=EVALUATIONS), np.random.default_rng(0))
        if hasattr(solver, "warm_up"):
            solver.warm_up(block)
    except PrunebenchError:
        # whatever is wrong, the solve that follows meets it and says it of the block that was asked for
        pass
    return perf_counter() - started


def miniature(block: BlockProblem, most: int = SIZE) -> BlockProblem:
    """A small block of the same mode, kind of curvature, precision and kind of quota, with numbers of its own."""
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
        # compiled code is made anew for each order in memory
        factor = factor if block.form.factor.flags.c_contiguous else np.asfortranarray(factor)
        form = QuadraticForm(factor=factor, **terms)
    else:
        samples = rng.normal(size=(2 * size, size))
        form = QuadraticForm(hessian=samples.T @ samples / size, **terms)
    keep = max(1, size // 2)
    small = BlockProblem(form, weights, keep, block.mode, problem="a miniature")
    if not block.keeping.one_count and size >= 4:
        half = size // 2
        counts = np.array([half // 2, keep - half // 2])
        small = replace(small, quota=Quota(np.arange(size) // half, counts))
    return small if block.start_mask is None else small.with_start(small.incumbent)


def _kind(solver: Any, block: BlockProblem) -> tuple[Any, ...]:
    form = block.form
    factor = form.factor
    curvature = (
        "rows" if isinstance(form, RowsForm) else
        "hessian" if factor is None else
        f"factor {factor.dtype} {factor.flags.c_contiguous}"
    )  # fmt: skip
    large = tuple(block.p > size for size in SIZE_CLASSES)
    # of other objects the text holds an address, not options
    options = repr(solver) if is_dataclass(solver) else ""
    return type(solver), options, block.mode, curvature, block.keeping.one_count, large
