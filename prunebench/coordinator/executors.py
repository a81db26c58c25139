"""Where blocks are solved: in this process, in worker processes, or on a dask.distributed cluster.

Any concurrent.futures.Executor will do. A worker that dies is survived: its block is handed in
again. A solver that hangs is given up some time after its limit, and stopped where it runs in a
process of ours.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.registry import require_packages
from prunebench.core.solution import Budget, Progress, Solution
from prunebench.core.solver import Solver, solve

WARM_UP_SECONDS = 120.0
"""What a worker may take to load and compile before the clock of its first job starts."""
GRACE_SECONDS = 10.0
"""How long after its time limit a solver elsewhere may still answer before it is given up."""

REPORT_SECONDS = 5.0
"""A solve in this process tells its incumbent at most this often."""

MOST_DEATHS = 3
"""A block whose worker died so often is given up: it probably kills its worker."""

Say = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """One block to be solved, with its solver, budget and seed."""

    block: BlockProblem
    solver: Solver
    budget: Budget
    seed: int
    blas_threads: int | None = 1
    """Threads for BLAS; one by default, so that sums are rounded alike wherever the job runs; None: as they are."""


def run_job(job: Job, progress: Progress | None = None) -> Solution:
    """Solve one job: what is sent to workers."""
    with _blas_threads().limit(limits=job.blas_threads):
        return solve(job.block, job.solver, budget=job.budget, seed=job.seed, progress=progress)


Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Result_co]):
    """What is done with a job; by default it is solved."""

    def __call__(self, job: Job, progress: Progress | None = None) -> Result_co:
        """The result of one job."""
        ...


class Inline:
    """Solve in this process, one after the other; only Ctrl-C stops a solver that ignores its limit."""

    width = 1

    def answers(
        self,
        jobs: Sequence[Job],
        say: Say,
        work: Work[Result] = run_job,  # type: ignore[assignment]  # mypy cannot tie a default to a type variable
    ) -> list[tuple[Result | None, str]]:
        """The answers to all jobs, in their order; a long solve tells its incumbents."""
        return [(work(job, _sparing(say)), "") for job in jobs]

    def close(self) -> None:
        """Nothing is held."""


class Pooled:
    """Solve through a concurrent.futures.Executor.

    Parameters
    ----------
    make : gives a new executor; called again after a worker died or had to be stopped
    width : jobs worked on at a time
    stop : ends an executor at once, its running jobs included
    """

    def __init__(
        self, make: Callable[[], Executor], width: int, stop: Callable[[Any], None] = lambda pool: pool.shutdown(False)
    ) -> None:
        self.width = width
        self._make, self._stop = make, stop
        self._pool: Executor | None = None

    def answers(
        self,
        jobs: Sequence[Job],
        say: Say,
        work: Work[Result] = run_job,  # type: ignore[assignment]  # mypy cannot tie a default to a type variable
    ) -> list[tuple[Result | None, str]]:
        """The answers to all jobs, in their order, whatever the order of completion."""
        held: dict[int, tuple[Result | None, str]] = {}
        deaths = 0
        while len(held) < len(jobs):
            if self._pool is None:
                self._pool = self._make()
            waiting = {i: self._pool.submit(work, job) for i, job in enumerate(jobs) if i not in held}
            rounds = math.ceil(len(waiting) / self.width)
            try:
                for i, future in waiting.items():
                    held[i] = self._answer(future, jobs[i], rounds)
            except BrokenProcessPool:
                deaths += 1
                say("a worker died; its block is handed in again")
                self.close()
                if deaths >= MOST_DEATHS:
                    held |= {i: (None, f"workers died {deaths} times") for i in waiting if i not in held}
            except TimeoutError:
                self.close()
                late = next(i for i in waiting if i not in held)
                reason = f"solver {jobs[late].solver.name!r} did not stop at its time limit and was given up"
                say(f"{jobs[late].block.name}: {reason}")
                held[late] = None, reason
        return [held[i] for i in range(len(jobs))]

    def close(self) -> None:
        """End the executor at once."""
        if self._pool is not None:
            self._stop(self._pool)
            self._pool = None

    @staticmethod
    def _answer(future: "Future[Any]", job: Job, rounds: int) -> tuple[Any, str]:
        limit = job.budget.seconds * rounds + GRACE_SECONDS + WARM_UP_SECONDS
        return future.result(timeout=None if math.isinf(limit) else limit), ""


Workers = Inline | Pooled


def _sparing(say: Say) -> Progress:
    """Progress that speaks every REPORT_SECONDS at most."""
    last = 0.0

    def progress(seconds: float, objective: float, lower_bound: float) -> None:
        nonlocal last
        if seconds - last >= REPORT_SECONDS:
            last = seconds
            bound = f", lower bound {lower_bound:.6e}" if math.isfinite(lower_bound) else ""
            say(f"  {seconds:.0f} s: objective {objective:.6e}{bound}")

    return progress


def make_workers(text: str | None) -> Workers:
    """Workers from the command line's words: None or "inline", "local:N", or "dask:ADDRESS".

    Raises
    ------
    InvalidInput     another word, a count below 1, or no scheduler at the address
    MissingPackage   dask.distributed is not installed
    """
    kind, _, rest = (text or "inline").partition(":")
    if kind == "inline" and not rest:
        return Inline()
    if kind == "local":
        if not rest.isdigit() or int(rest) < 1:
            raise InvalidInput(f"--executor {text}: the number of processes must follow, for example local:2")
        count = int(rest)
        return Pooled(lambda: _process_pool(count), count, _kill_processes)
    if kind == "dask":
        require_packages("executor dask", ("distributed",), "pip install 'prunebench[dask]'")
        return _dask(rest, str(text))
    raise InvalidInput(f"--executor {text}: choose inline, local:N, or dask:ADDRESS")


def _process_pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)


def _kill_processes(pool: ProcessPoolExecutor) -> None:
    """Stop workers even in the middle of a job; shutdown alone would wait for it."""
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()


def _leave_interrupts_to_the_parent() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask(address: str, text: str) -> Pooled:
    from distributed import Client

    if not address:
        raise InvalidInput(f"--executor {text}: the scheduler's address must follow, for example dask:tcp://host:8786")
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--executor {text}: no dask scheduler answers at {address} ({error})") from error
    width = max(1, len(client.scheduler_info()["workers"]))
    return Pooled(lambda: client.get_executor(retries=MOST_DEATHS), width)


@cache
def _blas_threads() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
