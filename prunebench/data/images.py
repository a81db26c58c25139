"""Colour images: held as bytes, or read from a folder when they are fetched; normalised channel by channel."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.networks.samples import checked_positions

AT_ONCE = 250
"""Images normalised in one step: 250 of 224 × 224 pixels take 150 MB in float32."""

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
"""Kinds of image files that are read."""


class ColourSamples:
    """Colour images held as bytes; (x/255 − mean)/std is done when they are fetched.

    Parameters
    ----------
    images : uint8 (s, height, width, 3)
    labels : uint8 or int (s,)
    mean, std : one number a channel

    Raises
    ------
    InvalidInput   images are of another shape, or there is not one label an image
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[Any],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        if images.ndim != 4 or images.shape[3] != 3 or len(images) != len(labels) or len(images) == 0:
            raise InvalidInput(
                f"images have shape {images.shape} and labels {labels.shape}; expected (s, height, width, 3) and (s,)"
            )
        self.images = images
        self.labels = labels
        self._mean, self._std = _channels(mean), _channels(std)

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.images)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs float32 (b, 3, height, width) and labels int64 (b,) of the samples at `positions`."""
        chosen = checked_positions(positions, len(self))
        pixels = torch.from_numpy(self.images[chosen]).permute(0, 3, 1, 2).to(torch.float32)
        labels = torch.from_numpy(self.labels[chosen].astype(np.int64))
        return pixels.div_(255.0).sub_(self._mean).div_(self._std).contiguous(), labels


class FolderSamples:
    """Images in one folder a class (the layout of torchvision's ImageFolder), read when they are fetched.

    The classes are the folders in alphabetical order, the samples their files in alphabetical order.
    Each image is scaled so that its shorter side is `resize`, then cut to a centred square of `crop`.

    Parameters
    ----------
    folder : holds one folder a class
    classes : how many class folders there must be; 0 for any number
    resize, crop : pixels
    mean, std : one number a channel

    Raises
    ------
    InvalidInput   no images, or another number of classes
    """

    def __init__(
        self,
        folder: Path,
        *,
        classes: int = 0,
        resize: int = 256,
        crop: int = 224,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        if classes and len(names) != classes:
            raise InvalidInput(f"{str(folder)!r} holds {len(names)} class folders; expected {classes}")
        self.classes: tuple[str, ...] = tuple(names)
        self.files: list[tuple[Path, int]] = [
            (file, label)
            for label, name in enumerate(names)
            for file in sorted((folder / name).iterdir())
            if file.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise InvalidInput(
                f"{str(folder)!r} holds no images; expected one folder a class with {', '.join(SUFFIXES)}"
            )
        self._resize, self._crop = resize, crop
        self.batch_size = AT_ONCE
        """How many images should go through the network at a time."""
        self._mean, self._std = _channels(mean), _channels(std)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs float32 (b, 3, crop, crop) and labels int64 (b,) of the samples at `positions`.

        Raises
        ------
        InvalidInput   a file is not an image
        """
        chosen = [self.files[position] for position in checked_positions(positions, len(self))]
        pixels = torch.from_numpy(np.stack([self._read(file) for file, _ in chosen]))
        inputs = pixels.permute(0, 3, 1, 2).to(torch.float32)
        labels = torch.tensor([label for _, label in chosen], dtype=torch.int64)
        return inputs.div_(255.0).sub_(self._mean).div_(self._std).contiguous(), labels

    def in_batches(self, size: int) -> "FolderSamples":
        """The same samples, asking to go through the network so many at a time."""
        other = copy.copy(self)
        other.batch_size = size
        return other

    def _read(self, file: Path) -> npt.NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise InvalidInput(f"{str(file)!r} cannot be read as an image: {error}") from error
        share = self._resize / min(image.size)
        size = (max(self._crop, round(image.width * share)), max(self._crop, round(image.height * share)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (image.width - self._crop) // 2, (image.height - self._crop) // 2
        return np.asarray(image.crop((left, top, left + self._crop, top + self._crop)), dtype=np.uint8)


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
