"""What is done to a network between and after pruning steps, so that it loses less: a list that any coordinator takes.

A recovery keeps the mask. What it proposes is judged by the loss on calibration samples held out for that, and taken
if the loss falls.
"""

import re
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.registry import RECOVERIES, register_recovery

register = register_recovery

MOST_HELD_OUT, PART_HELD_OUT = 3000, 5
"""Calibration samples that judge: at most so many, and one in so many where there are few."""

NONE = "none"
"""What is asked for where no recovery is wanted, not even the coordinator's own."""


@dataclass(frozen=True)
class Division:
    """Calibration samples by position: `held` judge, from `pool` steps take theirs. int64 (h,), (s,)"""

    held: IndexArray
    pool: IndexArray

    @staticmethod
    def of(total: int, seed: int, held: int | None = None) -> "Division":
        """`held` of `total` samples at random, the pool in random order.

        Raises
        ------
        InvalidInput   nothing is left for the pool
        """
        apart = held_out(total) if held is None else held
        if apart >= total:
            raise InvalidInput(f"{apart} samples held out leave none of {total} calibration samples; take fewer")
        rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(2,)))
        order = rng.permutation(total).astype(np.int64)
        return Division(np.sort(order[:apart]), order[apart:])


def held_out(total: int) -> int:
    """How many of `total` samples judge where nothing is asked for."""
    return min(MOST_HELD_OUT, max(1, total // PART_HELD_OUT))


@dataclass(frozen=True)
class Stand:
    """Where a recovery begins.

    network : a prunebench.recovery.movable.MovableNetwork, at `weights`
    weights : float64 (p,), zero off the mask;  mask : bool (p,)
    last : whether the run's last stage is over
    memory : what `learned` gave the last time, empty at first
    """

    network: Any
    weights: FloatArray
    mask: BoolArray
    last: bool
    rng: np.random.Generator
    memory: Mapping[str, float]


class Recovery(ABC):
    """One kind of recovery: a frozen dataclass whose fields are its options, each with its sentence."""

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str] = ""

    moves: ClassVar[bool] = True
    """Whether it proposes weights; else it only looks at the dense network (`attach`)."""

    reserves: ClassVar[bool] = False
    """Whether each of its rounds takes a number among the run's steps, from which its draws come."""

    def attach(self, network: Any) -> None:  # noqa: B027  # by default nothing is looked at
        """Look at the network while it has its dense weights.

        network : prunebench.recovery.movable.MovableNetwork

        Raises
        ------
        InvalidInput   it cannot recover this network
        """

    def rounds_after(self, kept: int, total: int, last: bool) -> int:
        """How many steps it makes at most after a stage that keeps `kept` of `total` weights; `last`: of the run."""
        return 0

    def candidates(self, stand: Stand) -> Sequence[FloatArray]:
        """Weights to be judged, zero off the mask. float64 (p,) each"""
        return []

    def learned(self, memory: Mapping[str, float], accepted: bool) -> Mapping[str, float]:
        """What the next round is to know, after one that was taken or not."""
        return memory

    def require_memory(self, memory: Mapping[str, float]) -> None:
        """Check what a checkpoint says that `learned` gave; by default that is nothing.

        Raises
        ------
        InvalidInput   it cannot be
        """
        if memory:
            raise InvalidInput(f"recovery {self.name} remembers {dict(memory)} where it remembers nothing")

    def spawn_key(self, first: int, number: int) -> tuple[int, ...]:
        """What its draws come from, beside the run's seed. first : the stage's last step;  number : the round's"""
        return (5, first, number, *self.name.encode())


def reserved(steps: Sequence[Recovery], kept: int, total: int, last: bool) -> int:
    """How many numbers of steps the rounds after a stage take."""
    return sum(step.rounds_after(kept, total, last) for step in steps if step.reserves)


def parse(texts: Sequence[str]) -> tuple[Recovery, ...]:
    """Recoveries from texts like "batch-norm" or "layers:samples=500,ridge=0.01", in their order; "none" for none.

    Raises
    ------
    UnknownName    no recovery or option of that name
    InvalidInput   a text without K=V, a value that does not fit, a recovery given twice, or "none" beside others
    """
    if list(texts) == [NONE]:
        return ()
    out: list[Recovery] = []
    for name, options in map(parts_of, texts):
        if name == NONE:
            raise InvalidInput(f"recovery {NONE!r} is given beside others; say it alone, or leave it out")
        if any(step.name == name for step in out):
            raise InvalidInput(f"recovery {name!r} is given twice; give each once")
        out.append(option_tools.build(RECOVERIES.get(name), options))
    return tuple(out)


def as_text(step: Recovery) -> str:
    """The text that `parse` makes the step of."""
    options = option_tools.as_json(step)
    listed = {name: f"({','.join(map(str, value))})" for name, value in options.items() if isinstance(value, list)}
    pairs = [f"{name}={'none' if value is None else value}" for name, value in {**options, **listed}.items()]
    return f"{step.name}:{','.join(pairs)}" if pairs else step.name


def parts_of(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of NAME:K=V,K=V; commas in parentheses part nothing.

    Raises
    ------
    InvalidInput   a part is not of the form K=V, or a key is given twice
    """
    name, _, rest = text.partition(":")
    out: dict[str, str] = {}
    for part in filter(None, re.split(r",(?![^(]*\))", rest)):
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise InvalidInput(f"recovery {text!r}: {part!r} is not of the form K=V")
        if key in out:
            raise InvalidInput(f"recovery {text!r}: {key} is given twice")
        out[key] = value
    return name, out
