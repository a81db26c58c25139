"""One cell of a comparison: one solver on one block with one seed, whatever happens."""

from dataclasses import dataclass
from time import process_time

from prunebench.comparison.table import FAILED
from prunebench.core.errors import MissingPackage, PrunebenchError, SolverRefused
from prunebench.core.solution import Progress, Solution, Status
from prunebench.core.warm import warm_up
from prunebench.runs.executors import Job, run_job
from prunebench.solving import native_or_refit


@dataclass(frozen=True)
class Outcome:
    """A solution, or the reason why there is none: refused before any work, or failed."""

    solution: Solution | None
    skipped: str = ""
    failed: bool = False
    """Whether the solver broke."""
    cpu_seconds: float = 0.0


def attempt(job: Job, progress: Progress | None = None) -> Outcome:
    """Solve a cell and turn refusals and faults into reasons, so that no solver ends a comparison.

    What is loaded and compiled for the solver counts neither as its time nor as its processor time.
    Ctrl-C passes through.
    """
    try:
        warm_up(native_or_refit(job.solver, job.block), job.block)
        started = process_time()
        solution = run_job(job, progress)
        seconds = process_time() - started
    except (SolverRefused, MissingPackage) as error:
        return Outcome(None, reason_of(error))
    except PrunebenchError as error:
        return failure(error)
    except Exception as error:
        return failure(f"{type(error).__name__}: {error}")
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return Outcome(solution, cpu_seconds=seconds)


def failure(words: object) -> Outcome:
    """The outcome of a solver that broke."""
    return Outcome(None, f"{FAILED}{words}", failed=True)


def reason_of(refusal: Exception) -> str:
    """A refusal's own words, without the solver and block that the row names anyway."""
    return refusal.reason if isinstance(refusal, SolverRefused) else f"{refusal}"
