"""Windows of token sequences: many short samples out of few long ones, so that a model has more rows for its tokens."""

from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.networks.samples import Batch, Parts

AXES = 2
"""Axes of token ids and labels: samples, positions."""


class Windows:
    """Samples of tokens, each cut to one window of its positions.

    Where a sample's window begins depends on the generator and its position alone, not on how samples are batched.

    Parameters
    ----------
    samples : inputs and targets are whole numbers (s, t) of the same shape, or several tensors of it (a mask beside
              the tokens)
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

    def batch(self, positions: IndexArray) -> tuple[Batch, Batch]:
        """Token ids and labels of the windows at `positions`. int64 (b, width) both, or as wide as there are tokens.

        Raises
        ------
        InvalidInput   samples of another kind
        """
        inputs, targets = self._samples.batch(positions)
        shape = _shape_of_rows(inputs)
        if shape is None or shape != _shape_of_rows(targets):
            raise InvalidInput("windows are for samples whose inputs and targets are both rows of tokens; use none")
        _, longest = shape
        width = min(self._width, longest)
        of = getattr(self._samples, "counted", None)
        counted = None if of is None else of(targets)
        if counted is None:
            counted = torch.ones(shape, dtype=torch.bool)
        levels = torch.from_numpy(self._levels[np.asarray(positions)])
        starts = counted.long().argmax(dim=1) + (levels * (counted.sum(dim=1) - width + 1).clamp(min=1)).long()
        places = starts.clamp(max=longest - width).unsqueeze(1) + torch.arange(width)
        return _gathered(inputs, places), _gathered(targets, places)


def _shape_of_rows(batch: Any) -> tuple[int, int] | None:
    """The shape (s, t) that all tensors of a batch have, whole numbers among them; None where they have none such."""
    tensors = batch.tensors if isinstance(batch, Parts) else (batch,)
    if not all(isinstance(tensor, torch.Tensor) and tensor.ndim == AXES for tensor in tensors):
        return None
    if len({tensor.shape for tensor in tensors}) > 1 or all(tensor.is_floating_point() for tensor in tensors):
        return None
    count, length = tensors[0].shape
    return count, length


def _gathered(batch: Batch, places: torch.Tensor) -> Batch:
    """The positions `places`, int64 (s, width), of every tensor (s, t) of a batch."""
    if isinstance(batch, Parts):
        return Parts([tensor.gather(1, places) for tensor in batch.tensors], batch.layout)
    return batch.gather(1, places)
