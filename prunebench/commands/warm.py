"""Compile the solvers' kernels ahead, for the kinds of block that they take.

What a kind of block hardly ever needs is left out and compiled when it is: the evaluation of all masks, by which
`branch-and-bound` solves blocks with few kept weights.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core import compilation
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import SolverRefused
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.registry import SOLVERS, missing_packages
from prunebench.core.solver import SolverLike, facts, make_solver, solves
from prunebench.core.warm import SIZE_CLASSES, warm_up
from prunebench.progress import shown
from prunebench.runs.runner import Step
from prunebench.solving import native_or_refit

SIZES = (64, *(size + 1 for size in SIZE_CLASSES))
"""Weights of the blocks: one in each class of sizes for which some solver has other code."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Names of solvers."""
    parser.add_argument("solvers", nargs="*", metavar="SOLVER", help="only these; default: all that are installed")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Solve a miniature of every kind of block with every solver: one row a solver, with what was compiled."""
    names = arguments.solvers or [name for name in SOLVERS.names() if _compiles(SOLVERS.get(name))]
    solvers = [make_solver(name, {}) for name in names]
    rows: list[dict[str, Any]] = []
    with shown(not arguments.quiet, lines=True, verb="compiling") as (_, step):
        for at, solver in enumerate(solvers):
            rows.append(_warmed(solver))
            step(Step(at + 1, len(solvers), f"{solver.name}: {_words(rows[-1])}"))
    return rows


def text(result: list[dict[str, Any]]) -> str:
    """What was compiled, and where it is."""
    compiled, seconds = sum(row["compiled"] for row in result), sum(row["seconds"] for row in result)
    return "\n".join([
        *(f"{row['solver']:<22} {_words(row)}" for row in result), "",
        f"{compiled} kernels compiled in {seconds:.1f} s; those that were in the cache took none of it.",
        f"The cache is {_cache()}. Another processor, another numba or changed sources compile anew.",
    ])  # fmt: skip


def _cache() -> str:
    """Where numba keeps compiled code, in words."""
    from prunebench.kernels.compiled import copy

    kernel: Any = copy
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return chosen or f"in folders such as {kernel.stats.cache_path}; NUMBA_CACHE_DIR chooses another"


def _words(row: dict[str, Any]) -> str:
    if not row["compiled"]:
        return "nothing to compile"
    return f"{row['compiled']} kernels in {row['seconds']:.1f} s"


def _compiles(cls: type[Any]) -> bool:
    """Whether a solver is installed, takes blocks of weights, and sends no jobs to a device."""
    known = facts(cls)
    return known.miniature and solves(cls, QuadraticForm) and not missing_packages(known.requires)


def _warmed(solver: SolverLike) -> dict[str, Any]:
    """Solve miniatures of all kinds of block that a solver takes."""
    compiled, since, spent = 0, 0.0, 0.0

    def listen(begins: bool) -> None:
        nonlocal compiled, since, spent
        if begins:
            compiled, since = compiled + 1, perf_counter()
        else:
            spent += perf_counter() - since

    started = perf_counter()
    kinds = 0
    with compilation.heard(listen):
        for block in _blocks():
            try:
                runnable = native_or_refit(solver, block)
            except SolverRefused:
                continue
            warm_up(runnable, block)
            kinds += 1
    return {
        "solver": solver.name, "kinds": kinds, "compiled": compiled, "seconds": spent,
        "total_seconds": perf_counter() - started,
    }  # fmt: skip


def _blocks() -> Iterator[BlockProblem]:
    """A block of every mode, size class and kind of constraint; only its kind matters, not its numbers."""
    modes: tuple[Mode, ...] = ("select", "refit")
    for mode in modes:
        for size in SIZES:
            weights = np.linspace(1.0, 2.0, size)
            form = QuadraticForm(factor=np.ones((1, size)), ridge=1.0, centre=weights)
            block = BlockProblem(form, weights, size // 2, mode)
            half = size // 2
            counts = np.array([half // 2, half - half // 2])
            yield block
            yield replace(block, quota=Quota(np.minimum(np.arange(size) // half, 1), counts))
