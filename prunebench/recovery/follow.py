"""Many small model steps of the kept weights, where a stage has far fewer gradients than kept weights.

One model of n sample gradients moves the weights in n directions at most, and its minimum fits those
samples alone. Many models of few fresh samples, each with so large a ridge that its minimum is near,
follow the loss itself: the natural gradient (Amari: Natural gradient works efficiently in learning,
1998) with the empirical Fisher of the step's own samples.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import NoCurvature
from prunebench.curvature.fisher import fisher_form

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork

STATISTICS_EVERY = 5
"""Steps after which batch-norm statistics are brought up to date: that costs as much as a step."""


@dataclass(frozen=True)
class Pace:
    """How the steps are taken.

    steps : how many, at least one;  samples : of each, one gradient row a sample
    ridge : ρ relative to the mean eigenvalue of F on the samples' own span
    rate : how far a step goes along the mean gradient in directions without curvature
    """

    steps: int
    samples: int
    ridge: float
    rate: float


def small_steps(
    network: "MovableNetwork",
    weights: FloatArray,
    mask: BoolArray,
    pool: IndexArray,
    rng: np.random.Generator,
    pace: Pace,
) -> list[FloatArray]:
    """Steps -rate·ρ·(F + ρ)⁻¹·gradient of the kept weights, each from fresh samples. -> two points, float64 (p,)

    The points are the last one and the mean of the second half of all: models of few samples are
    noisy, and the mean of many points is better than each (Polyak, Juditsky: Acceleration of
    stochastic approximation by averaging, 1992). No step is judged; that is left to the caller.

    Parameters
    ----------
    network : left with weights of the last step in it
    weights : float64 (p,), where the steps begin;  mask : bool (p,), which of them move
    pool : int64 (s,), calibration positions that the samples are drawn from, in random rounds over all
    pace : number, size and length of the steps

    Raises
    ------
    InvalidInput   a gradient is NaN or infinite; the message names the layer
    """
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
