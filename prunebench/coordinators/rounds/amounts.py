"""How many weights a round keeps, in all and in every layer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunebench.coordinators import schedules
from prunebench.coordinators.rounds.options import RoundsOptions
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, RealArray
from prunebench.core.masks import keep_count

SEARCH_STEPS = 200
"""Halvings of an interval of densities: to the last bit of a float64."""


def planned(options: RoundsOptions, density: float, total: int) -> list[int] | None:
    """How many weights every round keeps; None where the weights decide on the way.

    Raises
    ------
    InvalidInput   densities that rise
    """
    if options.amount == "pq":
        return None
    if options.amount == "schedule":
        parts = schedules.densities(options.schedule, options.start_density, density, options.rounds)
        return [keep_count(part, total) for part in parts]
    last, out = keep_count(density, total), [total]
    while out[-1] > last:
        # at least one weight goes, whatever the share
        out.append(max(last, min(out[-1] - 1, round(out[-1] * (1.0 - options.share)))))
    return out[1:] or [last]


def pq_index(weights: FloatArray, p: float, q: float) -> float:
    """The PQ index of weights, 0 (all equally large) to below 1: 1 − d^(1/q − 1/p)·‖w‖_p/‖w‖_q.

    Diao et al.: Pruning Deep Neural Networks from a Sparsity Perspective, ICLR 2023. weights : float64 (d,)
    """
    sizes = np.abs(weights)
    largest = float(sizes.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    # scaled, so that powers neither overflow nor vanish
    sizes = sizes / largest
    of_p, of_q = (math.pow(float(np.mean(sizes**power)), 1.0 / power) for power in (p, q))
    return 1.0 - of_p / of_q


def kept_by_pq(weights: FloatArray, options: RoundsOptions, last: int) -> int:
    """How many of the kept weights the next round keeps, by their PQ index: no fewer than `last`.

    The paper's rule with η = 0: of d weights at least d(1 − I)^(pq/(q − p)) are to stay.

    weights : float64 (d,), of what is kept
    """
    p, q = options.pq
    size = weights.size
    stays = (1.0 - pq_index(weights, p, q)) ** (p * q / (q - p))
    gone = int(size * min(options.pq_most, options.pq_scale * (1.0 - stays)))
    return max(last, size - max(1, gone))


def layer_counts(
    options: RoundsOptions, layers: Sequence[Any], keep: int, most: IndexArray | None = None
) -> IndexArray:
    """How many weights every layer keeps, `keep` together, for counts=layer and erk. int64 (layers,)

    layers : with start, stop and shape;  most : int64 (layers,), how many a layer can keep; None: all of its weights
    """
    sizes = np.array([layer.stop - layer.start for layer in layers], dtype=np.float64)
    if options.counts == "erk":
        # Erdős–Rényi kernel (Evci et al.: Rigging the Lottery, 2020): a density ∝ the sum of dimensions over their
        # product
        rates = np.array([sum(layer.shape) / np.prod(layer.shape) for layer in layers])
        return _rounded(sizes * _scaled(sizes, rates, keep), sizes if most is None else most, keep)
    powers = np.ones(sizes.size)
    powers[-1] = options.last_layer
    low, high = 0.0, 1.0
    for _ in range(SEARCH_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(sizes @ middle**powers) < keep else (low, middle)
    return _rounded(sizes * high**powers, sizes if most is None else most, keep)


def _scaled(sizes: FloatArray, rates: FloatArray, keep: int) -> FloatArray:
    """Densities in proportion to the rates, at most 1, that keep `keep` together."""
    dense = np.zeros(sizes.size, dtype=np.bool_)
    while True:
        left = float(keep - sizes[dense].sum())
        factor = left / float((sizes * rates)[~dense].sum()) if (~dense).any() else 0.0
        over = ~dense & (factor * rates > 1.0)
        if not over.any():
            return np.where(dense, 1.0, factor * rates)
        dense |= over


def _rounded(wanted: FloatArray, most: RealArray | IndexArray, keep: int) -> IndexArray:
    """Whole counts near those wanted, at most `most` each and `keep` together: by largest remainder. int64 (layers,)"""
    capped = np.minimum(wanted, most)
    counts = np.floor(capped).astype(np.int64)
    order = np.argsort(-(capped - counts), kind="stable")
    while counts.sum() < keep and (counts < most).any():
        for which in order:
            if counts.sum() < keep and counts[which] < most[which]:
                counts[which] += 1
    return counts


def with_least(
    mask: BoolArray, worth: FloatArray, layers: Sequence[Any], least: float, allowed: BoolArray
) -> BoolArray:
    """A mask in which every layer keeps at least `least` of all weights, with the same count in all. bool (p,)

    It prevents layers of which nothing is left. Gupta et al.: Is Complexity Required for Neural Network Pruning?, 2022,
    whose minimum is a part of all weights; smaller layers keep all of theirs.

    Parameters
    ----------
    mask : what would be kept;  worth : float64 (p,), of which the largest are added and the smallest given up
    least : part of all weights;  allowed : which weights may be kept at all
    """
    out = mask.copy()
    floor = int(np.ceil(least * mask.size))
    spans = [slice(layer.start, layer.stop) for layer in layers]
    bound = [min(floor, int(allowed[span].sum())) for span in spans]
    for span, due in zip(spans, bound, strict=True):
        missing = due - int(out[span].sum())
        if missing > 0:
            free = np.flatnonzero(allowed[span] & ~out[span])
            chosen = free[np.argsort(-worth[span][free], kind="stable")[:missing]]
            out[span.start + chosen] = True
    owner = np.repeat(np.arange(len(spans)), [span.stop - span.start for span in spans])
    spare = np.array([int(out[span].sum()) for span in spans]) - bound
    surplus = int(out.sum() - mask.sum())
    kept = np.flatnonzero(out)
    for which in kept[np.argsort(worth[kept], kind="stable")]:
        if surplus <= 0:
            break
        if spare[owner[which]] > 0:
            out[which] = False
            spare[owner[which]] -= 1
            surplus -= 1
    return out


def fewest(least: float, layers: Sequence[Any]) -> int:
    """How many weights a network keeps at least where every layer keeps `least` of all."""
    total = sum(layer.stop - layer.start for layer in layers)
    return sum(min(int(np.ceil(least * total)), layer.stop - layer.start) for layer in layers)
