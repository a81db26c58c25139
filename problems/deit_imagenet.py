"""DeiT on ImageNet, the vision transformer that iCBS prunes, by timm.

Touvron et al.: Training data-efficient image transformers & distillation through attention, ICML 2021;
Rosenberg et al., arXiv 2411.17796 (2024), Fig. 4.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prunebench.core.errors import MissingData
from prunebench.core.problem import Samples, register
from prunebench.data.imagenet import ImageNet

DOWNLOAD = "download"


@register
@dataclass(frozen=True, kw_only=True)
class DeitImagenet:
    """A vision transformer of timm on your own ImageNet folder; prunable are its linear layers but the head."""

    name: ClassVar[str] = "deit-imagenet"
    summary: ClassVar[str] = "DeiT (or another vision transformer of timm) on ImageNet, your own images"
    requires: ClassVar[tuple[str, ...]] = ("torch", "timm", "PIL")
    install: ClassVar[str] = "pip install 'prunebench[timm]'"

    network: str = "deit_small_patch16_224"
    """timm's name of the network."""

    images: str = ""
    """The ImageNet folder with train/ and val/, one folder a class in each; empty: imagenet below the data folder."""

    weights: str = DOWNLOAD
    """"download" for timm's pretrained weights out of the hub or its cache, or a safetensors file with timm's names."""

    batch: int = 64
    """Images that go through the network at a time."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        source = self._source()
        if self.weights == DOWNLOAD:
            return source.missing_images()
        return source.missing()

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.timm_models import load

        if self.missing():
            raise MissingData(self.missing())
        file = None if self.weights == DOWNLOAD else Path(self.weights).expanduser()
        return load(self.network, file, self._source().classes())

    def prunable(self) -> tuple[str, ...]:
        """The weights of the linear layers but the head; the patch embedding is a convolution and stays."""
        from prunebench.networks.timm_models import linear_layers

        return linear_layers(self.network)

    def calibration(self) -> Samples:
        """The images below train/."""
        return self._source().samples("train", self.batch)

    def validation(self) -> Samples:
        """The images below val/."""
        return self._source().samples("val", self.batch)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The cross-entropy of every sample."""
        from prunebench.networks.classification import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and mean cross-entropy on the images below val/."""
        from prunebench.networks.classification import evaluate_classifier

        return evaluate_classifier(model, self.validation(), batch_size=self.batch)

    def save_pretrained(self, model: Any, folder: Path) -> None:
        """Write the model as a folder of timm's: `timm.create_model("local-dir:FOLDER", pretrained=True)` takes it."""
        from prunebench.networks.timm_models import save

        save(model, folder)

    def _source(self) -> ImageNet:
        weights = "" if self.weights == DOWNLOAD else self.weights
        return ImageNet(self.name, self.images, weights, f"checkpoints/{self.network}.safetensors")
