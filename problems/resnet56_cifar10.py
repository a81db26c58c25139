"""ResNet56 on CIFAR-10: the published network of akamaster/pytorch_resnet_cifar10 (93.62 %), on which structured
pruning is compared. The checkpoint is not part of prunebench.
"""

from dataclasses import dataclass
from typing import Any

from prunebench.core.problem import Samples, joined, register
from prunebench.data.cifar10 import load_images, missing_files
from prunebench.networks.classification import Classification, Part
from prunebench.networks.pretrained import Checkpoint

BLOCKS = 9
"""Residual blocks of each of the three widths: 2·9·3 convolutions, the first one and the linear layer are 56."""
CHECKPOINT = "checkpoints/resnet56_cifar10_akamaster_optA.safetensors"
"""Where the published weights are looked for below the data folder."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of each channel by which its training normalised the images."""


@register
@dataclass(frozen=True, kw_only=True)
class Resnet56Cifar10(Classification):
    """ResNet56 on CIFAR-10, shortcuts without parameters; prunable are all 3×3 convolutions and the linear layer.

    Judged on the official test images, or on those of the subset where the official files are not there.
    """

    name = "resnet56-cifar10"
    summary = "ResNet56 on CIFAR-10, 848,944 weights, published accuracy 93.62 %"
    evaluation_batch = 250

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), or the path of a safetensors file."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are."""
        return joined(missing_files(), self._checkpoint().missing())

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        return self._checkpoint().fill(self._network())

    def prunable(self) -> tuple[str, ...]:
        """The convolutions and the linear layer."""
        from prunebench.networks.convolutional import prunable_weights

        return prunable_weights(self._network())

    def samples(self, part: Part) -> Samples:
        """The training images or the test images, normalised as the network was trained."""
        from prunebench.data.images import ColourSamples

        return ColourSamples(*load_images(part), mean=MEAN, std=STD)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.name, self.weights, CHECKPOINT)

    def _network(self) -> Any:
        from prunebench.networks.convolutional import cifar_resnet

        return cifar_resnet(BLOCKS, "pad", "linear")
