"""One cell of a comparison: one solver on one block with one seed, whatever happens."""

from dataclasses import dataclass
from time import process_time

from prunebench.comparison.table import FAILED
from prunebench.core.errors import MissingPackage, PrunebenchError, SolverRefused
from prunebench.core.solution import Progress, Solution, Status
from prunebench.core.solver import native_or_refit
from prunebench.core.warm import warm_up
from prunebench.runs.executors import Job, run_job


@dataclass(frozen=True)
class Outcome:
    """A solution, or the reason why there is none: refused before any work, or failed."""

    solution: Solution | None
    skipped: str = ""
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
        return Outcome(None, f"{FAILED}{error}")
    except Exception as error:
        return Outcome(None, f"{FAILED}{type(error).__name__}: {error}")
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return Outcome(solution, "", seconds)


def reason_of(refusal: Exception) -> str:
    """A refusal's own words, without the solver and block that the row names anyway."""
    return str(refusal).split("): ", 1)[-1]
