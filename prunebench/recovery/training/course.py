"""The course of a training: which samples come when, and at which learning rate. Loads no torch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.recovery.training.protocol import Protocol, chosen_samples

CYCLE_RISE = 1.0 / 3.0
"""The part of a one-cycle schedule in which the rate rises, from CYCLE_FIRST of its highest (as torch's OneCycleLR)."""
CYCLE_FIRST = 1.0 / 25.0
"""The part of the highest rate with which a one-cycle schedule begins, as in torch's OneCycleLR."""


@dataclass(frozen=True)
class DenseSchedule:
    """How the dense network was trained: along one cosine from `learning_rate` to 0 over so many epochs."""

    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Division:
    """Positions of calibration samples: those trained on, and those that judge after every epoch. int64 (s,), (h,)

    weights : how much each that is trained on counts, float64 (s,) with mean 1 over the subset; None where all count
    alike
    """

    trained: IndexArray
    judging: IndexArray
    weights: FloatArray | None = None

    @staticmethod
    def of(problem: str, total: int, protocol: Protocol) -> "Division":
        """Draw both out of `total` samples of a problem, or out of the protocol's subset of them, by its seed.

        Raises
        ------
        InvalidInput   there are too few, or the subset is no file of this problem's samples, or of others than known
        """
        subset = chosen_samples(protocol)
        if subset is not None:
            subset.require_fits(problem, total)
            total = subset.positions.size
        free = total - protocol.held_out
        count = free if protocol.samples is None else protocol.samples
        if count > free or free < 1:
            raise InvalidInput(
                f"training needs {count} samples and {protocol.held_out} that judge, but there are {total}; take fewer"
            )
        if count < protocol.batch_size and not protocol.nothing:
            raise InvalidInput(
                f"training has {count} samples, fewer than a batch of {protocol.batch_size}; choose batch_size={count}"
            )
        rng = np.random.default_rng(np.random.SeedSequence(protocol.seed, spawn_key=(7,)))
        order = rng.permutation(total).astype(np.int64)
        held = protocol.held_out
        trained, judging = np.sort(order[held : held + count]), np.sort(order[:held])
        if subset is None:
            return Division(trained, judging)
        weights = None if subset.weights is None else subset.weights[trained]
        return Division(subset.positions[trained], subset.positions[judging], weights)

    def counting(self, positions: IndexArray) -> FloatArray | None:
        """How much samples that are trained on count, float64 (b,); None where all count alike. int64 (b,)"""
        return None if self.weights is None else self.weights[np.searchsorted(self.trained, positions)]


class Course:
    """Steps and epochs of a training, all drawn by the protocol's seed.

    Parameters
    ----------
    protocol : what is done;  problem : its name;  total : its calibration samples
    dense : how the dense network was trained, for schedule=rewound; None where that is not known
    averages : whether the network averages over batches, so that one of a single sample is left out

    Raises
    ------
    InvalidInput   the protocol does not fit the samples, or what is known of the dense training
    """

    def __init__(
        self,
        protocol: Protocol,
        problem: str,
        total: int,
        *,
        dense: DenseSchedule | None = None,
        averages: bool = False,
    ) -> None:
        if protocol.schedule == "rewound" and dense is None:
            raise InvalidInput(
                "schedule=rewound repeats the end of the dense training, which is not known of these weights; "
                "choose another schedule, or a network trained here (--option weights=train, where the problem has it)"
            )
        if averages and protocol.batch_size < 2:
            raise InvalidInput("batch norms cannot be trained on batches of one sample; choose batch_size=2 or more")
        self.division = Division.of(problem, total, protocol)
        self._protocol, self._dense = protocol, dense
        size, batch = self.division.trained.size, protocol.batch_size
        self.per_epoch = -(-size // batch) - int(averages and size % batch == 1)
        """Steps of an epoch."""
        self.total_steps = protocol.epochs * self.per_epoch if protocol.steps is None else protocol.steps
        """Steps of the optimizer in all."""
        self.total_epochs = -(-self.total_steps // self.per_epoch)
        """Epochs in all, the last of which may be cut short."""

    def batches(self, epoch: int) -> tuple[list[tuple[int, IndexArray]], int]:
        """The steps of an epoch, counted from 0, each with its number and samples; and a seed for other draws."""
        seeds = np.random.SeedSequence(self._protocol.seed, spawn_key=(8, epoch)).generate_state(2)
        order = np.random.default_rng(int(seeds[0])).permutation(self.division.trained)
        first, size = epoch * self.per_epoch, self._protocol.batch_size
        count = min(self.per_epoch, self.total_steps - first)
        return [(first + k, order[k * size : (k + 1) * size]) for k in range(count)], int(seeds[1])

    def rate(self, number: int) -> float:
        """The learning rate of a step, counted from 0."""
        part = number / self.total_steps
        if self._protocol.schedule != "rewound":
            return self._protocol.learning_rate * SCHEDULES[self._protocol.schedule](part)
        assert self._dense is not None
        share = min(1.0, self.total_steps / self.per_epoch / self._dense.epochs)
        return self._dense.learning_rate * cosine(1.0 - share * (1.0 - part))


def cosine(part: float) -> float:
    """From 1 to 0 along half a cosine. part : of the steps, 0 to 1"""
    return 0.5 * (1.0 + math.cos(math.pi * part))


def tenths(part: float) -> float:
    """1, from half of the steps on a tenth, from three quarters on a hundredth."""
    return 1.0 if part < 0.5 else 0.1 if part < 0.75 else 0.01


def one_cycle(part: float) -> float:
    """Rises from CYCLE_FIRST to 1 in CYCLE_RISE of the steps, then falls to 0, both along a cosine."""
    if part < CYCLE_RISE:
        return CYCLE_FIRST + (1.0 - CYCLE_FIRST) * (1.0 - cosine(part / CYCLE_RISE))
    return cosine((part - CYCLE_RISE) / (1.0 - CYCLE_RISE))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": cosine,
    "constant": lambda _part: 1.0,
    "steps": tenths,
    "one-cycle": one_cycle,
}
"""Part of the steps done, 0 to below 1 -> part of the highest learning rate."""
