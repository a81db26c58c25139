"""Windows of token sequences: many short samples out of few long ones, so that a model has more rows for its tokens."""

from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples

AXES = 2
"""Axes of token ids and labels: samples, positions."""


class Windows:
    """Samples of tokens, each cut to one window of its positions.

    Where a sample's window begins depends on the generator and its position alone, not on how samples are batched.

    Parameters
    ----------
    samples : inputs and targets are whole numbers (s, t) of the same shape
    width : tokens of a window, at least 2: the first is not predicted
    rng : draws one number a sample
    """

    def __init__(self, samples: Samples, width: int, rng: np.random.Generator) -> None:
        self._samples, self._width = samples, width
        self._levels = rng.random(len(samples))

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._samples)

    def __getattr__(self, name: str) -> Any:
        """What else the samples say of themselves: their padding, how many go through the network at a time."""
        return getattr(self._samples, name)

    @property
    def row_weight(self) -> float:
        """How many predicted tokens the loss of a window is the mean of, if rows are weighted at all."""
        return min(float(getattr(self._samples, "row_weight", 1.0)), float(self._width - 1))

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels of the windows at `positions`. int64 (b, width) both, or as wide as there are tokens.

        Raises
        ------
        InvalidInput   samples of another kind
        """
        inputs, targets = self._samples.batch(positions)
        if not _are_tokens(inputs) or not _are_tokens(targets) or inputs.shape != targets.shape:
            raise InvalidInput("windows are for samples whose inputs and targets are both rows of tokens; use none")
        width = min(self._width, inputs.shape[1])
        counted = getattr(self._samples, "counted", None)
        lengths = torch.full((len(inputs),), inputs.shape[1]) if counted is None else counted(targets).sum(dim=1)
        levels = torch.from_numpy(self._levels[np.asarray(positions)])
        starts = (levels * (lengths - width + 1).clamp(min=1)).long()
        places = starts.unsqueeze(1) + torch.arange(width)
        return inputs.gather(1, places), targets.gather(1, places)


def _are_tokens(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.ndim == AXES and not tensor.is_floating_point()
