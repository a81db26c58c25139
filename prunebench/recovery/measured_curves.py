"""What it costs to keep fewer groups of a family: the network without them is refitted and compared with the dense one.

Curvature says what a group's absence costs while nothing else changes; the refit makes up for much of it, for more in
early layers than in late ones. So each family (or all families that keep one count) is thinned out alone, at a few
counts; every layer behind it is refitted, and the outputs on held-out samples are compared with those of the dense
network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.recovery.outputs import divergence, squared
from prunebench.recovery.reconstruction import Reconstruction
from prunebench.structure.found import Found
from prunebench.structure.resize import state_of

PARTS = (0.75, 0.5, 0.25, 0.0625)
"""Parts of a family at which it is measured: rises between them differ by about a factor of two to five."""
ROWS = 25
"""Rows of a layer's refit for each of its inputs: a quarter of the usual, as rises are compared with each other."""
LEAST = 1e-9
"""Rises are taken for at least this, so that they have logarithms."""


class Measured:
    """Measures rises of one network.

    Parameters
    ----------
    found : its groups;  masks : from kept counts to what is kept of every family
    inputs, judging : inputs of the samples of the refit, and of those on which outputs are compared
    scores : whether outputs are scores of classes or tokens, compared as distributions
    ridge, seed : of the refit
    """

    def __init__(
        self, found: Found, masks: Callable[[Sequence[int]], list[BoolArray]], inputs: Any, judging: Any, *,
        scores: bool, ridge: float, seed: int,
    ) -> None:  # fmt: skip
        self._found, self._masks, self._inputs, self._judging = found, masks, inputs, judging
        self._apart = divergence if scores else squared
        self._ridge, self._seed = ridge, seed
        self._dense = self._outputs(state_of(found.coupling))

    def rise(self, counts: Sequence[int]) -> float:
        """How far the outputs are from the dense network's with so many groups of every family, refitted."""
        found = self._found
        walk = Reconstruction(
            found.coupling, found.families, self._masks(counts), self._inputs,
            ridge=self._ridge, seed=self._seed, rows=ROWS,
        )  # fmt: skip
        return float(self._apart(self._outputs(walk.run()), self._dense))

    def _outputs(self, state: Any) -> Any:
        with torch.no_grad():
            return functional_call(self._found.coupling.program, dict(state), (self._judging,))


def levels(size: int, floor: int, step: int) -> list[int]:
    """Counts at which a family is measured, falling: multiples of a step, none below the floor."""
    found = {max(floor, round(part * size / step) * step) for part in PARTS}
    return sorted((count for count in found if count < size), reverse=True)


def curve(size: int, counts: Sequence[int], rises: Sequence[float]) -> FloatArray:
    """Rises at every count from what was measured at some. float64 (size + 1,), by count, never rising with it.

    Between measured counts logarithms are interpolated; above the largest, the rise goes with the square of what is
    missing, as at a minimum; below the least, it goes on as between the last two.

    counts : falling, below the size;  rises : at them
    """
    if not counts:
        return np.zeros(size + 1)
    known = np.maximum(np.maximum.accumulate(np.asarray(rises, dtype=np.float64)), LEAST)
    places, logs = np.asarray(counts, dtype=np.float64), np.log(known)
    every = np.arange(size + 1, dtype=np.float64)
    out = np.exp(np.interp(every, places[::-1], logs[::-1]))
    above = every > places[0]
    out[above] = known[0] * ((size - every[above]) / (size - places[0])) ** 2
    if len(counts) > 1:
        below = every < places[-1]
        slope = (logs[-1] - logs[-2]) / (places[-2] - places[-1])
        out[below] = np.exp(logs[-1] + slope * (places[-1] - every[below]))
    return out
