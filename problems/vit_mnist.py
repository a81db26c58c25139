"""A small vision transformer on MNIST: 6 blocks of width 64 over 16 patches of 7×7 pixels.

Its checkpoint (97.94 % on the test images) is that of the public repository
GauravPBhagwat/Handwritten-Digit-Recognition-Using-CNN-And-Vision-Transformer. It is not part of prunebench.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prunebench.core.errors import MissingData
from prunebench.core.problem import DATA_VARIABLE, Samples, data_directory, register
from prunebench.data.mnist import MNIST, Part, load_images, missing_files

MEAN, STD = 0.1307, 0.3081
CHECKPOINT_FILE = "checkpoints/vit_mnist_d64_l6_h8_p7.safetensors"
DEPTH = 6
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@register
@dataclass(frozen=True, kw_only=True)
class VitMnist:
    """A vision transformer on MNIST; prunable are the 196,608 weights of the blocks' linear layers.

    Patch embedding and head stay, as in pruning DeiT.
    """

    name: ClassVar[str] = "vit-mnist"
    summary: ClassVar[str] = "a vision transformer of 6 blocks on MNIST, 196,608 weights, accuracy 97.94 %"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), or the path of a safetensors file."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        file = self._file()
        weights = "" if file.is_file() else (
            f"the weights of {self.name} are not at {str(file)!r}: put them there (a safetensors file), give a path "
            f"with --option weights=FILE, or point {DATA_VARIABLE} or --data at the folder that holds checkpoints"
        )  # fmt: skip
        return "; ".join(text for text in (missing_files(MNIST), weights) if text)

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.convolutional import filled
        from prunebench.networks.vision_transformer import Sizes, VisionTransformer

        if not self._file().is_file():
            raise MissingData(self.missing())
        return filled(VisionTransformer(Sizes()), self._file(), self.name)

    def prunable(self) -> tuple[str, ...]:
        """The linear layers of the blocks."""
        return tuple(f"blocks.{block}.{layer}.weight" for block in range(DEPTH) for layer in LAYERS)

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

    def _file(self) -> Path:
        return data_directory() / CHECKPOINT_FILE if self.weights == "checkpoint" else Path(self.weights).expanduser()


def _samples(part: Part) -> Samples:
    from prunebench.networks.samples import ImageSamples

    return ImageSamples(*load_images(MNIST, part), mean=MEAN, std=STD)
