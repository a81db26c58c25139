"""Passes over samples shared out among workers, each of which holds the network and its share of the samples.

Work is cut into pieces that do not depend on how many workers there are, results are put together in the order of the
pieces, and workers have the threads of this process: so what comes out is what this process alone would compute, bit
for bit. A worker's death costs its share, which another computes again.
"""

import copy
import pickle
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch

from prunebench import threads
from prunebench.core.crew import Crew, MemberGone
from prunebench.core.errors import InvalidInput, WorkersGone
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.sent import dumped
from prunebench.curvature.share_worker import LOSS, Answer, Call, CannotLoad, Made, NotHeld, answer, ready
from prunebench.curvature.sync import Synced
from prunebench.networks.network import PrunableNetwork

Say = Callable[[str], None]

MOST_DEATHS = 3
"""A share whose worker died so often is given up: it probably kills its worker (too little memory, say)."""

START_SECONDS = 4.0
"""What starting workers takes, about: imports, and the network's way to them."""

OPERATIONS_A_SECOND = 2e10
"""Of one core in float32, about: products of matrices as networks have them."""


@dataclass(frozen=True, eq=False)
class Need:
    """What a worker must hold for a job: `Made`, whose `given` is only asked for where it is sent."""

    slot: str
    number: int
    make: Callable[..., Any]
    given: Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Job:
    """A piece of work.

    share : jobs of a share go to the same worker while it lives;  work : what is called there
    given : asked for when it is sent;  needs : what the worker must hold
    """

    share: int
    work: Callable[..., Any]
    given: Callable[[], tuple[Any, ...]]
    needs: tuple[Need, ...] = ()


@dataclass(eq=False)
class Spent:
    """What sharing out costs, since it was last told.

    Bytes sent of the network, of its changes and of work (samples with it), and bytes received; seconds for sending
    the network, writing what is sent, waiting, and of the workers' processors.
    """

    jobs: int = 0
    deaths: int = 0
    network_bytes: int = 0
    changes_bytes: int = 0
    work_bytes: int = 0
    result_bytes: int = 0
    setup_seconds: float = 0.0
    send_seconds: float = 0.0
    wait_seconds: float = 0.0
    worker_cpu_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return dict(vars(self))


