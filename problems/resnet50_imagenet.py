"""ResNet50 on ImageNet: 25.5 million weights, from the user's own ImageNet folder and checkpoint."""

from dataclasses import dataclass
from typing import Any, ClassVar

from prunebench.core.problem import Samples, register
from prunebench.data.imagenet import ImageNet


@register
@dataclass(frozen=True, kw_only=True)
class Resnet50Imagenet:
    """ResNet50 with torchvision's names; prunable are the weights of all convolutions and the linear layer."""

    name: ClassVar[str] = "resnet50-imagenet"
    summary: ClassVar[str] = "ResNet50 on ImageNet, 25,502,912 weights, your own images and checkpoint"
    requires: ClassVar[tuple[str, ...]] = ("torch", "PIL")
    install: ClassVar[str] = "pip install torch pillow"

    images: str = ""
    """The ImageNet folder with train/ and val/, one folder a class in each; empty: imagenet below the data folder."""

    weights: str = ""
    """A safetensors file (torchvision names); empty: the data folder's checkpoints/resnet50_imagenet.safetensors."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are."""
        return self._source().missing()

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.convolutional import filled, resnet50

        source = self._source()
        return filled(resnet50(source.classes()), source.weights_file(), self.name)

    def prunable(self) -> tuple[str, ...]:
        """All convolutions, those of the shortcuts too, and the linear layer."""
        from prunebench.networks.convolutional import prunable_weights, resnet50

        return prunable_weights(resnet50(1))

    def calibration(self) -> Samples:
        """The images below train/."""
        return self._source().samples("train")

    def validation(self) -> Samples:
        """The images below val/."""
        return self._source().samples("val")

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The cross-entropy of every sample."""
        from prunebench.networks.classification import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the images below val/."""
        from prunebench.networks.classification import evaluate_classifier

        return evaluate_classifier(model, self.validation(), batch_size=100)

    def _source(self) -> ImageNet:
        return ImageNet(self.name, self.images, self.weights, "checkpoints/resnet50_imagenet.safetensors")
