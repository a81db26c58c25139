"""Samples of noise in the shape of others: pruning without data."""

from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples


class NoiseSamples:
    """Inputs drawn from the standard normal distribution, in the shapes of other samples, and these samples' targets.

    A sample's noise depends on the seed and its position, not on how samples are batched. Only shapes are taken from
    the other samples' inputs.

    Raises
    ------
    InvalidInput   inputs that are not one tensor of real numbers
    """

    def __init__(self, samples: Samples, seed: int, stream: int) -> None:
        self._samples, self._seed, self._stream = samples, seed, stream
        inputs, _ = samples.batch(np.zeros(1, dtype=np.int64))
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
            raise InvalidInput("noise stands for inputs that are one tensor of real numbers, and these are not")

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._samples)

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        """Noise and targets at `positions`."""
        inputs, targets = self._samples.batch(positions)
        drawn = [
            np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._stream, int(k)))).standard_normal(
                tuple(inputs.shape[1:])
            )
            for k in np.asarray(positions)
        ]
        return torch.from_numpy(np.stack(drawn)).to(inputs.dtype), targets
