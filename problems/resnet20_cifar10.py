"""ResNet20 on CIFAR-10, in the two published variants that pruning papers start from.

"chita": 1×1 convolutions in the shortcuts, the network of the tables of WoodFisher, CBS and CHITA
(91.36 %); "akamaster": shortcuts without parameters (option A; 91.78 %). The checkpoints are those of
mazumder-lab/CHITA and akamaster/pytorch_resnet_cifar10. They are not part of prunebench.
"""

from dataclasses import dataclass
from typing import Any, Literal

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples, joined, register
from prunebench.data.cifar10 import load_images, missing_files
from prunebench.networks.classification import Classification, Part
from prunebench.networks.pretrained import Checkpoint

BLOCKS = 3
"""Residual blocks of each of the three widths: 2·3·3 convolutions, the first one and the linear layer are 20."""
CHECKPOINTS = {
    "chita": "checkpoints/resnet20_cifar10_chita_1x1down.safetensors",
    "akamaster": "checkpoints/resnet20_cifar10_akamaster_optA.safetensors",
}
"""Where the published weights are looked for below the data folder."""
NORMALISATION = {
    "chita": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "akamaster": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each channel by which the training of a variant normalised its images."""


@register
@dataclass(frozen=True, kw_only=True)
class Resnet20Cifar10(Classification):
    """ResNet20 on CIFAR-10; prunable are the 268,336 weights of all 3×3 convolutions and the linear layer.

    The 1×1 convolutions of the shortcuts stay, as in CHITA's tables. Judged on the official test
    images, or on those of the subset where the official files are not there.
    """

    name = "resnet20-cifar10"
    summary = "ResNet20 on CIFAR-10, 268,336 weights, published accuracy 91.36 or 91.78 %"
    evaluation_batch = 250

    variant: Literal["chita", "akamaster"] = "chita"
    """Which published network: shortcuts with 1×1 convolutions (chita) or without parameters (akamaster)."""

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), or the path of a safetensors file."""

    def __post_init__(self) -> None:
        if self.variant not in CHECKPOINTS:
            raise InvalidInput(f"{self.name}: variant is {self.variant!r}; choose one of {', '.join(CHECKPOINTS)}")

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are."""
        return joined(missing_files(), self._checkpoint().missing())

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        return self._checkpoint().fill(self._network())

    def prunable(self) -> tuple[str, ...]:
        """The convolutions and the linear layer, the shortcuts' 1×1 convolutions left out."""
        from prunebench.networks.convolutional import prunable_weights

        return prunable_weights(self._network(), downsample=False)

    def samples(self, part: Part) -> Samples:
        """The training images or the test images, normalised as the variant was trained."""
        from prunebench.data.images import ColourSamples

        mean, std = NORMALISATION[self.variant]
        return ColourSamples(*load_images(part), mean=mean, std=std)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.name, self.weights, CHECKPOINTS[self.variant])

    def _network(self) -> Any:
        from prunebench.networks.convolutional import cifar_resnet

        if self.variant == "chita":
            return cifar_resnet(BLOCKS, "projection", "fc")
        return cifar_resnet(BLOCKS, "pad", "linear")
