"""ResNet20 on CIFAR-10, in the two published variants that pruning papers start from.

"chita": 1×1 convolutions in the shortcuts, the network of the tables of WoodFisher, CBS and CHITA
(91.36 %); "akamaster": shortcuts without parameters (option A; 91.78 %). The checkpoints are those of
mazumder-lab/CHITA and akamaster/pytorch_resnet_cifar10. They are not part of prunebench.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import DATA_VARIABLE, Samples, data_directory, register
from prunebench.data.cifar10 import Part, load_images, missing_files

BLOCKS = 3
CHECKPOINTS = {
    "chita": "checkpoints/resnet20_cifar10_chita_1x1down.safetensors",
    "akamaster": "checkpoints/resnet20_cifar10_akamaster_optA.safetensors",
}
NORMALISATION = {
    "chita": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "akamaster": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@register
@dataclass(frozen=True, kw_only=True)
class Resnet20Cifar10:
    """ResNet20 on CIFAR-10; prunable are the 268,336 weights of all 3×3 convolutions and the linear layer.

    The 1×1 convolutions of the shortcuts stay, as in CHITA's tables. Judged on the official test
    images, or on those of the subset where the official files are not there.
    """

    name: ClassVar[str] = "resnet20-cifar10"
    summary: ClassVar[str] = "ResNet20 on CIFAR-10, 268,336 weights, published accuracy 91.36 or 91.78 %"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    variant: Literal["chita", "akamaster"] = "chita"
    """Which published network: shortcuts with 1×1 convolutions (chita) or without parameters (akamaster)."""

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), or the path of a safetensors file."""

    def __post_init__(self) -> None:
        if self.variant not in CHECKPOINTS:
            raise InvalidInput(f"{self.name}: variant is {self.variant!r}; choose one of {', '.join(CHECKPOINTS)}")

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are."""
        file = self._file()
        weights = "" if file.is_file() else (
            f"the weights of {self.name} are not at {str(file)!r}: put them there (a safetensors file), give a path "
            f"with --option weights=FILE, or point {DATA_VARIABLE} or --data at the folder that holds checkpoints"
        )  # fmt: skip
        return "; ".join(text for text in (missing_files(), weights) if text)

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.convolutional import filled

        if not self._file().is_file():
            raise MissingData(self.missing())
        return filled(self._network(), self._file(), self.name)

    def prunable(self) -> tuple[str, ...]:
        """The convolutions and the linear layer, the shortcuts' 1×1 convolutions left out."""
        from prunebench.networks.convolutional import prunable_weights

        return prunable_weights(self._network(), downsample=False)

    def calibration(self) -> Samples:
        """The training images."""
        return self._samples("train")

    def validation(self) -> Samples:
        """The test images."""
        return self._samples("test")

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The cross-entropy of every sample."""
        from prunebench.networks.classification import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the test images."""
        from prunebench.networks.classification import evaluate_classifier

        return evaluate_classifier(model, self.validation(), batch_size=250)

    def _file(self) -> Path:
        if self.weights == "checkpoint":
            return data_directory() / CHECKPOINTS[self.variant]
        return Path(self.weights).expanduser()

    def _network(self) -> Any:
        from prunebench.networks.convolutional import cifar_resnet

        if self.variant == "chita":
            return cifar_resnet(BLOCKS, "projection", "fc")
        return cifar_resnet(BLOCKS, "pad", "linear")

    def _samples(self, part: Part) -> Samples:
        from prunebench.data.images import ColourSamples

        mean, std = NORMALISATION[self.variant]
        return ColourSamples(*load_images(part), mean=mean, std=std)
