"""A user's own ImageNet folder and checkpoint: where they are looked for, and how the images are read."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from prunebench.core.errors import MissingData
from prunebench.core.problem import DATA_VARIABLE, Samples, data_directory, joined
from prunebench.networks.classification import Classification, Part

if TYPE_CHECKING:
    from prunebench.data.images import FolderSamples

MEAN = (0.485, 0.456, 0.406)
"""Mean of the red, green and blue values in [0, 1], as published networks expect it."""
STD = (0.229, 0.224, 0.225)
"""Their standard deviations."""
FOLDER = "imagenet"
"""Where the images are looked for in the data folder."""
PARTS: tuple[Literal["train"], Literal["val"]] = ("train", "val")
"""Folders of the two parts, in the layout of torchvision."""


@dataclass(frozen=True)
class ImageNet:
    """What a problem on ImageNet needs of the user.

    problem : its name
    images : the folder with train/ and val/; empty for `imagenet` below the data folder
    weights : a safetensors file; empty for `checkpoint` below the data folder
    """

    problem: str
    images: str
    weights: str
    checkpoint: str

    def folder(self) -> Path:
        """The folder that holds train/ and val/."""
        return Path(self.images).expanduser() if self.images else data_directory() / FOLDER

    def weights_file(self) -> Path:
        """The safetensors file of the network's state."""
        return Path(self.weights).expanduser() if self.weights else data_directory() / self.checkpoint

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Reads no file."""
        weights = "" if self.weights_file().is_file() else (
            f"the weights of {self.problem} are not at {str(self.weights_file())!r}: put a safetensors file there, "
            f"give it with --option weights=FILE, or point {DATA_VARIABLE} or --data at the folder that holds it"
        )  # fmt: skip
        return joined(self.missing_images(), weights)

    def missing_images(self) -> str:
        """Which images are not there and what to do; "" if all are."""
        absent = [part for part in PARTS if not (self.folder() / part).is_dir()]
        if not absent:
            return ""
        return (
            f"ImageNet is not in {str(self.folder())!r} ({' and '.join(absent)} missing): fetch it from "
            "image-net.org, unpack it to one folder a class below train/ and val/, and give that folder "
            "with --option images=DIR"
        )

    def classes(self) -> int:
        """How many classes the images have.

        Raises
        ------
        MissingData   images are not there
        """
        if self.missing_images():
            raise MissingData(self.missing_images())
        return len(_folder(self.folder() / "train").classes)

    def samples(self, part: Part, batch_size: int = 0) -> Samples:
        """The images of a part, read when they are fetched; `batch_size` at a time in the network, 0 for any number.

        Raises
        ------
        InvalidInput   no images, or val/ has other classes than train/
        """
        train = _folder(self.folder() / "train")
        found = train if part == "train" else _folder(self.folder() / "val", len(train.classes))
        return found.in_batches(batch_size) if batch_size else found


@dataclass(frozen=True, kw_only=True)
class ImageNetProblem(Classification):
    """A network on the user's own ImageNet folder; the images below val/ are the test samples."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "PIL")
    install: ClassVar[str] = "pip install torch pillow"
    checkpoint: ClassVar[str]
    """Where the weights are looked for below the data folder."""

    images: str = ""
    """The ImageNet folder with train/ and val/, one folder a class in each; empty: imagenet below the data folder."""

    weights: str = ""
    """A safetensors file; empty: the checkpoint below the data folder."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Reads no file."""
        return self.source().missing()

    def samples(self, part: Part) -> Samples:
        """The images below train/ or val/."""
        return self.source().samples(part)

    def source(self) -> ImageNet:
        """Where images and weights are."""
        return ImageNet(self.name, self.images, self.weights, self.checkpoint)


@lru_cache(maxsize=8)
def _folder(folder: Path, classes: int = 0) -> "FolderSamples":
    from prunebench.data.images import FolderSamples

    return FolderSamples(folder, classes=classes, mean=MEAN, std=STD)
