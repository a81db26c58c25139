"""A small dense network on scikit-learn's handwritten digits: no download, trained in seconds, then cached."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples, register
from prunebench.networks.classification import Classification, Part

if TYPE_CHECKING:
    from prunebench.networks.training import Trajectory

INPUTS, CLASSES = 64, 10
"""Pixels of an image, 8×8, and digits."""
TEST_SHARE = 0.25
"""Part of the images that is held out: 450, which tells accuracies a percentage point apart."""
SPLIT_SEED = 0
"""Of the split, the same whatever the network's seed is, so that networks are judged on the same images."""
BRIGHTEST = 16.0
"""The largest pixel of scikit-learn's digits, which are counts; divided by it they are in [0, 1]."""


@register
@dataclass(frozen=True, kw_only=True)
class DigitsMlp(Classification):
    """64-hidden-10 with ReLU and biases on 1,797 images of 8×8 pixels; the weight matrices are prunable.

    A quarter of the images, the same share of every digit, is held out for validation.
    """

    name = "digits-mlp"
    summary = "a small MLP on scikit-learn's digits, trained in seconds, nothing to download"
    requires = ("torch", "sklearn")

    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers."""

    epochs: int = 60
    """Passes over the training images."""

    seed: int = 0
    """Seed of the initial weights and of the order of the samples."""

    def __post_init__(self) -> None:
        widths = tuple(self.hidden)
        if not all(isinstance(width, int) and width >= 1 for width in widths):
            raise InvalidInput(f"{self.name}: hidden is {self.hidden!r}; give whole numbers from 1, for example 32,16")
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise InvalidInput(f"{self.name}: epochs is {self.epochs!r}; choose a whole number from 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidInput(f"{self.name}: seed is {self.seed!r}; choose a whole number from 0")
        object.__setattr__(self, "hidden", widths)

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode; trains it when the cache does not hold it."""
        return self.trajectory().end()

    def trajectory(self) -> "Trajectory":
        """The dense training."""
        from prunebench.networks.training import Recipe, Trajectory, dense_network, narrowed

        sizes, layers = (INPUTS, *self.hidden, CLASSES), self._layers()
        make = partial(dense_network, sizes, layers)
        recipe = Recipe(epochs=self.epochs, batch_size=64, learning_rate=5e-3, weight_decay=1e-3, seed=self.seed)
        identity = {"hidden": list(self.hidden)}

        def narrower(part: float) -> Any:
            return dense_network(narrowed(sizes, part), layers)

        return Trajectory(make, self.name, self.calibration, recipe, identity, narrower)

    def prunable(self) -> tuple[str, ...]:
        """The weight matrices, from the inputs to the outputs."""
        return tuple(f"{layer}.weight" for layer in self._layers())

    def samples(self, part: Part) -> Samples:
        """The images of the part, in scikit-learn's order before the split."""
        import torch

        from prunebench.networks.samples import TensorSamples

        train_images, test_images, train_labels, test_labels = _split()
        images, labels = (train_images, train_labels) if part == "train" else (test_images, test_labels)
        return TensorSamples(torch.tensor(images, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64))

    def _layers(self) -> tuple[str, ...]:
        return tuple(f"fc{position + 1}" for position in range(len(self.hidden) + 1))


@lru_cache(maxsize=1)
def _split() -> tuple[npt.NDArray[np.float64], ...]:
    """Images (s, 64) in [0, 1] and labels (s,): train images, test images, train labels, test labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / BRIGHTEST, labels, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    return tuple(parts)
