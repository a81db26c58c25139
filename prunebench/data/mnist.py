"""MNIST and Fashion-MNIST from idx files, in the folder layout of torchvision; numpy only.

Files that are not there are fetched from the mirrors torchvision uses, with their checksums verified.
"""

import gzip
import hashlib
import os
import struct
import urllib.request
import zlib
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import DATA_VARIABLE, data_directory

if TYPE_CHECKING:
    from prunebench.networks.samples import ImageSamples

Bytes = npt.NDArray[np.uint8]
Part = Literal["train", "test"]

DOWNLOAD_SECONDS = 10.0
"""How long a mirror may stay silent."""

UNSIGNED_BYTE = 8
"""The idx code for elements of type unsigned byte."""


@dataclass(frozen=True)
class IdxFile:
    """One idx file: its name without .gz, the shape it must have, and the checksum of the .gz."""

    name: str
    shape: tuple[int, ...]
    md5: str


@dataclass(frozen=True)
class ImageSet:
    """A set of images with labels: four idx files in one folder."""

    title: str
    folder: str
    mirrors: tuple[str, ...]
    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile]

    @property
    def files(self) -> tuple[IdxFile, ...]:
        """All four files."""
        return (*self.train, *self.test)


MNIST = ImageSet(
    title="MNIST",
    folder="MNIST/raw",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/",),
    train=(
        IdxFile("train-images-idx3-ubyte", (60000, 28, 28), "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        IdxFile("train-labels-idx1-ubyte", (60000,), "d53e105ee54ea40749a09fcbcd1e9432"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (10000, 28, 28), "9fb629c4189551a2d022fa330f9573f3"),
        IdxFile("t10k-labels-idx1-ubyte", (10000,), "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)
"""Files, checksums and addresses of MNIST."""

FASHION_MNIST = ImageSet(
    title="Fashion-MNIST",
    folder="FashionMNIST/raw",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    train=(
        IdxFile("train-images-idx3-ubyte", (60000, 28, 28), "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        IdxFile("train-labels-idx1-ubyte", (60000,), "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    test=(
        IdxFile("t10k-images-idx3-ubyte", (10000, 28, 28), "bef4ecab320f06d8554ea6380940ec79"),
        IdxFile("t10k-labels-idx1-ubyte", (10000,), "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)
"""Files, checksums and addresses of Fashion-MNIST."""


def missing_files(images: ImageSet) -> str:
    """Which files are not there, and what to do; "" if all are. Looks at names only and fetches nothing."""
    folder = data_directory() / images.folder
    absent = [f"{file.name}.gz" for file in images.files if _find(folder, file) is None]
    if not absent:
        return ""
    return (
        f"{images.title} is not in {str(folder)!r}: put {', '.join(absent)} there "
        f"(unpacked or not), or point {DATA_VARIABLE} or --data at the folder that holds {images.folder}"
    )


def load_images(images: ImageSet, part: Part) -> tuple[Bytes, Bytes]:
    """Images uint8 (s, 28, 28) and labels uint8 (s,), read-only, kept in memory for the next call.

    Raises
    ------
    MissingData    files are not there and could not be fetched; one line says what to put where
    InvalidInput   a file is truncated or is not the one its name says
    """
    return _load(images, part, data_directory() / images.folder)


def image_samples(images: ImageSet, part: Part, *, mean: float, std: float) -> "ImageSamples":
    """The images of a part as samples, (x/255 − mean)/std; raises what `load_images` does."""
    from prunebench.networks.samples import ImageSamples

    return ImageSamples(*load_images(images, part), mean=mean, std=std)


@lru_cache(maxsize=4)
def _load(images: ImageSet, part: Part, folder: Path) -> tuple[Bytes, Bytes]:
    pixels, labels = images.train if part == "train" else images.test
    return _read(images, pixels, folder), _read(images, labels, folder)


def _read(images: ImageSet, file: IdxFile, folder: Path) -> Bytes:
    path = _find(folder, file)
    if path is None:
        path = _fetch(images, file, folder)
    array = read_idx(path)
    if array.shape != file.shape:
        raise InvalidInput(f"{str(path)!r} holds shape {array.shape}; {images.title}'s {file.name} has {file.shape}")
    return array


def _find(folder: Path, file: IdxFile) -> Path | None:
    for name in (file.name, f"{file.name}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_idx(path: Path | str) -> Bytes:
    """An idx file of unsigned bytes, packed (.gz) or not, as a read-only array of its own shape.

    Layout: two zero bytes, the element type, the number of axes, one big-endian uint32 an axis, the elements.

    Raises
    ------
    InvalidInput   truncated, longer than its header says, another element type, or no idx file at all
    """
    file = Path(path)
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput(f"{str(file)!r} is truncated or not gzip ({error}); delete it and fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or content[3] == 0:
        raise InvalidInput(f"{str(file)!r} is not an idx file of unsigned bytes; delete it and fetch it again")
    axes = content[3]
    start = 4 + 4 * axes
    sizes = struct.unpack(f">{axes}I", content[4:start]) if len(content) >= start else ()
    expected = int(np.prod(sizes, dtype=np.int64)) if sizes else 1
    if not sizes or len(content) - start != expected:
        raise InvalidInput(
            f"{str(file)!r} is truncated or damaged: its header promises {expected} bytes of shape {sizes} "
            f"and {max(len(content) - start, 0)} are there; delete it and fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)


def _fetch(images: ImageSet, file: IdxFile, folder: Path) -> Path:
    reasons = []
    for mirror in images.mirrors:
        url = f"{mirror}{file.name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as answer:
                content = answer.read()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
                raise OSError("the checksum of what came back is wrong")
            target = folder / f"{file.name}.gz"
            _write(target, content)
            return target
        except (OSError, ValueError, HTTPException) as error:
            reasons.append(f"{url}: {error}")
    raise MissingData(f"{missing_files(images)} (fetching failed: {'; '.join(reasons)})")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a download that is cut off leaves no file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
