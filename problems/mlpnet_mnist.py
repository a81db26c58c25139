"""MLPNet on MNIST: 784-40-20-10 without biases, the small network of the one-shot pruning literature.

Its checkpoint (93.97 % on the test images) is the one of Benbaki et al.: Fast as CHITA, ICML 2023; also
used by WoodFisher and Combinatorial Brain Surgeon. It is not part of prunebench.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prunebench.core.problem import Samples, joined, register
from prunebench.data.mnist import MNIST, image_samples, missing_files
from prunebench.networks.classification import Part, TrainableClassification
from prunebench.networks.pretrained import Source

if TYPE_CHECKING:
    from prunebench.networks.training import Trajectory

SIZES = (784, 40, 20, 10)
"""Widths from the pixels to the classes."""
LAYERS = ("fc1", "fc2", "fc3")
"""The linear layers, by the names that the published checkpoint has."""
MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's pixels in [0, 1], by which the published training normalised them."""
CHECKPOINT_FILE = "checkpoints/mlpnet_mnist_784-40-20-10_nobias.safetensors"
"""Where the published weights are looked for below the data folder."""


@register
@dataclass(frozen=True, kw_only=True)
class MlpnetMnist(TrainableClassification):
    """784-40-20-10 with ReLU, no biases, 32,360 prunable weights, on MNIST."""

    name = "mlpnet-mnist"
    summary = "MLPNet 784-40-20-10 on MNIST, 32,360 weights, published accuracy 93.97 %"

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return joined(missing_files(MNIST), self.source().missing())

    def prunable(self) -> tuple[str, ...]:
        """The three weight matrices."""
        return tuple(f"{layer}.weight" for layer in LAYERS)

    def samples(self, part: Part) -> Samples:
        """The 60,000 training images, or the 10,000 test images."""
        return image_samples(MNIST, part, mean=MEAN, std=STD)

    def dense(self) -> "Trajectory":
        """How the network is made and trained."""
        from prunebench.networks.training import Recipe, dense_network

        recipe = Recipe(epochs=10, batch_size=128, learning_rate=3e-3)
        return self.source().trajectory(partial(dense_network, SIZES, LAYERS, bias=False), self.calibration, recipe)

    def source(self) -> Source:
        """Where the weights come from."""
        shapes = {f"{layer}.weight": (SIZES[i + 1], SIZES[i]) for i, layer in enumerate(LAYERS)}
        return Source(self.name, self.weights, CHECKPOINT_FILE, shapes)
