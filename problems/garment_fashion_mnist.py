"""The garment classifier on Fashion-MNIST: 784-512-512-10 with biases.

Its checkpoint (86.19 % on the test images) is the one published with iterative Combinatorial Brain
Surgeon (iCBS, Amazon). It is not part of prunebench.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prunebench.core.problem import Samples, joined, register
from prunebench.data.mnist import FASHION_MNIST, image_samples, missing_files
from prunebench.networks.classification import Part, TrainableClassification
from prunebench.networks.pretrained import Source

if TYPE_CHECKING:
    import torch

    from prunebench.networks.training import Trajectory

SIZES = (784, 512, 512, 10)
"""Widths from the pixels to the classes."""
LAYERS = ("linear_relu_stack.linear1", "linear_relu_stack.linear2", "linear_relu_stack.linear3")
"""The linear layers, by the names that the published checkpoint has."""
MEAN, STD = 0.5, 0.5
"""The normalisation of the published training: pixels in [0, 1] become −1 to 1."""
CHECKPOINT_FILE = "checkpoints/garment_fashion_mnist_784-512-512-10.safetensors"
"""Where the published weights are looked for below the data folder."""


@register
@dataclass(frozen=True, kw_only=True)
class GarmentFashionMnist(TrainableClassification):
    """784-512-512-10 with ReLU and biases on Fashion-MNIST; the 668,672 matrix entries are prunable."""

    name = "garment-fashion-mnist"
    summary = "784-512-512-10 on Fashion-MNIST, 668,672 weights, published accuracy 86.19 %"

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return joined(missing_files(FASHION_MNIST), self.source().missing())

    def prunable(self) -> tuple[str, ...]:
        """The three weight matrices; the biases stay."""
        return tuple(f"{layer}.weight" for layer in LAYERS)

    def samples(self, part: Part) -> Samples:
        """The 60,000 training images, or the 10,000 test images."""
        return image_samples(FASHION_MNIST, part, mean=MEAN, std=STD)

    def dense(self) -> "Trajectory":
        """How the network is made and trained."""
        from prunebench.networks.training import Recipe, dense_network, narrowed

        def narrower(part: float) -> "torch.nn.Module":
            return dense_network(narrowed(SIZES, part), LAYERS)

        recipe = Recipe(epochs=6, batch_size=128, learning_rate=1e-3)
        return self.source().trajectory(partial(dense_network, SIZES, LAYERS), self.calibration, recipe, narrower)

    def source(self) -> Source:
        """Where the weights come from."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, layer in enumerate(LAYERS):
            shapes[f"{layer}.weight"] = (SIZES[i + 1], SIZES[i])
            shapes[f"{layer}.bias"] = (SIZES[i + 1],)
        return Source(self.name, self.weights, CHECKPOINT_FILE, shapes)
