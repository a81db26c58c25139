"""Where blocks are solved: in this process, in worker processes, or on a dask.distributed cluster.

Any concurrent.futures.Executor will do. A worker that dies is survived: its block is handed in
again. A solver that hangs is given up some time after its limit, and stopped where it runs in a
process of ours. A solver that raises is an answer too: a `Failed` with its own words.
"""

import asyncio
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prunebench import threads
from prunebench.core.block import BlockProblem
from prunebench.core.crew import Crew
from prunebench.core.errors import InvalidInput, PrunebenchError, WorkersGone
from prunebench.core.registry import require_packages
from prunebench.core.solution import Budget, Progress, Solution
from prunebench.core.solver import SolverLike
from prunebench.solving import solve

WARM_UP_SECONDS = 120.0
"""What a worker may take to load and compile before the clock of its first job starts."""
GRACE_SECONDS = 10.0
"""How long after its time limit a solver elsewhere may still answer before it is given up."""

REPORT_SECONDS = 5.0
"""A solve in this process tells its incumbent at most this often."""

MOST_DEATHS = 3
"""A block whose worker died so often is given up: it probably kills its worker."""

MOST_WORDS = 400
"""Characters of a solver's error that are kept."""

UNGUARDED = 79
"""Exit code of a worker process that, by importing the main script, came to where it would start workers itself."""

GUARD = (
    "each worker process imports the script that began the run, and this one begins the run again there; put what it "
    'runs below the line: if __name__ == "__main__":'
)
"""What a script without a main guard is told when its workers die."""

Say = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """One block to be solved, with its solver, budget and seed."""

    block: BlockProblem
    solver: SolverLike
    budget: Budget
    seed: int
    blas_threads: int | None = 1
    """Threads for BLAS; one by default, so that sums are rounded alike wherever the job runs; None: by its size."""


def run_job(job: Job, progress: Progress | None = None) -> Solution:
    """Solve one job: what is sent to workers."""
    with threads.for_block(job.block, job.blas_threads):
        return solve(job.block, job.solver, budget=job.budget, seed=job.seed, progress=progress)


@dataclass(frozen=True)
class Failed:
    """Instead of a solution: why there is none, in the solver's own words."""

    reason: str


def answer_job(job: Job, progress: Progress | None = None) -> Solution | Failed:
    """Solve one job; a solver that fails gives its words. A wrong request and Ctrl-C pass through.

    Raises
    ------
    InvalidInput   the request is wrong: the solver refuses the block, or a package that it needs is missing
    """
    try:
        return run_job(job, progress)
    except InvalidInput:
        raise
    except PrunebenchError as error:
        return Failed(_shortened(str(error)))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        return Failed(_shortened(f"solver {job.solver.name!r} failed: {type(error).__name__}: {error} ({where})"))


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"


Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Result_co]):
    """What is done with a job; by default it is solved."""

    def __call__(self, job: Job, progress: Progress | None = None) -> Result_co:
        """The result of one job."""
        ...


