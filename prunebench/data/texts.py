"""Texts for calibration and validation: local files, WikiText and C4; no torch on import."""

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
SUFFIXES = (".txt", ".json", ".jsonl", ".gz", ".parquet")
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
        f"{', '.join(NAMED)}"
    )


def text_file(source: str) -> Path:
    """A text's path: as given, or below the data folder where there is no such file."""
    given = Path(source).expanduser()
    return given if given.is_file() or given.is_absolute() else data_directory() / source


def documents(source: str, part: str, most: int | None = None) -> list[str]:
    """The documents of a text, in order.

    Parameters
    ----------
    source : "c4", "wikitext", or a file: .txt (documents apart by <|endoftext|>), .json (a list of texts or of
             objects with "text"), .jsonl or .json.gz (one object or text a line), .parquet (a column "text")
    part : "train", "validation" or "test", of c4 and wikitext
    most : no more documents than this; None for all

    Raises
    ------
    MissingData    there is no such file, or it has to be downloaded and cannot be
    InvalidInput   the file holds no text, or is not what its name says
    """
    if source == "c4":
        file = hub_file("text", C4_REPOSITORY, C4_FILES["train" if part == "train" else "validation"])
    elif source == "wikitext":
        file = hub_file("text", WIKITEXT_REPOSITORY, WIKITEXT_FILES[part])
    else:
        if missing_text(source):
            raise MissingData(missing_text(source))
        file = text_file(source)
    stat = file.stat()
    return list(_held(file, stat.st_mtime_ns, most))


@lru_cache(maxsize=8)
def _held(file: Path, _version: int, most: int | None) -> tuple[str, ...]:
    try:
        found = tuple(islice((text for text in _read(file) if text.strip()), most))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"the text {str(file)!r} cannot be read ({type(error).__name__}: {error}); expected "
            f"one of {', '.join(SUFFIXES)} in UTF-8"
        ) from error
    if not found:
        raise InvalidInput(f"the text {str(file)!r} is empty; give a file with text")
    return found


def _read(file: Path) -> Iterator[str]:
    name = file.name.lower()
    if name.endswith((".jsonl", ".json.gz", ".jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") if name.endswith(".gz") else file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield _text_of(json.loads(line))
    elif name.endswith(".json"):
        for item in json.loads(file.read_text(encoding="utf-8")):
            yield _text_of(item)
    elif name.endswith(".parquet"):
        import pyarrow.parquet

        # WikiText's rows are lines of one running text.
        yield "".join(pyarrow.parquet.read_table(file, columns=["text"])["text"].to_pylist())
    else:
        yield from file.read_text(encoding="utf-8").split(SEPARATOR)


def _text_of(item: Any) -> str:
    return item if isinstance(item, str) else str(item["text"])
