"""The group block file: one `.npz` without pickles, format "prunebench.group/1".

Checked like a block file (`core.block_file`): headers against each other, then texts, and only then are arrays
loaded. Their values are checked by `GroupForm` and `GroupBlock`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import block_file
from prunebench.core.errors import InvalidInput
from prunebench.core.npz import Archive, Member, opened

FORMAT = "prunebench.group/1"
"""Format name and version that a group file states."""
REQUIRED = ("gram", "cross", "group", "ridge", "constant", "keep")
"""Arrays of every group file, beside `format`."""
OPTIONAL = ("weight", "start_mask", "problem", "layer")
"""Arrays that a group file may have."""
PROBLEM_KEYS = (*REQUIRED, "weight", "start_mask")
"""Keys that define the problem as a solver sees it; the others are provenance."""
TEXT = {"format": 64, "problem": 4096, "layer": 1024}
"""Text entries and their largest number of characters: a message shows each on one line."""
KINDS = {
    "group": ("iu", "whole numbers; write them with group.astype(numpy.int64)"),
    "keep": ("iu", "a whole number, for example numpy.int64(keep)"),
    "start_mask": ("b", "bool; write it with mask.astype(bool)"),
}
"""Allowed dtype kinds by key, with the rule for error messages; all other arrays are float32 or float64."""


def problem_arrays(contents: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The arrays that define the problem, in a fixed order."""
    for key in PROBLEM_KEYS:
        if key in contents:
            yield key, np.asarray(contents[key])


def format_of(path: Path) -> str | None:
    """What a file says of its own format; None if it says nothing.

    Raises
    ------
    InvalidInput   no such file, or not an archive of arrays
    """
    with opened(path, f"block problem file ({block_file.FORMAT}, .npz)") as archive:
        return archive.text(archive.header("format"), TEXT["format"]) if "format" in archive else None


def read(path: Path) -> dict[str, Any]:
    """The arrays of the file by key, C-contiguous and in native byte order.

    Raises
    ------
    InvalidInput   before any array is loaded: a missing, truncated or foreign file, another format version, a
                   missing or repeated key, a wrong dtype or shape, more bytes than the file or the memory can hold
    """
    with opened(path, f"group block file ({FORMAT}, .npz)") as archive:
        found = archive.text(archive.header("format"), TEXT["format"]) if "format" in archive else None
        if found != FORMAT:
            raise InvalidInput(f"{path}: format is {found!r}; expected {FORMAT!r}")
        members = {key: archive.header(key) for key in (*REQUIRED, *OPTIONAL) if key in archive}
        missing = [key for key in REQUIRED if key not in members]
        if missing:
            raise InvalidInput(f"{path}: the key {missing[0]!r} is missing; a group block needs {', '.join(REQUIRED)}")
        for key, member in members.items():
            _require_kind(path, key, member)
        _require_shapes(path, members)
        archive.require_unpacked(list(members.values()))
        return {key: _loaded(archive, member) for key, member in members.items()}


def _loaded(archive: Archive, member: Member) -> Any:
    return archive.text(member, TEXT[member.name]) if member.name in TEXT else archive.array(member)


def _require_kind(path: Path, key: str, member: Member) -> None:
    if key in TEXT:
        return
    kinds, rule = KINDS.get(key, ("f", "float64 or float32; write it with array.astype(numpy.float64)"))
    good = member.dtype.kind in kinds
    if key not in KINDS:
        whole = key in ("ridge", "constant") and member.shape == () and member.dtype.kind in "iu"
        good = whole or (good and member.dtype.itemsize in (4, 8))
    if not good:
        raise InvalidInput(f"{path}: {key} has dtype {member.dtype}; expected {rule}")


def _require_shapes(path: Path, members: Mapping[str, Member]) -> None:
    """Compare all shapes with that of the Gram matrix before any array is loaded."""
    shape = members["gram"].shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise InvalidInput(f"{path}: gram has shape {shape}; expected (p, p), one row an input")
    p = shape[0]
    cross = members["cross"].shape
    if len(cross) != 2 or cross[0] != p or cross[1] < 1:
        raise InvalidInput(f"{path}: cross has shape {cross}; expected ({p}, q), to fit the Gram matrix")
    allowed: dict[str, list[tuple[int, ...]]] = {
        "group": [(p,)], "ridge": [(), (p,)], "constant": [()], "keep": [()],
        "weight": [(cross[1],), (cross[1], cross[1])],
    }  # fmt: skip
    for key, shapes in allowed.items():
        if key in members and members[key].shape not in shapes:
            told = " or ".join(str(shape) for shape in shapes)
            raise InvalidInput(f"{path}: {key} has shape {members[key].shape}; expected {told}")
    mask = members.get("start_mask")
    if mask is not None and (len(mask.shape) != 1 or not 1 <= mask.shape[0] <= p):
        raise InvalidInput(f"{path}: start_mask has shape {mask.shape}; expected (C,), one entry a group")
