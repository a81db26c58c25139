"""The block problem file: one `.npz` without pickles, format "prunebench.block/1".

A file is checked in three passes: first the headers of all arrays against each other, then the texts and single
numbers, and only then are arrays loaded. Their values are checked by the classes that hold them (`BlockProblem`,
`QuadraticForm`, `RowsForm`, `Quota`, `Cost`).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.errors import InvalidInput
from prunebench.core.items import PREFIX
from prunebench.core.npz import Archive, Member, opened

FORMAT = "prunebench.block/1"
"""Format name and version that a block file states."""
REQUIRED = ("ridge", "linear", "centre", "constant", "dense_weights", "keep", "mode")
"""Arrays of every block file, beside `format` and either `factor` or `hessian`; with a budget there is no `keep`."""
BUDGET = ("budget_costs", "budget_limits", "budget_slack")
"""Arrays of a budget in place of `keep`; the last is optional."""
OPTIONAL = (
    "factor", "hessian", "start_mask", "indices", "layer", "names", "problem", "quota_group", "quota_counts",
    "rows", *BUDGET, "budget_names", "items",
)  # fmt: skip
"""Arrays that a block file may have, beside those of its items (`core.items`), whose names begin with `item_`."""
PROBLEM_KEYS = ("factor", "hessian", *REQUIRED, "start_mask", "quota_group", "quota_counts", "rows", *BUDGET)
"""Keys that define the problem as a solver sees it; the others are provenance."""

TEXT = {"format": 64, "mode": 64, "problem": 4096, "items": 64}
"""Text entries and their largest number of characters: a message shows each on one line."""
NAME_CHARACTERS = 1024
"""Most characters of a layer's or a variable's name."""
SINGLE = ("constant", "keep", "rows")
"""Scalar numbers."""
KINDS = {
    "keep": ("iu", "a whole number, for example numpy.int64(keep)"),
    "rows": ("iu", "a whole number, for example numpy.int64(rows)"),
    "start_mask": ("b", "bool; write it with mask.astype(bool)"),
    "indices": ("iu", "whole numbers; write them with indices.astype(numpy.int64)"),
    "layer": ("U", "text, one name a weight"),
    "names": ("U", "text, one name a weight"),
    "budget_names": ("U", "text, one name a budget"),
    "quota_group": ("iu", "whole numbers; write them with group.astype(numpy.int64)"),
    "quota_counts": ("iu", "whole numbers; write them with counts.astype(numpy.int64)"),
}
"""Allowed dtype kinds by key, with the rule for error messages; all other arrays are float32 or float64."""


def problem_arrays(contents: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The arrays that define the problem, in a fixed order."""
    for key in PROBLEM_KEYS:
        if key in contents:
            yield key, np.asarray(contents[key])


