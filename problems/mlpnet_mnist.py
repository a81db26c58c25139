"""MLPNet on MNIST: 784-40-20-10 without biases, the small network of the one-shot pruning literature.

Its checkpoint (93.97 % on the test images) is the one of Benbaki et al.: Fast as CHITA, ICML 2023; also
used by WoodFisher and Combinatorial Brain Surgeon. It is not part of prunebench.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples, joined, register
from prunebench.data.mnist import MNIST, image_samples, missing_files
from prunebench.networks.classification import Part, TrainableClassification
from prunebench.networks.pretrained import CHECKPOINT, TRAIN, Source

if TYPE_CHECKING:
    import torch

    from prunebench.networks.training import Trajectory

PIXELS, CLASSES = 784, 10
"""Pixels of an image, 28×28, and digits."""
HIDDEN = (40, 20)
"""Widths of the published network's hidden layers."""
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

    hidden: tuple[int, ...] = HIDDEN
    """Widths of the hidden layers; others than the published 40,20 with weights=train, such as 300,100 for those of
    LeNet-300-100."""

    def __post_init__(self) -> None:
        widths = tuple(self.hidden)
        if not all(isinstance(width, int) and width >= 1 for width in widths):
            raise InvalidInput(
                f"{self.name}: hidden is {self.hidden!r}; give whole numbers from 1, for example 300,100"
            )
        if widths != HIDDEN and self.weights == CHECKPOINT:
            raise InvalidInput(
                f"{self.name}: the published checkpoint has hidden layers of 40 and 20, not of {widths}; "
                f"train the network here (--option weights={TRAIN}), or leave hidden out"
            )
        object.__setattr__(self, "hidden", widths)

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return joined(missing_files(MNIST), self.source().missing())

    def prunable(self) -> tuple[str, ...]:
        """The weight matrices, from the pixels to the classes."""
        return tuple(f"{layer}.weight" for layer in self._layers())

    def samples(self, part: Part) -> Samples:
        """The 60,000 training images, or the 10,000 test images."""
        return image_samples(MNIST, part, mean=MEAN, std=STD)

    def dense(self) -> "Trajectory":
        """How the network is made and trained."""
        from prunebench.networks.training import Recipe, dense_network, narrowed

        sizes, layers = self._sizes(), self._layers()

        def narrower(part: float) -> "torch.nn.Module":
            return dense_network(narrowed(sizes, part), layers, bias=False)

        recipe = Recipe(epochs=10, batch_size=128, learning_rate=3e-3)
        make = partial(dense_network, sizes, layers, bias=False)
        return self.source().trajectory(make, self.calibration, recipe, narrower)

    def source(self) -> Source:
        """Where the weights come from."""
        sizes = self._sizes()
        shapes = {f"{layer}.weight": (sizes[i + 1], sizes[i]) for i, layer in enumerate(self._layers())}
        return Source(self.name, self.weights, CHECKPOINT_FILE, shapes)

    def _sizes(self) -> tuple[int, ...]:
        return (PIXELS, *self.hidden, CLASSES)

    def _layers(self) -> tuple[str, ...]:
        """The linear layers, by the names that the published checkpoint has."""
        return tuple(f"fc{position + 1}" for position in range(len(self.hidden) + 1))
