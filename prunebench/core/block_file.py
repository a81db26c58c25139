"""The block problem file: one `.npz` without pickles, format "prunebench.block/1"."""

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput

FORMAT = "prunebench.block/1"
REQUIRED = ("ridge", "linear", "centre", "constant", "dense_weights", "keep", "mode")
OPTIONAL = ("factor", "hessian", "start_mask", "indices", "layer", "problem", "quota_group", "quota_counts", "rows")
PROBLEM_KEYS = ("factor", "hessian", *REQUIRED, "start_mask", "quota_group", "quota_counts", "rows")
"""The keys that define the problem a solver sees; the rest is provenance."""


def problem_arrays(contents: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The arrays that define the problem, in a fixed order."""
    for key in PROBLEM_KEYS:
        if key in contents:
            yield key, np.asarray(contents[key])


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Write the file under a temporary name and rename it, so that no half file is ever seen."""
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, format=np.str_(FORMAT), **contents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The arrays of the file by key.

    Raises
    ------
    InvalidInput   missing file, truncated or foreign file, another format, a missing key
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file; make one with 'prunebench block'")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InvalidInput(f"{path}: this is a single array, not a block problem file ({FORMAT}, .npz)")
            held = set(archive.files)
            found = str(archive["format"]) if "format" in held else None
            contents = {key: archive[key] for key in (*REQUIRED, *OPTIONAL) if key in held}
    except InvalidInput:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError) as error:
        raise InvalidInput(
            f"{path}: not a readable block problem file ({FORMAT}, .npz): truncated or foreign ({error})"
        ) from error
    if found != FORMAT:
        raise InvalidInput(f"{path}: format is {found!r}; expected {FORMAT!r}")
    missing = [key for key in REQUIRED if key not in contents]
    if missing:
        raise InvalidInput(f"{path}: the key {missing[0]!r} is missing; a block problem needs {', '.join(REQUIRED)}")
    if ("factor" in contents) == ("hessian" in contents):
        raise InvalidInput(f"{path}: the curvature must stand once, as 'factor' (n, p) or as 'hessian' (p, p)")
    if ("quota_group" in contents) != ("quota_counts" in contents):
        raise InvalidInput(f"{path}: a quota needs both 'quota_group' (p,) and 'quota_counts' (groups,)")
    return contents