class Sharing:
    """Has jobs done by a crew, whose members are brought up to date with the network before each.

    Parameters
    ----------
    crew : started when there is work that pays;  model : whose passes are shared out, on the CPU
    loss : the problem's, of which others may be made;  say : told of deaths, and why nothing is shared out
    operations : multiply-adds of one sample's forward pass
    """

    def __init__(self, crew: Crew, model: torch.nn.Module, loss: Loss, say: Say, operations: float) -> None:
        self._crew, self._model, self._loss, self._say, self._operations = crew, model, loss, say, operations
        self._run = uuid.uuid4().hex
        self._setup: bytes | None = None
        """The network as members read it; b"" where it has to be written anew, None before the first is started."""
        self._synced: Synced | None = None
        self._version = 0
        self._changes: deque[tuple[int, bytes]] = deque()
        self._known: dict[str, int] = {}
        """The version of the network that each member holds."""
        self._slots: dict[tuple[str, str], int] = {}
        self._owners: dict[int, str] = {}
        self._numbers = 0
        self._off = False
        self._would_save = 0.0
        self.now = Spent()

    @property
    def width(self) -> int:
        """How many members there are."""
        return max(1, self._crew.size)

    def number(self) -> int:
        """A number that was not given before, for what workers are to hold."""
        self._numbers += 1
        return self._numbers

    def pays(self, network: PrunableNetwork, passes: float, result_bytes: float) -> bool:
        """Whether workers would be done sooner than this process, and hold the network.

        They are started, and sent the network, when what they would have saved so far is as much as that takes. So no
        run takes more than twice the time of the better choice, whatever comes.

        Parameters
        ----------
        passes : forward passes of one sample that the work is worth;  result_bytes : that come back
        """
        if self._off:
            return False
        # a worker has as many threads as this process
        alone = 2.0 * self._operations * passes / (OPERATIONS_A_SECOND * torch.get_num_threads())
        saved = alone * (1.0 - 1.0 / self.width) - result_bytes / self._crew.bytes_a_second
        if saved <= 0.0:
            return False
        self._would_save += saved
        if self._setup is None and self._would_save < START_SECONDS:
            return False
        return self._have_network(network)

    def results(self, network: PrunableNetwork, jobs: Sequence[Job]) -> Iterator[Any]:
        """The results of all jobs, in their order.

        Raises
        ------
        InvalidInput  samples that cannot be sent
        WorkersGone   no member is left, or one job's died MOST_DEATHS times
        Exception     what a job raised
        """
        self._note_changes()
        self._note_gone()
        open_jobs, deaths = list(range(len(jobs))), [0] * len(jobs)
        waiting: dict[str, Future[bytes]] = {}
        doing: dict[str, int] = {}
        held: dict[int, Any] = {}
        given = 0
        while given < len(jobs):
            for number in list(open_jobs):
                member = self._owner(jobs[number].share, doing)
                if member not in doing:
                    if self._send(member, network, jobs[number], waiting):
                        open_jobs.remove(number)
                        doing[member] = number
                    else:
                        self._lost(member)
                        _count(deaths, number)
            if not waiting:
                continue
            clock = perf_counter()
            member, said = self._crew.first(waiting)
            self.now.wait_seconds += perf_counter() - clock
            number = doing.pop(member)
            del waiting[member]
            found = None if said is None else self._read(said)
            if found is None or isinstance(found.error, NotHeld):
                if found is None:
                    self._lost(member)
                    _count(deaths, number)
                # else it lives, and another run's network took the place of this one's
                self._forget(member)
                open_jobs.insert(0, number)
                continue
            if found.error is not None:
                raise found.error
            held[number] = found.result
            while given in held:
                yield held.pop(given)
                given += 1
        self._drop_sent()

    def spent(self) -> dict[str, Any]:
        """What was spent since this was last asked."""
        now, self.now = self.now, Spent()
        return now.as_json() if now.jobs or now.deaths else {}

    def close(self) -> None:
        """End the crew."""
        self._crew.close()

    def dumped(self, loss: Loss) -> bytes:
        """A loss as workers read it, `share_worker.given_loss`."""
        return dumped(loss, self._crew.pickler, {LOSS: self._loss})

    def _have_network(self, network: PrunableNetwork) -> bool:
        """Whether members hold the network; if they cannot, it is told, and nothing is shared out any more."""
        if self._setup is not None:
            return True
        clock, before = perf_counter(), (self.now.send_seconds, self.now.wait_seconds)
        try:
            self._synced = Synced(self._model)
            # a copy: hooks that are there now are this process's own
            self._setup = dumped((without_hooks(self._model), self._loss), self._crew.pickler, {})
        except Exception as error:  # pickling meets any code of the user's
            return self._cannot(f"{type(error).__name__}: {error}")
        try:
            for _ in self.results(network, [Job(share, ready, tuple) for share in range(self.width)]):
                pass
        except CannotLoad as error:
            return self._cannot(str(error))
        self.now.setup_seconds += perf_counter() - clock
        self.now.send_seconds, self.now.wait_seconds = before
        return True

    def _cannot(self, words: str) -> bool:
        self._off, self._setup = True, None
        self._say(f"workers cannot be sent this network ({words}); its passes are computed in this process")
        return False

    def _note_changes(self) -> None:
        """Find what has changed since the last call, which members are then sent."""
        if self._synced is None:
            return
        clock = perf_counter()
        if found := self._synced.changes():
            self._version += 1
            self._changes.append((self._version, pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL)))
            while sum(len(held) for _, held in self._changes) > self._synced.nbytes and len(self._changes) > 1:
                self._changes.popleft()
            self._setup = b""
        self.now.send_seconds += perf_counter() - clock

    def _note_gone(self) -> None:
        """Note members that died since the last call, of whom nothing may be asked any more."""
        if self._known:
            living = self._crew.members
            for member in [name for name in self._known if name not in living]:
                self._lost(member)

    def _drop_sent(self) -> None:
        """Hold no bytes of the network that all members have; it is written anew for one that comes later."""
        if self._setup is not None:
            self._setup = b""
        known = min(self._known.values(), default=self._version)
        while self._changes and self._changes[0][0] <= known:
            self._changes.popleft()

    def _send(self, member: str, network: PrunableNetwork, job: Job, waiting: dict[str, "Future[bytes]"]) -> bool:
        """Send a job to a member; whether it lives."""
        clock = perf_counter()
        setup, changes = self._missing(member)
        missing = [need for need in job.needs if self._slots.get((member, need.slot)) != need.number]
        call = Call(
            run=self._run,
            setup=setup,
            changes=changes,
            threads=torch.get_num_threads(),
            blas_threads=threads.of_blas(),
            names=network.names,
            made=[Made(need.slot, need.number, need.make, need.given()) for need in missing],
            work=job.work,
            given=job.given(),
        )
        try:
            sent = dumped(call, pickle.Pickler, {})
        except Exception as error:  # pickling meets any code of the user's
            raise InvalidInput(
                f"workers cannot be sent these samples ({type(error).__name__}: {error}); let their batches be "
                "tensors, or leave the executor out"
            ) from error
        try:
            waiting[member] = self._crew.send(member, answer, sent)
        except MemberGone:
            return False
        changed = sum(map(len, changes))
        self.now.jobs += 1
        self.now.network_bytes += len(setup or b"")
        self.now.changes_bytes += changed
        self.now.work_bytes += len(sent) - len(setup or b"") - changed
        self._known[member] = self._version
        for need in missing:
            self._slots[member, need.slot] = need.number
        self.now.send_seconds += perf_counter() - clock
        return True

    def _missing(self, member: str) -> tuple[bytes | None, list[bytes]]:
        """What a member is sent of the network: all of it, or what changed since it was last sent something."""
        known = self._known.get(member)
        if known is not None and (known == self._version or (self._changes and self._changes[0][0] <= known + 1)):
            return None, [held for version, held in self._changes if version > known]
        if not self._setup:
            self._setup = dumped((without_hooks(self._model), self._loss), self._crew.pickler, {})
        return self._setup, []

    def _owner(self, share: int, doing: dict[str, int]) -> str:
        """The member that has a share; of one that is gone, a living one that has the fewest."""
        members, owner = self._crew.members, self._owners.get(share)
        if owner not in members:
            if owner in self._known:
                self._lost(owner)
            held = [name for name in self._owners.values() if name in members]
            self._owners[share] = min(members, key=lambda name: (held.count(name), name in doing, members.index(name)))
        return self._owners[share]

    def _forget(self, member: str) -> None:
        """Know no more of what a member holds, so that it is sent everything."""
        self._known.pop(member, None)
        self._slots = {key: held for key, held in self._slots.items() if key[0] != member}

    def _lost(self, member: str) -> None:
        """Note that a member died."""
        self._forget(member)
        self.now.deaths += 1
        self._say("a worker died; its share of the samples goes to another")

    def _read(self, said: bytes) -> Answer:
        found: Answer = pickle.loads(said)
        self.now.result_bytes += len(said)
        self.now.worker_cpu_seconds += found.seconds
        return found


def _count(deaths: list[int], number: int) -> None:
    """Count that a job's member died.

    Raises
    ------
    WorkersGone   MOST_DEATHS did
    """
    deaths[number] += 1
    if deaths[number] >= MOST_DEATHS:
        raise WorkersGone(f"workers died {MOST_DEATHS} times over the same share of the samples")


def without_hooks(model: torch.nn.Module) -> torch.nn.Module:
    """The model with the same tensors, and no hooks in it."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, memo)
    for module in made.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(module, name).clear()
    return made


def spans(count: int, parts: int) -> list[range]:
    """`count` pieces in at most so many stretches of nearly the same length, in order."""
    parts = max(1, min(parts, count))
    edges = [count * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]
