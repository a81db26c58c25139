"""Reading untrusted `.npz` files: a header's claims are checked against the data before anything is loaded.

An `.npz` is a zip archive of `.npy` members (numpy.lib.format, "Format version 1.0" and "2.0"). numpy's own
reader allocates as much memory as a header claims and evaluates headers as Python literals. This reader accepts
numbers and texts only, parses headers by a fixed pattern, and unpacks no more than was claimed.
"""

import lzma
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput

DIRECTORY_BYTES = 1_000_000
"""Largest zip directory that is read: some ten thousand members, where a block has about twenty."""
HEADER_BYTES = 4096
"""Longest `.npy` header that is read; numpy writes 118 bytes for any plain array."""
PACKED_BYTES, PACKED_RATIO = 64_000_000, 100
"""Arrays that unpack to more than PACKED_BYTES and more than PACKED_RATIO times the file are refused as a zip bomb."""
STEP_BYTES = 1 << 20
"""Bytes unpacked at a time."""
LAST_CHARACTER, SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)
"""The last Unicode code point, and the surrogates, which are not characters."""
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, KeyError,
    IndexError, OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What Python's zip reader raises on truncated, modified or encrypted archives."""

_MAGIC = b"\x93NUMPY"
"""First bytes of every .npy member."""
_HEADER = re.compile(
    rb"\{\s*'descr'\s*:\s*'([<>=|]?[A-Za-z?]\d{0,6}(?:\[\w{1,8}\])?)'\s*,"
    rb"\s*'fortran_order'\s*:\s*(True|False)\s*,"
    rb"\s*'shape'\s*:\s*\(\s*((?:\d{1,18}\s*,\s*)*(?:\d{1,18})?)\s*\)\s*,?\s*\}\s*"
)
"""An .npy header as numpy writes it: dtype, order, shape."""
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
"""The zip end-of-central-directory record without its comment."""


