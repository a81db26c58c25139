"""MobileNetV1 on ImageNet: 4.2 million weights, from the user's own ImageNet folder and checkpoint."""

from dataclasses import dataclass
from typing import Any

from prunebench.core.problem import register
from prunebench.data.imagenet import ImageNetProblem


@register
@dataclass(frozen=True, kw_only=True)
class Mobilenetv1Imagenet(ImageNetProblem):
    """MobileNetV1 (Howard et al., 2017); prunable are the weights of all convolutions and the linear layer."""

    name = "mobilenetv1-imagenet"
    summary = "MobileNetV1 on ImageNet, 4,209,088 weights, your own images and checkpoint"
    checkpoint = "checkpoints/mobilenetv1_imagenet.safetensors"
    evaluation_batch = 100

    weights: str = ""
    """A safetensors file (model.N.M.*, fc.*); empty: the data folder's checkpoints/mobilenetv1_imagenet.safetensors."""

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.convolutional import filled, mobilenet_v1

        source = self.source()
        return filled(mobilenet_v1(source.classes()), source.weights_file(), self.name)

    def prunable(self) -> tuple[str, ...]:
        """All convolutions, depthwise ones too, and the linear layer."""
        from prunebench.networks.convolutional import mobilenet_v1, prunable_weights

        return prunable_weights(mobilenet_v1(1))
