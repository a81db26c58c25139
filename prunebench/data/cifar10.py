"""CIFAR-10 from files: the official python batches where a user has them, else an exact subset in one npz file."""

import hashlib
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import DATA_VARIABLE, data_directory

Part = Literal["train", "test"]
Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Images uint8 (s, 32, 32, 3) and labels uint8 (s,)."""

OFFICIAL = "cifar-10-batches-py"
"""Folder of the official python batches."""
SUBSET = "cifar10/cifar10_lossless_subset.npz"
"""File of the exact subset that is read where the official batches are not there."""
CHECKSUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""MD5 sums of the official batches."""


def missing_files() -> str:
    """What is not there and what to do; "" if there is a data set to use."""
    folder = data_directory()
    if (folder / SUBSET).is_file() or all((folder / OFFICIAL / name).is_file() for name in CHECKSUMS):
        return ""
    return (
        f"CIFAR-10 is not in {str(folder)!r}: unpack the official python version there (folder {OFFICIAL} with "
        f"{', '.join(CHECKSUMS)}), or point {DATA_VARIABLE} or --data at the folder that holds it"
    )


def load_images(part: Part) -> Images:
    """Images and labels of a part, read-only: the official 50,000 or 10,000, else those of the subset.

    Raises
    ------
    MissingData    neither is there
    InvalidInput   a file is not the one its name says
    """
    return _load(part, data_directory())


@lru_cache(maxsize=4)
def _load(part: Part, folder: Path) -> Images:
    names = [name for name in CHECKSUMS if name.startswith("data" if part == "train" else "test")]
    if all((folder / OFFICIAL / name).is_file() for name in CHECKSUMS):
        batches = [_official(folder / OFFICIAL / name) for name in names]
        return _frozen(np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]))
    file = folder / SUBSET
    if not file.is_file():
        raise MissingData(missing_files())
    with np.load(file, allow_pickle=False) as held:
        keys = (f"{part}_images", f"{part}_labels")
        if not all(key in held for key in keys):
            raise InvalidInput(f"{str(file)!r} lacks {' or '.join(keys)}; it is not the subset")
        images, labels = held[keys[0]], held[keys[1]]
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) != len(labels):
        raise InvalidInput(
            f"{str(file)!r} holds images of {images.dtype} {images.shape}; expected uint8 (s, 32, 32, 3)"
        )
    return _frozen(images, labels)


def _official(file: Path) -> Images:
    contents = file.read_bytes()
    digest = hashlib.md5(contents, usedforsecurity=False).hexdigest()
    if digest != CHECKSUMS[file.name]:
        # a pickle runs code when it is read, so nothing but the official file is
        raise InvalidInput(
            f"{str(file)!r} has md5 {digest}; the official file has {CHECKSUMS[file.name]}; fetch it again"
        )
    held: dict[bytes, Any] = pickle.loads(contents, encoding="bytes")
    images = np.ascontiguousarray(np.asarray(held[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, np.asarray(held[b"labels"], dtype=np.uint8)


def _frozen(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Images:
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
