"""ResNet50 on ImageNet: 25.5 million weights, from the user's own ImageNet folder and checkpoint."""

from dataclasses import dataclass
from typing import Any

from prunebench.core.problem import register
from prunebench.data.imagenet import ImageNetProblem


@register
@dataclass(frozen=True, kw_only=True)
class Resnet50Imagenet(ImageNetProblem):
    """ResNet50 with torchvision's names; prunable are the weights of all convolutions and the linear layer."""

    name = "resnet50-imagenet"
    summary = "ResNet50 on ImageNet, 25,502,912 weights, your own images and checkpoint"
    checkpoint = "checkpoints/resnet50_imagenet.safetensors"
    evaluation_batch = 100

    weights: str = ""
    """A safetensors file (torchvision names); empty: the data folder's checkpoints/resnet50_imagenet.safetensors."""

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.convolutional import filled, resnet50

        source = self.source()
        return filled(resnet50(source.classes()), source.weights_file(), self.name)

    def prunable(self) -> tuple[str, ...]:
        """All convolutions, those of the shortcuts too, and the linear layer."""
        from prunebench.networks.convolutional import prunable_weights, resnet50

        return prunable_weights(resnet50(1))
