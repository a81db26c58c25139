"""Many small model steps of the kept weights, where a stage has far fewer gradients than kept weights.

One model of n sample gradients moves the weights in n directions at most, and its minimum fits those
samples alone. Many models of few fresh samples, each with so large a ridge that its minimum is near,
follow the loss itself: the natural gradient (Amari: Natural gradient works efficiently in learning,
1998) with the empirical Fisher of the step's own samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput, NoCurvature
from prunebench.core.recovery import Recovery, Stand, register
from prunebench.curvature.fisher import fisher_form

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork

STATISTICS_EVERY = 5
"""Steps after which batch-norm statistics are brought up to date: that costs as much as a step."""


@register
@dataclass(frozen=True, kw_only=True)
class Follow(Recovery):
    """Take many steps -rate·ρ·(F + ρ)⁻¹·gradient of the kept weights, each from fresh samples."""

    name: ClassVar[str] = "follow"
    summary: ClassVar[str] = "Many small model steps of the kept weights, each from a few fresh samples."
    reference: ClassVar[str] = "Amari: Natural gradient works efficiently in learning, Neural Computation 1998"

    steps: int = 12
    """Small steps after the last stage."""

    between: int | None = None
    """The same after each stage before the last; none: as many."""

    samples: int = 100
    """Calibration samples, and rows, of a small step."""

    ridge: float = 5.0
    """Ridge of a small step's model, ρ, relative to the mean eigenvalue of F on the rows' own span."""

    rate: float = 0.2
    """How far steps go along the mean gradient where there is no curvature; halved when a stage's do not help."""

    below: float = 1.0
    """Only stages of at most this density are followed."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("between", 0), ("samples", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidInput(f"recovery follow: {name} is {value!r}; choose a whole number from {least}")
        for name in ("ridge", "rate", "below"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise InvalidInput(f"recovery follow: {name} is {value!r}; choose a positive number")

    def rounds_after(self, kept: int, total: int, last: bool) -> int:
        """One, of several small steps, where there are any and the density is low enough."""
        return int(kept <= self.below * total and self._steps(last) > 0)

    def spawn_key(self, first: int, number: int) -> tuple[int, ...]:
        """Draws of their own beside those of the stage."""
        return (3, first)

    def learned(self, memory: Mapping[str, float], accepted: bool) -> Mapping[str, float]:
        """The rate."""
        rate = memory.get("rate", self.rate)
        return {"rate": rate if accepted else rate / 2.0}

    def require_memory(self, memory: Mapping[str, float]) -> None:
        """A rate that was halved so and so often."""
        if memory and (set(memory) != {"rate"} or not 0.0 < memory["rate"] <= self.rate):
            raise InvalidInput(f"recovery follow remembers {dict(memory)} where its rate is {self.rate} at most")

    def candidates(self, stand: Stand) -> Sequence[FloatArray]:
        """The last point and the mean of the second half of all.

        Models of few samples are noisy, and the mean of many points is better than each (Polyak, Juditsky:
        Acceleration of stochastic approximation by averaging, 1992).
        """
        pace = Pace(self._steps(stand.last), self.samples, self.ridge, stand.memory.get("rate", self.rate))
        return small_steps(stand.network, stand.weights, stand.mask, stand.rng, pace)

    def _steps(self, last: bool) -> int:
        return self.steps if last or self.between is None else self.between


@dataclass(frozen=True)
class Pace:
    """How the steps are taken: how many, samples of each, ridge and rate as in `Follow`."""

    steps: int
    samples: int
    ridge: float
    rate: float


def small_steps(
    network: "MovableNetwork", weights: FloatArray, mask: BoolArray, rng: np.random.Generator, pace: Pace
) -> list[FloatArray]:
    """The steps, none of them judged. -> two points, float64 (p,)

    Parameters
    ----------
    network : left with weights of the last step in it; samples are drawn from its pool in random rounds over all
    weights : float64 (p,), where the steps begin;  mask : bool (p,), which of them move

    Raises
    ------
    InvalidInput   a gradient is NaN or infinite; the message names the layer
    """
    pool = network.division.pool
    kept, count = np.flatnonzero(mask), min(pace.samples, pool.size)
    order: IndexArray = np.zeros(0, dtype=np.int64)
    place, total, added = weights.copy(), np.zeros(kept.size), 0
    everything = np.ones(kept.size, dtype=np.bool_)
    network.place(place)
    for number in range(pace.steps):
        if order.size < count:
            order = np.concatenate((order, rng.permutation(pool)))
        positions, order = order[:count], order[count:]
        rows = network.rows(positions, 1, kept)
        gradient = rows.mean(axis=0, dtype=np.float64)
        try:
            # the ridge of a form is relative to the mean of kept.size entries, of which len(rows) share the trace
            relative = pace.ridge * kept.size / len(rows)
            form = fisher_form(rows, place[kept], ridge=relative, row_weight=network.row_weight)
        except NoCurvature:
            break  # every sample is fitted perfectly: nothing is left to follow
        place[kept] = form.with_terms(linear=pace.rate * form.ridge * gradient).refit(everything)
        if 2 * number >= pace.steps:
            total, added = total + place[kept], added + 1
        network.place(place, statistics=(number + 1) % STATISTICS_EVERY == 0)
    mean = place.copy()
    if added:
        mean[kept] = total / added
    return [place, mean]
