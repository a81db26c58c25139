"""Lines and numbers of foreign text files, plain or compressed; whatever is wrong is named with its line."""

import bz2
import gzip
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from prunebench.core.errors import InvalidInput

MOST_BYTES = 1 << 30
"""Most bytes of text, once unpacked: 8192 variables with all their products take about that much as LP."""
LONGEST_LINE = 1 << 26
"""Most bytes of a line: some writers put a whole objective on one."""
MOST_VARIABLES = 1_000_000
"""Most variables that a file may announce; a block has at most 8192, the others must be fixed."""
SHOWN = 40
"""Characters of a faulty text that a message shows."""

PACKED: dict[str, Callable[..., IO[Any]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""How files of these suffixes are unpacked."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError, ValueError)
"""What reading a truncated or foreign file raises."""


def suffix_of(path: Path) -> str:
    """The suffix in small letters, without that of a compression: ".lp" of "a.lp.xz"."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower()


def require_file(path: Path, what: str) -> None:
    """Raise InvalidInput unless `path` is a regular file. what : what it should be, for the message"""
    if path.is_dir():
        raise InvalidInput(f"{path}: this is a folder; give {what}")
    if not path.exists():
        raise InvalidInput(f"{path}: there is no such file; give {what}")
    if not path.is_file():
        raise InvalidInput(f"{path}: this is a device or a pipe; give {what}")


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked by its suffix."""
    stream: IO[bytes] = PACKED.get(path.suffix.lower(), open)(path, "rb")
    return stream


def beginning(path: Path, count: int = 64) -> bytes:
    """The first bytes of a file, unpacked.

    Raises
    ------
    InvalidInput   a damaged one
    """
    try:
        with opened(path) as stream:
            return stream.read(count)
    except DAMAGED as error:
        raise InvalidInput(f"{path}: it cannot be read ({error})") from error


def require_unpacked(path: Path, what: str) -> None:
    """Refuse a packed file of a kind that is read in place."""
    if path.suffix.lower() in PACKED:
        raise InvalidInput(f"{path}: {what} is not read packed; unpack it first")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of all lines, from 1, without their ends.

    Raises
    ------
    InvalidInput   no such file, no text, a damaged one, or more than MOST_BYTES of it
    """
    require_file(path, "a text file")
    read = 0
    try:
        with opened(path) as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE):
                number += 1
                read += len(line)
                if len(line) >= LONGEST_LINE:
                    raise InvalidInput(f"{path}, line {number}: it is longer than {LONGEST_LINE:,} bytes")
                if read > MOST_BYTES:
                    raise InvalidInput(f"{path}: it holds more than {MOST_BYTES:,} bytes of text, too much for a block")
                if b"\0" in line:
                    raise InvalidInput(f"{path}, line {number}: this is no text")
                yield number, line.decode("utf-8").rstrip("\r\n")
    except InvalidInput:
        raise
    except DAMAGED as error:
        raise InvalidInput(f"{path}: it cannot be read as text, or is damaged ({error})") from error


def at(path: Path, number: int) -> str:
    """How a message names a line."""
    return f"{path}, line {number}"


def real(where: str, text: str) -> float:
    """A finite number.

    Raises
    ------
    InvalidInput   no number, or one that is not finite
    """
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{where}: {short(text)} is no finite number")
    return value


def whole(where: str, text: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`.

    Raises
    ------
    InvalidInput   another
    """
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20) or not least <= int(text) <= most:
        raise InvalidInput(f"{where}: {short(text)} should be a whole number from {least} to {most}")
    return int(text)


def short(text: str) -> str:
    """A text for a message, cut."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
