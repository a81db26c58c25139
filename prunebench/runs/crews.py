"""Workers that keep a network: processes of this machine, or those of a dask cluster, each known by a name.

They are others than the processes of `local:N` that solve blocks: those need no torch, and one that has to be stopped
because its solver hangs takes no network with it. On a cluster they are the same workers.
"""

import asyncio
import pickle
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from prunebench.core.crew import MemberGone, Work
from prunebench.core.errors import WorkersGone
from prunebench.runs.executors import kill_processes, process_pool

LOOK_SECONDS = 1.0
"""How often it is asked which workers of a cluster live."""

LARGE = 2**20
"""Bytes from which what is sent goes to the worker itself, and not through the scheduler's graph of tasks."""


LOCAL_BYTES = 5e8
"""Bytes a second that come back from a process of this machine and are put in their place, about, as measured."""

DASK_BYTES = 3e8
"""The same from a worker of a dask cluster through its scheduler on loopback, with cores to spare; half as many where
others want them: `benchmarks/workers.py`."""


class LocalCrew:
    """Processes of this machine, each alone in a pool of its own; one that dies is replaced under a new name."""

    pickler: type[pickle.Pickler] = pickle.Pickler
    bytes_a_second: float = LOCAL_BYTES

    def __init__(self, count: int) -> None:
        self._count, self._made = count, 0
        self._pools: dict[str, ProcessPoolExecutor] = {}

    @property
    def members(self) -> tuple[str, ...]:
        """Their names: numbers, in order.

        Raises
        ------
        WorkersGone   processes do not start
        """
        if missing := self._count - len(self._pools):
            with ThreadPoolExecutor(missing) as starting:
                for pool in starting.map(process_pool, [1] * missing):
                    self._made += 1
                    self._pools[str(self._made)] = pool
        return tuple(self._pools)

    @property
    def size(self) -> int:
        """How many processes."""
        return self._count

    def send(self, member: str, work: Work, given: bytes) -> "Future[bytes]":
        """Have a process do something."""
        try:
            return self._pools[member].submit(work, given)
        except (BrokenProcessPool, KeyError):
            self._end(member)
            raise MemberGone from None

    def first(self, waiting: "Mapping[str, Future[bytes]]") -> tuple[str, bytes | None]:
        """Wait for the first process to be done, or to die."""
        done, _ = wait(waiting.values(), return_when=FIRST_COMPLETED)
        member = next(name for name, future in waiting.items() if future in done)
        try:
            return member, waiting[member].result()
        except BrokenProcessPool:
            self._end(member)
            return member, None

    def close(self) -> None:
        """End all processes at once."""
        for member in list(self._pools):
            self._end(member)

    def _end(self, member: str) -> None:
        pool = self._pools.pop(member, None)
        if pool is not None:
            kill_processes(pool)


class DaskCrew:
    """The workers of a dask cluster, by their addresses."""

    bytes_a_second: float = DASK_BYTES

    def __init__(self, client: Any) -> None:
        import cloudpickle

        # it also takes what is defined in the script that runs, which workers do not import
        self.pickler: type[pickle.Pickler] = cloudpickle.Pickler
        self._client = client
        self._living: tuple[str, ...] = ()
        self._looked = float("-inf")

    @property
    def members(self) -> tuple[str, ...]:
        """Their addresses, in order.

        Raises
        ------
        WorkersGone   the scheduler does not answer, or has no worker
        """
        if time.monotonic() - self._looked > LOOK_SECONDS:
            try:
                self._living = tuple(sorted(self._client.nthreads()))
            except Exception as error:  # distributed raises many kinds where the scheduler is gone
                raise WorkersGone(f"the dask scheduler is gone ({type(error).__name__})") from error
            if not self._living:
                self._wait_for_one()
            self._looked = time.monotonic()
        return self._living

    @property
    def size(self) -> int:
        """How many workers live."""
        return len(self.members)

    def send(self, member: str, work: Work, given: bytes) -> "Future[bytes]":
        """Have a worker do something."""
        try:
            held = self._client.scatter(given, workers=[member], hash=False) if len(given) > LARGE else given
            executor = self._client.get_executor(workers=[member], allow_other_workers=False, retries=0, pure=False)
            future: Future[bytes] = executor.submit(work, held, key=f"prunebench-{uuid.uuid4().hex}")
        except (OSError, ValueError, TimeoutError, KeyError):
            self._looked = float("-inf")
            raise MemberGone from None
        return future

    def first(self, waiting: "Mapping[str, Future[bytes]]") -> tuple[str, bytes | None]:
        """Wait for the first worker to be done, or to be gone."""
        while True:
            done, _ = wait(waiting.values(), timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for member, future in waiting.items():
                if future in done:
                    return member, self._answer(future)
            living = self.members
            gone = next((name for name in waiting if name not in living), None)
            if gone is not None:
                # what is for one worker alone would wait for it for ever
                waiting[gone].cancel()
                return gone, None

    def close(self) -> None:
        """The cluster is the user's, and goes on."""

    def _answer(self, future: "Future[bytes]") -> bytes | None:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        try:
            return future.result()
        except (KilledWorker, FutureCancelledError, CancelledError, asyncio.CancelledError):
            self._looked = float("-inf")
            return None

    def _wait_for_one(self) -> None:
        """Give a worker that was restarted the time to come back.

        Raises
        ------
        WorkersGone   none does
        """
        from prunebench.runs.executors import GRACE_SECONDS

        try:
            self._client.wait_for_workers(1, timeout=GRACE_SECONDS)
        except TimeoutError:
            raise WorkersGone("the dask cluster has no worker any more") from None
        self._living = tuple(sorted(self._client.nthreads()))
