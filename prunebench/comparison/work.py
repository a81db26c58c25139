"""One cell of a comparison: one solver on one block with one seed, whatever happens."""

import os
from dataclasses import dataclass, replace
from time import process_time

from prunebench.comparison.table import FAILED
from prunebench.coordinator.executors import Job, run_job
from prunebench.core.errors import MissingPackage, PrunebenchError, SolverRefused
from prunebench.core.solution import Budget, Progress, Solution, Status

WARM_SECONDS = 2.0

_warm: set[tuple[int, str, str, str]] = set()


@dataclass(frozen=True)
class Outcome:
    """A solution, or the reason why there is none: refused before any work, or failed."""

    solution: Solution | None
    skipped: str = ""
    cpu_seconds: float = 0.0


def attempt(job: Job, progress: Progress | None = None) -> Outcome:
    """Solve a cell and turn refusals and faults into reasons, so that no solver ends a comparison.

    Each process first solves a small instance with the solver: code is compiled and libraries are
    loaded then, which must not count as solving time. Ctrl-C passes through.
    """
    try:
        _warm_up(job)
        started = process_time()
        solution = run_job(job, progress)
        seconds = process_time() - started
    except (SolverRefused, MissingPackage) as error:
        return Outcome(None, reason_of(error))
    except PrunebenchError as error:
        return Outcome(None, f"{FAILED}{error}")
    except Exception as error:
        return Outcome(None, f"{FAILED}{type(error).__name__}: {error}")
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return Outcome(solution, "", seconds)


def reason_of(refusal: Exception) -> str:
    """A refusal's own words, without the solver and block that the row names anyway."""
    return str(refusal).split("): ", 1)[-1]


def _warm_up(job: Job) -> None:
    """Compile for this block's mode and representation, once in each process."""
    from prunebench.testing.instances import instance

    representation = "factor" if job.block.form.factor is not None else "hessian"
    key = (os.getpid(), repr(job.solver), job.block.mode, representation)
    if key in _warm:
        return
    _warm.add(key)
    small = instance("gaussian", 1 if representation == "factor" else 2, job.block.mode, p=8, keep=4)
    try:
        run_job(replace(job, block=small, budget=Budget(seconds=WARM_SECONDS)))
    except SolverRefused:
        return
