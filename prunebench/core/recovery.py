"""Recovery: steps between and after pruning that reduce the loss; every coordinator takes a list of them.

A recovery keeps the mask. Its proposals are judged by the loss on held-out calibration samples and accepted
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
"""Held-out calibration samples: at most MOST_HELD_OUT, and at most one in PART_HELD_OUT."""

NONE = "none"
"""The name that requests no recovery, not even the coordinator's default."""


@dataclass(frozen=True)
class Division:
    """Positions of calibration samples: `held` judge proposals, recovery draws from `pool`. int64 (h,), (s,)"""

    held: IndexArray
    pool: IndexArray

    @staticmethod
    def of(total: int, seed: int, held: int | None = None) -> "Division":
        """Hold out `held` of `total` samples at random; the pool is in random order.

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
    """How many of `total` samples are held out if no number is requested."""
    return min(MOST_HELD_OUT, max(1, total // PART_HELD_OUT))


@dataclass(frozen=True)
class Stand:
    """The state that a round of recovery starts from.

    network : a prunebench.recovery.movable.MovableNetwork, at `weights`
    weights : float64 (p,), zero off the mask;  mask : bool (p,)
    last : whether the run's last stage is over
    memory : what `learned` returned after the round before, empty at first
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
    """Whether it proposes weights; otherwise it only looks at the dense network (`attach`)."""

    needs_samples: ClassVar[bool] = False
    """Whether it refuses to begin with fewer calibration samples than its option `samples`."""

    of_groups: ClassVar[bool] = False
    """Whether it is for networks that lose whole groups, whose coordinator runs it by itself."""

    reserves: ClassVar[bool] = False
    """Whether each of its rounds uses up a step number of the run, from which its random draws are seeded."""

    def attach(self, network: Any) -> None:  # noqa: B027  # the default needs nothing of the network
        """Look at the network while it still has its dense weights.

        network : prunebench.recovery.movable.MovableNetwork

        Raises
        ------
        InvalidInput   it cannot recover this network
        """

    def rounds_after(self, kept: int, total: int, last: bool) -> int:
        """The most rounds after a stage that keeps `kept` of `total` weights. last : whether it ends the run"""
        return 0

    def candidates(self, stand: Stand) -> Sequence[FloatArray]:
        """Proposed weights, zero off the mask. float64 (p,) each"""
        return []

    def learned(self, memory: Mapping[str, float], accepted: bool) -> Mapping[str, float]:
        """What the next round needs to know. accepted : whether this round's proposal was taken"""
        return memory

    def require_memory(self, memory: Mapping[str, float]) -> None:
        """Check a checkpoint's value of what `learned` returned; by default it must be empty.

        Raises
        ------
        InvalidInput   `learned` cannot have returned it
        """
        if memory:
            raise InvalidInput(f"recovery {self.name} remembers {dict(memory)} where it remembers nothing")

    def spawn_key(self, first: int, number: int) -> tuple[int, ...]:
        """Seeds its random draws, with the run's seed. first : the stage's last step;  number : of the round"""
        return (5, first, number, *self.name.encode())


def reserved(steps: Sequence[Recovery], kept: int, total: int, last: bool) -> int:
    """How many step numbers the rounds after a stage use up."""
    return sum(step.rounds_after(kept, total, last) for step in steps if step.reserves)


def parse(texts: Sequence[str]) -> tuple[Recovery, ...]:
    """Recoveries from texts like "batch-norm" or "layers:samples=500,ridge=0.01", in order; () from "none".

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
    """The text from which `parse` makes this recovery."""
    options = option_tools.as_json(step)
    listed = {name: f"({','.join(map(str, value))})" for name, value in options.items() if isinstance(value, list)}
    pairs = [f"{name}={'none' if value is None else value}" for name, value in {**options, **listed}.items()]
    return f"{step.name}:{','.join(pairs)}" if pairs else step.name


def parts_of(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of NAME:K=V,K=V: `pairs_of`.

    Raises
    ------
    InvalidInput   a part is not of the form K=V, or a key is repeated
    """
    name, _, rest = text.partition(":")
    return name, pairs_of(rest, f"recovery {text!r}")


def pairs_of(text: str, what: str) -> dict[str, str]:
    """The values of K=V,K=V by key; commas in parentheses do not separate. what : what messages call the text

    Raises
    ------
    InvalidInput   a part is not of the form K=V, or a key is repeated
    """
    out: dict[str, str] = {}
    for part in filter(None, re.split(r",(?![^(]*\))", text)):
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise InvalidInput(f"{what}: {part!r} is not of the form K=V")
        if key in out:
            raise InvalidInput(f"{what}: {key} is given twice")
        out[key] = value
    return out