def write(path: Path, contents: Mapping[str, Any], format_name: str = FORMAT) -> None:
    """Write a temporary file and rename it, so that no incomplete file is ever visible."""
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, format=np.str_(format_name), **contents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The arrays of the file by key, C-contiguous and in native byte order.

    float32 and float64 are read in either byte order, in C or Fortran order; other number types are refused,
    except whole numbers for a scalar `ridge` or `constant`.

    Raises
    ------
    InvalidInput   before any array is loaded: a missing, truncated or foreign file, another format version, a
                   missing or repeated key, a wrong dtype or shape, more bytes than the file or the memory
                   can hold
    """
    with opened(path, f"block problem file ({FORMAT}, .npz)") as archive:
        found = archive.text(archive.header("format"), TEXT["format"]) if "format" in archive else None
        if found != FORMAT:
            raise InvalidInput(f"{path}: format is {found!r}; expected {FORMAT!r}")
        known = (*REQUIRED, *OPTIONAL, *archive.beginning(PREFIX))
        members = {key: archive.header(key) for key in known if key in archive}
        _require_keys(path, members)
        for key, member in members.items():
            _require_kind(path, key, member)
        _require_shapes(path, members, _rows(archive, members))
        archive.require_unpacked(list(members.values()))
        contents: dict[str, Any] = {}
        for key in sorted(members, key=lambda key: members[key].size):
            member = members[key]
            contents[key] = archive.text(member, TEXT[key]) if key in TEXT else archive.array(member)
        for key in ("layer", "names", "budget_names"):
            names = np.unique(contents.get(key, np.empty(0, dtype=np.str_)))
            if wrong := [name for name in names if not name.isprintable()]:
                raise InvalidInput(f"{path}: {key} holds the name {str(wrong[0])!r}; expected characters that print")
        return contents


def _require_keys(path: Path, members: Mapping[str, Member]) -> None:
    budget = [key for key in (*BUDGET, "budget_names") if key in members]
    if budget and not {"budget_costs", "budget_limits"} <= members.keys():
        raise InvalidInput(f"{path}: a budget needs both 'budget_costs' (k, p) and 'budget_limits' (k,)")
    if budget and (beside := [key for key in ("keep", "quota_group", "quota_counts") if key in members]):
        raise InvalidInput(f"{path}: a block has a budget or {beside[0]!r}, not both; leave one out")
    missing = [key for key in REQUIRED if key not in members and not (budget and key == "keep")]
    if missing:
        raise InvalidInput(f"{path}: the key {missing[0]!r} is missing; a block problem needs {', '.join(REQUIRED)}")
    if ("factor" in members) == ("hessian" in members):
        raise InvalidInput(f"{path}: the curvature must stand once, as 'factor' (n, p) or as 'hessian' (p, p)")
    if "rows" in members and "hessian" not in members:
        raise InvalidInput(f"{path}: 'rows' needs the 'hessian' (c, c) that the rows share, not a 'factor'")
    if ("quota_group" in members) != ("quota_counts" in members):
        raise InvalidInput(f"{path}: a quota needs both 'quota_group' (p,) and 'quota_counts' (groups,)")
    columns = [key for key in members if key.startswith(PREFIX)]
    if columns and "items" not in members:
        raise InvalidInput(f"{path}: {columns[0]!r} needs 'items', the word for what the block chooses among")


def _require_kind(path: Path, key: str, member: Member) -> None:
    if key in TEXT:
        return
    if key.startswith(PREFIX):
        if member.dtype.kind not in "biuf":
            raise InvalidInput(f"{path}: {key} has dtype {member.dtype}; expected numbers, one an item")
        return
    kinds, rule = KINDS.get(key, ("f", "float64 or float32; write it with array.astype(numpy.float64)"))
    good = member.dtype.kind in kinds
    if key not in KINDS:
        whole = key in ("ridge", "constant") and member.shape == () and member.dtype.kind in "iu"
        good = whole or (good and member.dtype.itemsize in (4, 8))
    elif member.dtype.kind == "U":
        good = good and member.dtype.itemsize <= 4 * NAME_CHARACTERS
    if not good:
        raise InvalidInput(f"{path}: {key} has dtype {member.dtype}; expected {rule}")


def _require_shapes(path: Path, members: Mapping[str, Member], rows: int | None) -> None:
    """Compare all shapes with that of the dense weights before any array is loaded."""
    dense = members["dense_weights"].shape
    if len(dense) != 1 or dense[0] < 1:
        raise InvalidInput(f"{path}: dense_weights has shape {dense}; expected (p,), one entry a weight")
    p = dense[0]
    if "hessian" in members:
        shape = members["hessian"].shape
        if rows is None:
            _require_shape(path, members["hessian"], (p, p))
        elif len(shape) != 2 or shape[0] != shape[1] or rows * shape[0] != p:
            raise InvalidInput(
                f"{path}: rows is {rows} and hessian has shape {shape}, which makes no layer of {p} dense weights; "
                "rows times the columns must be that many"
            )
    else:
        shape = members["factor"].shape
        if len(shape) != 2 or shape[0] < 1 or shape[1] != p:
            raise InvalidInput(f"{path}: factor has shape {shape}; expected (n, {p}) with n at least 1")
    columns = [key for key in members if key.startswith(PREFIX)]
    for key in ("linear", "centre", "start_mask", "indices", "layer", "names", "quota_group", *columns):
        if key in members:
            _require_shape(path, members[key], (p,))
    if members["ridge"].shape != ():
        _require_shape(path, members["ridge"], (p,), "() or ")
    for key in SINGLE:
        if key in members:
            _require_shape(path, members[key], ())
    if "quota_counts" in members:
        groups = members["quota_counts"].shape
        if len(groups) != 1 or not 1 <= groups[0] <= p:
            raise InvalidInput(f"{path}: quota_counts has shape {groups}; expected (groups,), 1 to {p} of them")
    if "budget_costs" in members:
        costs = members["budget_costs"].shape
        if len(costs) != 2 or costs[0] < 1 or costs[1] != p:
            raise InvalidInput(f"{path}: budget_costs has shape {costs}; expected (k, {p}), one row a budget")
        for key in ("budget_limits", "budget_slack", "budget_names"):
            if key in members and members[key].shape != costs[:1]:
                raise InvalidInput(f"{path}: {key} has shape {members[key].shape}; expected {costs[:1]}, one a budget")


def _require_shape(path: Path, member: Member, shape: tuple[int, ...], other: str = "") -> None:
    if member.shape != shape:
        expected = f"{other}{shape}, to fit the dense weights" if shape else "a single number, shape ()"
        raise InvalidInput(f"{path}: {member.name} has shape {member.shape}; expected {expected}")


def _rows(archive: Archive, members: Mapping[str, Member]) -> int | None:
    if "rows" not in members:
        return None
    _require_shape(archive.path, members["rows"], ())
    rows = int(archive.array(members["rows"]))
    if rows < 1:
        raise InvalidInput(f"{archive.path}: rows is {rows}; a layer has at least one output row")
    return rows
