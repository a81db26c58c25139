"""DeiT on ImageNet, the vision transformer that iCBS prunes, by timm.

Touvron et al.: Training data-efficient image transformers & distillation through attention, ICML 2021;
Rosenberg et al., arXiv 2411.17796 (2024), Fig. 4.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.core.errors import MissingData
from prunebench.core.problem import Samples, register
from prunebench.data.imagenet import ImageNet, ImageNetProblem
from prunebench.networks.classification import Part

DOWNLOAD = "download"
"""The value of `weights` that stands for timm's pretrained ones."""


@register
@dataclass(frozen=True, kw_only=True)
class DeitImagenet(ImageNetProblem):
    """A vision transformer of timm on your own ImageNet folder; prunable are its linear layers but the head."""

    name = "deit-imagenet"
    summary = "DeiT (or another vision transformer of timm) on ImageNet, your own images"
    requires = ("torch", "timm", "PIL")
    install = "pip install 'prunebench[timm]'"

    network: str = "deit_small_patch16_224"
    """timm's name of the network."""

    weights: str = DOWNLOAD
    """"download" for timm's pretrained weights out of the hub or its cache, or a safetensors file with timm's names."""

    batch: int = 64
    """Images that go through the network at a time."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return self.source().missing_images() if self.weights == DOWNLOAD else self.source().missing()

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.timm_models import load

        if self.missing():
            raise MissingData(self.missing())
        file = None if self.weights == DOWNLOAD else Path(self.weights).expanduser()
        return load(self.network, file, self.source().classes())

    def prunable(self) -> tuple[str, ...]:
        """The weights of the linear layers but the head; the patch embedding is a convolution and stays."""
        from prunebench.networks.timm_models import linear_layers

        return linear_layers(self.network)

    def samples(self, part: Part) -> Samples:
        """The images below train/ or val/, `batch` at a time."""
        return self.source().samples(part, self.batch)

    def save_pretrained(self, model: Any, folder: Path) -> None:
        """Write the model as a folder of timm's: `timm.create_model("local-dir:FOLDER", pretrained=True)` takes it."""
        from prunebench.networks.timm_models import save

        save(model, folder)

    def source(self) -> ImageNet:
        """Where images and weights are."""
        weights = "" if self.weights == DOWNLOAD else self.weights
        return ImageNet(self.name, self.images, weights, f"checkpoints/{self.network}.safetensors")