@dataclass(frozen=True)
class Member:
    """One array of an archive, described by its header but not loaded.

    name : str            the key, without ".npy"
    dtype : numpy dtype   as stored, any byte order
    shape : tuple of int
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    begin: int
    """Offset of the data in the unpacked member, in bytes."""
    info: zipfile.ZipInfo

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """The arrays of an open `.npz` file; `header` describes an array, `array` loads it."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.bytes = os.fstat(stream.fileno()).st_size
        begins = stream.read(len(_MAGIC))
        if begins == _MAGIC:
            raise InvalidInput(f"{path}: this is a single array (.npy), not an archive of arrays (.npz)")
        count = _entries(path, stream, self.bytes)
        self._zip = zipfile.ZipFile(stream)
        if len(self._zip.infolist()) != count:
            # a damaged length field makes the reader skip the entries that follow
            raise zipfile.BadZipFile(f"{count} members announced, {len(self._zip.infolist())} found")
        self._held: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            # opening compares the names in directory and member: a damaged name must not hide an optional key
            self._zip.open(info).close()
            if info.filename.endswith(".npy"):
                key = info.filename.removesuffix(".npy")
                if key in self._held:
                    raise InvalidInput(f"{path}: the key {key!r} stands twice; which one holds is not known")
                self._held[key] = info

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def beginning(self, prefix: str) -> tuple[str, ...]:
        """The keys that begin with a prefix."""
        return tuple(key for key in self._held if key.startswith(prefix))

    def header(self, key: str) -> Member:
        """The header of the array with that key, checked against the size of its member.

        Raises
        ------
        InvalidInput   not the header of a plain array, objects, or a size that differs from the header's claim
        """
        info = self._held[key]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidInput(f"{self._what(key)} is packed by an unusual method; write it with numpy.savez")
        with self._zip.open(info) as stream:
            start = stream.read(len(_MAGIC) + 2)
            if start[: len(_MAGIC)] != _MAGIC or start[len(_MAGIC) :] not in (b"\x01\x00", b"\x02\x00"):
                raise InvalidInput(f"{self._what(key)} is no array as numpy.save writes it")
            width = 2 if start[len(_MAGIC)] == 1 else 4
            length = int.from_bytes(stream.read(width), "little")
            if length > HEADER_BYTES:
                raise InvalidInput(f"{self._what(key)} has a header of {length:,} bytes; a plain array needs 118")
            text = stream.read(length)
        found = _HEADER.fullmatch(text)
        if found is None or len(text) < length:
            raise InvalidInput(f"{self._what(key)} has a header that describes no plain array: {text[:80]!r}")
        member = Member(
            name=key,
            dtype=self._dtype(key, found[1].decode("ascii")),
            shape=tuple(int(part) for part in found[3].split(b",") if part.strip()),
            fortran_order=found[2] == b"True",
            begin=len(start) + width + length,
            info=info,
        )
        if member.begin + member.size != info.file_size:
            raise InvalidInput(
                f"{self._what(key)} claims shape {member.shape} of {member.dtype}, {member.size:,} bytes, "
                f"but holds {info.file_size - member.begin:,}; write the file again"
            )
        return member

    def require_unpacked(self, members: list[Member]) -> None:
        """Raise InvalidInput if the arrays would unpack to far more than the file, or to more than the memory."""
        total = sum(member.size for member in members)
        if total > max(PACKED_BYTES, PACKED_RATIO * self.bytes):
            raise InvalidInput(
                f"{self.path}: the arrays unpack to {total:,} bytes out of a file of {self.bytes:,}, as zip bombs do; "
                "if they are meant, write them without compression (numpy.savez)"
            )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if total > memory:
            raise InvalidInput(
                f"{self.path}: the arrays take {total:,} bytes and this machine has {memory:,}; cut a smaller block"
            )

    def array(self, member: Member) -> npt.NDArray[Any]:
        """The array, C-contiguous and in native byte order.

        Raises
        ------
        InvalidInput   the member ends early;  one of DAMAGED   its checksum fails
        """
        out = np.empty(math.prod(member.shape), dtype=member.dtype)
        target = out.view(np.uint8) if member.size else np.empty(0, dtype=np.uint8)
        with self._zip.open(member.info) as stream:
            stream.read(member.begin)
            for start in range(0, member.size, STEP_BYTES):
                wanted = min(STEP_BYTES, member.size - start)
                piece = stream.read(wanted)
                if len(piece) != wanted:
                    raise InvalidInput(f"{self._what(member.name)} ends early; write the file again")
                target[start : start + wanted] = np.frombuffer(piece, dtype=np.uint8)
        if member.dtype.kind == "U" and member.size:
            points = target.view(np.dtype(np.uint32).newbyteorder(member.dtype.byteorder))
            # numpy and Python do not check that these numbers are characters
            if points.max() > LAST_CHARACTER or ((points >= SURROGATES[0]) & (points <= SURROGATES[1])).any():
                raise InvalidInput(f"{self._what(member.name)} holds numbers that are no characters; write it as text")
        shaped = out.reshape(member.shape, order="F" if member.fortran_order else "C")
        return np.asarray(shaped, dtype=member.dtype.newbyteorder("="), order="C")

    def text(self, member: Member, most: int) -> str:
        """The text of a member that holds one, of at most `most` characters.

        Raises
        ------
        InvalidInput   no single text, one too long, or characters that do not print
        """
        what = self._what(member.name)
        if member.dtype.kind != "U" or member.shape != () or member.dtype.itemsize > 4 * most:
            raise InvalidInput(
                f"{what} has dtype {member.dtype} and shape {member.shape}; expected one text of at most {most} "
                "characters"
            )
        text = str(self.array(member))
        if not text.isprintable():
            raise InvalidInput(f"{what} is {text!r}; expected characters that print")
        return text

    def _what(self, key: str) -> str:
        return f"{self.path}: {key}"

    def _dtype(self, key: str, text: str) -> np.dtype[Any]:
        try:
            dtype = np.dtype(text)
        except TypeError:
            raise InvalidInput(f"{self._what(key)} has the unknown dtype {text!r}; expected numbers or text") from None
        if dtype.kind not in "biufcUSmMV":
            raise InvalidInput(f"{self._what(key)} holds Python objects (dtype {text!r}), which are never loaded")
        return dtype


@contextmanager
def opened(path: Path, what: str) -> Iterator[Archive]:
    """The archive of a file; any error while it is open becomes one InvalidInput.

    what : what kind of file it should be, for the message

    Raises
    ------
    InvalidInput   no such file, no regular file, no zip archive, a damaged one, or not enough memory
    """
    try:
        if path.is_dir():
            raise InvalidInput(f"{path}: this is a folder; give the {what} in it")
        if not path.exists():
            raise InvalidInput(f"{path}: there is no such file; make one with 'prunebench block'")
        if not path.is_file():
            raise InvalidInput(f"{path}: this is a device or a pipe; give a regular file")
        with path.open("rb") as stream:
            yield Archive(path, stream)
    except InvalidInput:
        raise
    except MemoryError as error:
        raise InvalidInput(f"{path}: there is not enough memory for its arrays; cut a smaller block") from error
    except DAMAGED as error:
        raise InvalidInput(f"{path}: not a readable {what}: truncated or foreign ({error})") from error


def _entries(path: Path, stream: IO[bytes], size: int) -> int:
    """The number of members by the end of the file; refused if their directory is too large.

    Python's reader allocates some 500 bytes per entry, however many there are.
    """
    window = min(size, _END_OF_DIRECTORY.size + 0xFFFF)
    stream.seek(size - window)
    tail = stream.read(window)
    stream.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
        raise zipfile.BadZipFile("no zip archive")
    fields = _END_OF_DIRECTORY.unpack_from(tail, at)
    count, length = int(fields[4]), int(fields[5])
    if length > DIRECTORY_BYTES:
        raise InvalidInput(f"{path}: its table of contents takes {length:,} bytes; a block file needs about 2,000")
    return count
