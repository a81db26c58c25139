"""Weights of every layer exchanged for others that grow from zero.

Liu et al.: Sparse Training via Boosting Pruning Plasticity with Neuroregeneration (GraNet), NeurIPS 2021; Evci et al.:
Rigging the Lottery, ICML 2020.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.problem import NetworkProblem, spread

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

LAST_PART = 0.01
"""What is left of the part that is exchanged in the last round: GraNet lets .5 fall to .005."""

ROWS = 32
"""Mean gradients of mini-batches that stand for the curvature's diagonal: few, for only the largest scores count."""


def part_of(first: float, number: int, rounds: int) -> float:
    """The part of the kept weights that is exchanged after a round, counted from 0: along a cosine from `first`."""
    last = LAST_PART * first
    return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * number / max(1, rounds - 1)))


def scores(
    problem: NetworkProblem, network: "PrunableNetwork", by: str, samples: int, rng: np.random.Generator
) -> FloatArray:
    """What growing a weight is worth, at the network's present weights. float64 (p,)

    by : "gradient", |g| of the mean loss; "quadratic", g²/(2h), the fall of its quadratic model along that weight,
        with the mean of all h added to h; or "random"
    """
    if by == "random":
        return rng.random(network.total)
    from prunebench.curvature.gradients import sample_gradients

    calibration = problem.calibration()
    count = min(samples, len(calibration))
    size = max(1, count // ROWS)
    positions = rng.permutation(spread(len(calibration), count, rng))
    rows = sample_gradients(network, problem.loss, calibration, positions, batch_size=size)
    mean = rows.mean(axis=0, dtype=np.float64)
    if by == "gradient":
        return np.asarray(np.abs(mean))
    curvature = size * np.einsum("np,np->p", rows, rows, dtype=np.float64) / rows.shape[0]
    # a weight that no sample reaches has neither gradient nor curvature, and is worth nothing
    return np.asarray(mean**2 / (2.0 * (curvature + curvature.mean() + np.finfo(np.float64).tiny)))


def exchanged(mask: BoolArray, weights: FloatArray, worth: FloatArray, layers: Sequence[Any], part: float) -> BoolArray:
    """The mask with `part` of every layer's kept weights, the smallest, exchanged for those most worth growing. (p,)

    What is dropped does not grow in the same exchange. Counts of layers stay.
    """
    out = mask.copy()
    for layer in layers:
        span = slice(layer.start, layer.stop)
        kept, free = np.flatnonzero(mask[span]), np.flatnonzero(~mask[span])
        count = min(int(part * kept.size), free.size)
        dropped = kept[np.argsort(np.abs(weights[span][kept]), kind="stable")[:count]]
        grown = free[np.argsort(-worth[span][free], kind="stable")[:count]]
        out[span.start + dropped], out[span.start + grown] = False, True
    return out
