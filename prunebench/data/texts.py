"""Texts for calibration and validation: local files, WikiText and C4; no torch on import."""

import csv
import gzip
import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.problem import data_directory
from prunebench.networks.hub import hub_file

SEPARATOR = "<|endoftext|>"
"""What stands between the documents of a plain text file that holds several."""

C4_REPOSITORY = "allenai/c4"
"""Where the hub has C4."""
C4_FILES = {
    "train": "en/c4-train.00000-of-01024.json.gz",
    "validation": "en/c4-validation.00000-of-00008.json.gz",
}
"""The first shard of each part: more than a calibration set needs."""
WIKITEXT_REPOSITORY = "Salesforce/wikitext"
"""Where the hub has WikiText."""
WIKITEXT_FILES = {part: f"wikitext-2-raw-v1/{part}-00000-of-00001.parquet" for part in ("train", "validation", "test")}
"""The files of WikiText-2, raw, by part."""
NAMED = ("c4", "wikitext")
"""Texts that have a name; everything else is a path."""
TEXT_KEY = "text"
"""Under what objects, and columnar files, hold their texts where nothing else is said."""
SUFFIXES = (".txt", ".json", ".jsonl", ".gz", ".parquet", ".csv")
"""Kinds of text files that are read."""


def missing_text(source: str) -> str:
    """Why a text is not there, "" if it is or can be asked of the hub. Reads nothing."""
    if source in NAMED or not source:
        return ""
    file = text_file(source)
    if file.is_file():
        return ""
    return (
        f"the text {str(file)!r} does not exist: give the path of a file ({', '.join(SUFFIXES)}) or one of "
        f"{', '.join(NAMED)} (--option text=FILE)"
    )


def text_file(source: str) -> Path:
    """A text's path: as given, or below the data folder where there is no such file."""
    given = Path(source).expanduser()
    return given if given.is_file() or given.is_absolute() else data_directory() / source


def documents(source: str, part: str, most: int | None = None, key: str = TEXT_KEY) -> list[str]:
    """The documents of a text, in order.

    Parameters
    ----------
    source : "c4", "wikitext", or a file: .txt (documents apart by <|endoftext|>), .json (a list of texts or of
             objects, or an object of lists), .jsonl or .json.gz (one object or text a line), .parquet or .csv
             (a row a document)
    part : "train", "validation" or "test", of c4 and wikitext
    most : no more documents than this; None for all
    key : of the texts in objects, or the column; may have dots ("message.content")

    Raises
    ------
    MissingData    there is no such file, or it has to be downloaded and cannot be
    InvalidInput   the file holds no text, or is not what its name says
    """
    running = source == "wikitext"
    if source in NAMED:
        key = TEXT_KEY
    if source == "c4":
        file = hub_file("text", C4_REPOSITORY, C4_FILES["train" if part == "train" else "validation"])
    elif source == "wikitext":
        file = hub_file("text", WIKITEXT_REPOSITORY, WIKITEXT_FILES[part])
    else:
        if missing_text(source):
            raise MissingData(missing_text(source))
        file = text_file(source)
    stat = file.stat()
    return list(_held(file, stat.st_mtime_ns, most, key, running))


@lru_cache(maxsize=8)
def _held(file: Path, _version: int, most: int | None, key: str, running: bool) -> tuple[str, ...]:
    try:
        found = tuple(islice((text for text in _read(file, key, running) if text.strip()), most))
    except _NoKey as error:
        raise InvalidInput(
            f"the text {str(file)!r} has no {key!r} in it, but {error}; say which holds the text with "
            "--option text_key=NAME"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"the text {str(file)!r} cannot be read ({type(error).__name__}: {error}); expected "
            f"one of {', '.join(SUFFIXES)} in UTF-8"
        ) from error
    if not found:
        raise InvalidInput(f"the text {str(file)!r} is empty; give a file with text")
    return found


class _NoKey(Exception):
    """Objects or columns have other names; the message lists them."""


def _read(file: Path, key: str, running: bool) -> Iterator[str]:
    """The documents of a file. running: rows are lines of one text."""
    name = file.name.lower()
    if name.endswith((".jsonl", ".json.gz", ".jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") if name.endswith(".gz") else file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield _text_of(json.loads(line), key)
    elif name.endswith(".json"):
        held = json.loads(file.read_text(encoding="utf-8"))
        for item in _value(held, key) if isinstance(held, dict) else held:
            yield _text_of(item, key)
    elif name.endswith(".parquet"):
        rows = _column(file, key)
        yield from ["".join(rows)] if running else rows
    elif name.endswith(".csv"):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                yield str(_value(row, key))
    else:
        yield from file.read_text(encoding="utf-8").split(SEPARATOR)


def _column(file: Path, key: str) -> list[str]:
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(file).names
    if key not in names:
        raise _NoKey(", ".join(map(repr, names)))
    return [row or "" for row in pyarrow.parquet.read_table(file, columns=[key])[key].to_pylist()]


def _text_of(item: Any, key: str) -> str:
    return item if isinstance(item, str) else str(_value(item, key))


def _value(item: Any, key: str) -> Any:
    """What an object holds under a key, or under one with dots."""
    if not isinstance(item, dict):
        raise TypeError(f"{type(item).__name__} where a text or an object is expected")
    first, _, rest = key.partition(".")
    if key in item:
        return item[key]
    if rest and isinstance(item.get(first), dict):
        return _value(item[first], rest)
    raise _NoKey(", ".join(map(repr, item)))
