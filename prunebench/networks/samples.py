"""Samples by position: tensors as they are, pixels that are normalised when fetched, or several tensors as one.

Inputs of a batch are one tensor, or `Parts`, which hold several and answer as one tensor does wherever inputs are
moved, counted or cut. So nothing that sends samples through a network asks which of the two they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples


class Parts:
    """Several tensors in a structure of tuples, lists and dictionaries, as one batch: the samples along the first axis.

    What is no tensor (None, a flag, a number), or a tensor without axes, belongs to the structure and is the same for
    all samples. torch's own transforms (vmap, grad) look inside.

    Parameters
    ----------
    tensors : (s, ...) each, at least one
    layout : of the structure: `Parts.of` makes it
    """

    def __init__(self, tensors: Sequence[torch.Tensor], layout: "Layout") -> None:
        self.tensors = tuple(tensors)
        self.layout = layout

    @staticmethod
    def of(value: Any) -> "Parts":
        """The structure as one batch.

        Raises
        ------
        InvalidInput   no tensor with a first axis is in it, or two of them have other numbers of samples
        """
        leaves, spec = pytree.tree_flatten(value)
        tensors = [leaf for leaf in leaves if _has_samples(leaf)]
        if not tensors or len({len(tensor) for tensor in tensors}) > 1:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
            raise InvalidInput(
                f"a batch holds {shapes}; expected tensors with as many samples each along the first axis"
            )
        constants = tuple(None if _has_samples(leaf) else (leaf,) for leaf in leaves)
        return Parts(tensors, (spec, constants))

    @property
    def value(self) -> Any:
        """The structure with its tensors."""
        spec, constants = self.layout
        rest = iter(self.tensors)
        return pytree.tree_unflatten([next(rest) if held is None else held[0] for held in constants], spec)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, which: Any) -> "Parts":
        return self._each(lambda tensor: tensor[which])

    def to(self, *args: Any, **kwargs: Any) -> "Parts":
        """Every tensor moved; constants stay where they are."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def unsqueeze(self, axis: int) -> "Parts":
        """Every tensor with one more axis."""
        return self._each(lambda tensor: tensor.unsqueeze(axis))

    def numel(self) -> int:
        """How many elements all tensors have together."""
        return sum(tensor.numel() for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every tensor, for messages."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Parts":
        return Parts([change(tensor) for tensor in self.tensors], self.layout)


Layout = tuple[Any, tuple[tuple[Any] | None, ...]]
"""A structure, and for each of its leaves None where a tensor of samples stands, else what stands there."""

Batch = torch.Tensor | Parts
"""The inputs, or the targets, of several samples."""

pytree.register_pytree_node(
    Parts, lambda parts: (list(parts.tensors), parts.layout), lambda tensors, layout: Parts(list(tensors), layout)
)


def all_finite(inputs: Batch) -> bool:
    """Whether no tensor of floating-point numbers holds NaN or infinity."""
    tensors = inputs.tensors if isinstance(inputs, Parts) else (inputs,)
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a structure, such as a model's outputs: those that torch's own transforms see."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _has_samples(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.ndim > 0


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


def fetched(samples: Samples, positions: IndexArray, device: torch.device) -> tuple[Any, Any]:
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
