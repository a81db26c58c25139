"""What a worker does: it holds a network, brings it up to date, and computes what it is asked for on its share.

What is sent is bytes. A worker keeps the network of one run; a call of another run takes its place.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from prunebench.core.errors import PrunebenchError
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.sent import loaded
from prunebench.curvature.sync import Change, apply
from prunebench.networks.network import PrunableNetwork

LOSS = "loss"
"""What the problem's own loss is called between here and there."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a worker is to hold from one call to the next, made from what is sent once.

    slot : where it is held;  number : tells it from what was there before;  make : makes it of `given`
    """

    slot: str
    number: int
    make: "Callable[..., Any]"
    given: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """What a worker is sent.

    run : whose network it is about;  setup : the model and the loss, where it does not hold them, as bytes
    changes : of the model since, as bytes;  names : the prunable parameters
    threads, blas_threads : of torch, and of BLAS, as the caller has them
    made : what it is to hold before it works;  work : called with what it holds and `given`
    """

    run: str
    setup: bytes | None
    changes: Sequence[bytes]
    threads: int
    blas_threads: int
    names: tuple[str, ...]
    made: Sequence[Made]
    work: "Callable[..., Any]"
    given: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a worker says: a result or an error, and its CPU seconds."""

    result: Any
    error: Exception | None
    seconds: float
    process: int


@dataclass(eq=False)
class Held:
    """The network of a run as a worker holds it, and what else it keeps by slot."""

    run: str
    model: torch.nn.Module
    loss: Loss
    slots: dict[str, tuple[int, Any]] = field(default_factory=dict)
    _networks: dict[tuple[str, ...], PrunableNetwork] = field(default_factory=dict)

    def network(self, names: tuple[str, ...]) -> PrunableNetwork:
        """The model with these parameters as the prunable ones."""
        if names not in self._networks:
            self._networks[names] = PrunableNetwork(self.model, names)
        return self._networks[names]


_held: list[Held] = []
"""The only entry is what this process holds now."""


class NotHeld(PrunebenchError):
    """A worker is asked about a network that it does not hold; its caller did not know that it is another process."""


class CannotLoad(PrunebenchError):
    """A worker cannot make the network of what it is sent: a module that it cannot import, say."""


def answer(given: bytes) -> bytes:
    """Do what a pickled `Call` asks for. -> a pickled `Answer`"""
    started = process_time()
    try:
        result, error = _answered(pickle.loads(given)), None
    except Exception as raised:  # whatever it is, it is the caller's to tell
        result, error = None, _portable(raised)
    said = Answer(result, error, process_time() - started, os.getpid())
    return pickle.dumps(said, protocol=pickle.HIGHEST_PROTOCOL)


def _answered(call: Call) -> Any:
    with threadpool_limits(limits=call.blas_threads, user_api="blas"):
        before = torch.get_num_threads()
        torch.set_num_threads(call.threads)
        try:
            held = _now(call)
            network = held.network(call.names)
            for made in call.made:
                held.slots[made.slot] = made.number, made.make(held, network, *made.given)
            return call.work(held, network, *call.given)
        finally:
            torch.set_num_threads(before)


def _now(call: Call) -> Held:
    """The network as the caller has it now."""
    if call.setup is not None:
        _held.clear()
        try:
            model, loss = pickle.loads(call.setup)
        except Exception as error:  # importing and unpickling meet any code of the user's
            raise CannotLoad(f"{type(error).__name__}: {error}") from error
        _held.append(Held(call.run, model, loss))
    if not _held or _held[0].run != call.run:
        raise NotHeld(f"this process holds no network of run {call.run}")
    held = _held[0]
    for change in call.changes:
        changes: list[Change] = pickle.loads(change)
        apply(held.model, changes)
    return held


def _portable(error: Exception) -> Exception:
    """The error, or its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error that cannot be pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def ready(_held: Held, _network: PrunableNetwork) -> None:
    """Nothing: the network is there."""


def given_loss(held: Held, sent: bytes) -> Loss:
    """A loss that may be made of the problem's own."""
    found: Loss = loaded(sent, {LOSS: held.loss})
    return found
