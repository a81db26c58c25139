"""Samples by position: tensors as they are, or pixels that are normalised when they are fetched."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples


class TensorSamples:
    """Samples held as two tensors with the batch axis first.

    Parameters
    ----------
    inputs : tensor (s, ...)
    targets : tensor (s, ...)

    Raises
    ------
    InvalidInput   the two do not have the same, positive number of samples
    """

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets) or len(inputs) == 0:
            raise InvalidInput(
                f"inputs have shape {tuple(inputs.shape)} and targets {tuple(targets.shape)}; "
                "expected the same number of samples, at least 1, along the first axis"
            )
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.inputs)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (b, ...) and targets (b, ...) of the samples at `positions`, int64 (b,)."""
        chosen = torch.from_numpy(checked_positions(positions, len(self)))
        return self.inputs[chosen], self.targets[chosen]


class ImageSamples:
    """Images held as bytes, a quarter of the memory of floats; (x/255 − mean)/std is done when they are fetched.

    Parameters
    ----------
    images : uint8 (s, height, width)
    labels : uint8 (s,)
    mean, std : the normalisation, one number each

    Raises
    ------
    InvalidInput   images and labels do not have the same, positive number of samples
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], mean: float, std: float) -> None:
        if len(images) != len(labels) or len(images) == 0:
            raise InvalidInput(f"there are {len(images)} images and {len(labels)} labels; expected one label an image")
        self.images = images
        self.labels = labels
        self.mean = mean
        self.std = std

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.images)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs float32 (b, height, width) and labels int64 (b,) of the samples at `positions`, int64 (b,)."""
        chosen = checked_positions(positions, len(self))
        pixels = torch.from_numpy(self.images[chosen]).to(torch.float32)
        labels = torch.from_numpy(self.labels[chosen].astype(np.int64))
        return pixels.div_(255.0).sub_(self.mean).div_(self.std), labels


def checked_positions(positions: npt.ArrayLike | Sequence[int], total: int) -> IndexArray:
    """`positions` as int64 (b,).

    Raises
    ------
    InvalidInput   not whole numbers in one row, or one of them is outside [0, total)
    """
    chosen = np.asarray(positions)
    if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
        raise InvalidInput(
            f"sample positions have dtype {chosen.dtype} and shape {chosen.shape}; expected int64 (b,), b at least 1"
        )
    chosen = chosen.astype(np.int64)
    outside = (chosen < 0) | (chosen >= total)
    if outside.any():
        raise InvalidInput(
            f"sample position {chosen[outside][0]} is outside the {total} samples there are: 0 to {total - 1}"
        )
    return chosen


def fetched(samples: Samples, positions: IndexArray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of samples, on the device.

    Raises
    ------
    InvalidInput   another number of samples than asked for, or an empty one
    """
    inputs, targets = samples.batch(positions)
    if len(inputs) != positions.size or inputs.numel() == 0:
        raise InvalidInput(
            f"sample {positions[0]} has inputs of shape {tuple(inputs.shape)}; expected {positions.size} along the "
            "first axis and none empty: look at the data"
        )
    return inputs.to(device), targets.to(device)


def at_once(samples: Samples, usual: int) -> int:
    """How many of these samples should go through the network at a time."""
    return int(getattr(samples, "batch_size", usual))


def counted_positions(samples: Samples, targets: torch.Tensor) -> torch.Tensor | None:
    """Which positions of a batch are no padding, bool (b, t); None where the samples know no padding."""
    counted = getattr(samples, "counted", None)
    return None if counted is None else counted(targets)


def row_weight(samples: Samples) -> float:
    """How many observations a sample's loss is the mean of: the predicted tokens of a sequence, else 1.

    A mean over T independent observations has 1/T of their covariance, so that its gradients, to
    stand for the curvature, count T times (but see `centring`).
    """
    return float(getattr(samples, "row_weight", 1.0))


def centring(weight: float) -> float:
    """The part of the mean gradient ḡ to take off every row g before rows count `weight` times.

    The second moment of the observations is T·Cov(g) + ḡḡ': their covariance T times that of the
    rows, their mean once and not T times. With g − (1 − 1/√T)·ḡ for g, T times the rows' second
    moment is just that. Without it, away from a minimum, ḡḡ' would drown everything else and no
    model could promise a fall of the loss by more than 1/(2T).
    """
    return 1.0 - 1.0 / math.sqrt(weight)
