"""Checkpoints on disk: arrays in an .npz without pickles, read with checks, and the seal over what they hold."""

import hashlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

MOST_HEADER = 4096
"""Bytes that the header of an array in a checkpoint may have; numpy's own take some 128."""

PIECE = 2**24
"""Bytes that are read at a time, so that no second copy of an array is made."""

FOREIGN = (
    zipfile.BadZipFile, OSError, EOFError, struct.error, ArithmeticError, LookupError, RuntimeError, SyntaxError,
    TypeError, MemoryError,
)  # fmt: skip
"""What zipfile and numpy raise on files that are no archive of arrays."""


def seal(request: Mapping[str, Any], arrays: Arrays, info: Mapping[str, Any]) -> str:
    """SHA-256 over the request and all contents. It finds mix-ups and damage; it is no signature."""
    digest = hashlib.sha256()
    for part in (request, info):
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\0")
    for name in sorted(arrays):
        held = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {held.dtype.str} {held.shape}\0".encode())
        digest.update(held.tobytes() if held.ndim == 0 else held.data)
    return digest.hexdigest()


def write(file: Path, arrays: Arrays) -> None:
    """Write arrays under a temporary name and rename it, so that no half file is ever seen."""
    temporary = file.with_suffix(".tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]  # keywords are arrays, not allow_pickle
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that `write` wrote.

    Raises
    ------
    ValueError   not such a file: truncated, foreign, with objects, compressed, or of sizes that it does not have
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
    except FOREIGN as error:
        raise ValueError(f"truncated or foreign ({error})") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, whose claimed size is compared with the file's before anything of that size is made."""
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"{member.filename} is compressed, which checkpoints are not")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{member.filename} has an array header of version {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=MOST_HEADER)
        if dtype.hasobject or (fortran and len(shape) > 1):
            raise ValueError(f"{member.filename} holds objects or columns, which checkpoints do not")
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - stream.tell():
            raise ValueError(f"{member.filename} claims {size} bytes and has {member.file_size - stream.tell()}")
        if size > os.path.getsize(str(archive.filename)):
            raise ValueError(f"{member.filename} claims more bytes than the whole file has")
        contents = bytearray(size)
        _fill(contents, stream)
    return np.frombuffer(contents, dtype=dtype).reshape(shape)


def _fill(contents: bytearray, stream: IO[bytes]) -> None:
    view, filled = memoryview(contents), 0
    while filled < len(view):
        piece = stream.read(min(PIECE, len(view) - filled))
        if not piece:
            raise EOFError("the file ends too early")
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    stream.read(1)  # the checksum is compared at the end