class Inline:
    """Solve in this process, one after the other; only Ctrl-C stops a solver that ignores its limit."""

    width = 1
    crew: Callable[[], Crew] | None = None

    def start(self) -> None:
        """Nothing has to be started."""

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
    make : gives a new executor that works; called again after a worker died or had to be stopped.
           Raises WorkersGone where none can be had
    width : jobs worked on at a time
    stop : ends an executor at once, its running jobs included
    gone : why no executor can be had any more, "" while one can; asked when a job ends in an unknown way
    crew : makes those who compute passes over samples, None where nobody does
    """

    def __init__(
        self,
        make: Callable[[], Executor],
        width: int,
        stop: Callable[[Any], None] = lambda pool: pool.shutdown(False),
        gone: Callable[[], str] = lambda: "",
        crew: Callable[[], Crew] | None = None,
    ) -> None:
        self.width, self.crew = width, crew
        self._make, self._stop, self._gone = make, stop, gone
        self._pool: Executor | None = None

    def start(self) -> None:
        """Have the executor up, so that one that cannot be had is found out before any work.

        Raises
        ------
        WorkersGone   worker processes do not start, the scheduler does not answer any more
        """
        if self._pool is None:
            self._pool = self._make()

    def answers(
        self,
        jobs: Sequence[Job],
        say: Say,
        work: Work[Result] = run_job,  # type: ignore[assignment]  # mypy cannot tie a default to a type variable
    ) -> list[tuple[Result | None, str]]:
        """The answers to all jobs, in their order, whatever the order of completion.

        Raises
        ------
        InvalidInput   as the work does
        WorkersGone    there is nobody left to do it
        """
        held: dict[int, tuple[Result | None, str]] = {}
        deaths = 0
        while len(held) < len(jobs):
            self.start()
            waiting: dict[int, Future[Any]] = {}
            try:
                for i, job in enumerate(jobs):
                    if i not in held:
                        waiting[i] = self._submit(work, job)
                rounds = math.ceil(len(waiting) / self.width)
                for i, future in waiting.items():
                    held[i] = self._answer(future, jobs[i], rounds)
            except BrokenProcessPool:
                deaths += 1
                say("a worker died; its block is handed in again")
                self.close()
                if deaths >= MOST_DEATHS:
                    held |= {i: (None, f"workers died {deaths} times") for i in range(len(jobs)) if i not in held}
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

    def _submit(self, work: Work[Any], job: Job) -> "Future[Any]":
        assert self._pool is not None
        try:
            return self._pool.submit(work, job)
        except RuntimeError as error:
            if not isinstance(error, BrokenProcessPool) and (gone := self._gone()):
                raise WorkersGone(gone) from None
            raise

    def _answer(self, future: "Future[Any]", job: Job, rounds: int) -> tuple[Any, str]:
        limit = job.budget.seconds * rounds + GRACE_SECONDS + WARM_UP_SECONDS
        try:
            return future.result(timeout=None if math.isinf(limit) else limit), ""
        except (BrokenProcessPool, InvalidInput):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, TimeoutError) and not future.done():
                raise
            if gone := self._gone():
                raise WorkersGone(gone) from None
            return None, _shortened(f"{type(error).__name__}: {error}")


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
        leave_import_by_worker()
        return Pooled(lambda: process_pool(count), count, kill_processes, crew=partial(_local_crew, count))
    if kind == "dask":
        require_packages("executor dask", ("distributed",), "pip install 'prunebench[dask]'")
        return _dask(rest, str(text))
    raise InvalidInput(f"--executor {text}: choose inline, local:N, or dask:ADDRESS")


def leave_import_by_worker() -> None:
    """End this process if it is a worker that is importing the main script: what asks for workers there has no guard.

    Its parent is told by the exit code, and nothing of the run is begun a second time.
    """
    if getattr(current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def process_pool(count: int) -> ProcessPoolExecutor:
    """Worker processes, one of which has answered.

    Raises
    ------
    WorkersGone   none starts
    """
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker)
    first = pool.submit(os.getpid)
    processes = list((pool._processes or {}).values())
    try:
        first.result()
    except BrokenProcessPool:
        for process in processes:
            process.join(GRACE_SECONDS)
        unguarded = any(process.exitcode == UNGUARDED for process in processes)
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        likely = f" (its likely cause: {GUARD})" if script else ""
        raise WorkersGone(
            f"worker processes cannot be started: {GUARD}"
            if unguarded
            else f"worker processes die before they solve anything, what they say is above{likely}"
        ) from None
    except BaseException:
        kill_processes(pool)
        raise
    return pool


def kill_processes(pool: ProcessPoolExecutor) -> None:
    """Stop workers even in the middle of a job; shutdown alone would wait for it."""
    for worker in list((pool._processes or {}).values()):
        worker.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Leave interrupts to the parent, which knows how to stop, and end with it however it ends."""
    import signal
    import threading
    from multiprocessing import parent_process

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()

    def end_with_parent() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=end_with_parent, daemon=True).start()


def _dask(address: str, text: str) -> Pooled:
    from distributed import Client

    if not address:
        raise InvalidInput(f"--executor {text}: the scheduler's address must follow, for example dask:tcp://host:8786")
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--executor {text}: no dask scheduler answers at {address} ({error})") from error
    width = max(1, len(client.scheduler_info()["workers"]))

    def gone() -> str:
        try:
            client.scheduler_info()
            Client(address, timeout="5s", set_as_default=False).close()
        except Exception as error:
            return f"the dask scheduler at {address} is gone ({type(error).__name__})"
        return ""

    return Pooled(lambda: client.get_executor(retries=MOST_DEATHS), width, gone=gone, crew=partial(_dask_crew, client))


def _local_crew(count: int) -> Crew:
    from prunebench.runs.crews import LocalCrew

    return LocalCrew(count)


def _dask_crew(client: Any) -> Crew:
    from prunebench.runs.crews import DaskCrew

    return DaskCrew(client)
