"""The garment classifier on Fashion-MNIST: 784-512-512-10 with biases.

Its checkpoint (86.19 % on the test images) is the one published with iterative Combinatorial Brain
Surgeon (iCBS, Amazon). It is not part of prunebench.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from prunebench.core.problem import Samples, register
from prunebench.data.mnist import FASHION_MNIST, Part, load_images, missing_files
from prunebench.networks.pretrained import Source

SIZES = (784, 512, 512, 10)
LAYERS = ("linear_relu_stack.linear1", "linear_relu_stack.linear2", "linear_relu_stack.linear3")
MEAN, STD = 0.5, 0.5
CHECKPOINT_FILE = "checkpoints/garment_fashion_mnist_784-512-512-10.safetensors"


@register
@dataclass(frozen=True, kw_only=True)
class GarmentFashionMnist:
    """784-512-512-10 with ReLU and biases on Fashion-MNIST; the 668,672 matrix entries are prunable."""

    name: ClassVar[str] = "garment-fashion-mnist"
    summary: ClassVar[str] = "784-512-512-10 on Fashion-MNIST, 668,672 weights, published accuracy 86.19 %"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), a network trained here ("train"), or a safetensors file's path."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return "; ".join(text for text in (missing_files(FASHION_MNIST), self._source().missing()) if text)

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.training import Recipe, dense_network

        recipe = Recipe(epochs=6, batch_size=128, learning_rate=1e-3)
        return self._source().fill(dense_network(SIZES, LAYERS), self.calibration, recipe)

    def prunable(self) -> tuple[str, ...]:
        """The three weight matrices; the biases stay."""
        return tuple(f"{layer}.weight" for layer in LAYERS)

    def calibration(self) -> Samples:
        """The 60,000 training images."""
        return _samples("train")

    def validation(self) -> Samples:
        """The 10,000 test images."""
        return _samples("test")

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The cross-entropy of every sample."""
        from prunebench.networks.classification import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the test images."""
        from prunebench.networks.classification import evaluate_classifier

        return evaluate_classifier(model, self.validation())

    def _source(self) -> Source:
        shapes: dict[str, tuple[int, ...]] = {}
        for i, layer in enumerate(LAYERS):
            shapes[f"{layer}.weight"] = (SIZES[i + 1], SIZES[i])
            shapes[f"{layer}.bias"] = (SIZES[i + 1],)
        return Source(self.name, self.weights, CHECKPOINT_FILE, shapes)


def _samples(part: Part) -> Samples:
    from prunebench.networks.samples import ImageSamples

    return ImageSamples(*load_images(FASHION_MNIST, part), mean=MEAN, std=STD)
