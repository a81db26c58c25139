"""Proofs for group blocks: records from which the bound of a search can be derived again without searching.

A proof is a tree. A record stands for all sets of kept groups that satisfy what it and its ancestors fix. A record with
a branch is covered by its two children, in which the branching group is kept or dropped. Any record may hold a
relaxation of its free groups (neither kept nor dropped), from which `prunebench.proofs.groups` derives a bound on all
sets of the record, those of its children included:

    moments   float32, the lower triangle of M (m, m): second moments of which free groups leave together
    shift     float64 (m,), added to the diagonal of the relaxation's quadratic
    point     float64 (m,), where its tangent is taken: the share of each free group that leaves

Whatever these numbers are, the derived bound holds; bad ones make it weak.

The file (`.npz`, no pickles), format "prunebench.group-proof/1":

    block      hash of the group block
    parent     int64 (r,)    an earlier record; −1 for the first
    value      int8 (r,)     the parent's branching group is kept (1) or dropped (0) here; −1 for the first
    branch     int32 (r,)    the group on which the record branches; −1: none
    relaxed    uint8 (r,)    1 where the record holds a relaxation
    moments    float32       record by record
    points     float64       shift, then point, record by record
"""

import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prunebench.core import npz
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.proof import MOST_BYTES

FORMAT = "prunebench.group-proof/1"
"""Format name and version that a proof file of a group block states."""

_KINDS: dict[str, type[np.generic]] = {
    "parent": np.int64,
    "value": np.int8,
    "branch": np.int32,
    "relaxed": np.uint8,
    "moments": np.float32,
    "points": np.float64,
}
"""dtype of each array in the file, all of one axis."""


@dataclass(frozen=True, eq=False)
class GroupRelaxation:
    """Of m free groups: moments float32 (m, m), shift and point float64 (m,)."""

    moments: npt.NDArray[np.float32]
    shift: FloatArray
    point: FloatArray


@dataclass(frozen=True, eq=False)
class GroupProof:
    """The arrays of a proof file, as described at the top of this module."""

    block: str
    parent: IndexArray
    value: npt.NDArray[np.int8]
    branch: npt.NDArray[np.int32]
    relaxed: npt.NDArray[np.uint8]
    moments: npt.NDArray[np.float32]
    points: FloatArray

    @property
    def records(self) -> int:
        """How many records there are."""
        return int(self.parent.size)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes; the file adds only headers."""
        return sum(np.asarray(getattr(self, name)).nbytes for name in _KINDS)

    def save(self, path: Path | str) -> None:
        """Write the proof file atomically.

        Raises
        ------
        InvalidInput   the folder does not exist
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it first")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as stream:
                held = {name: np.asarray(getattr(self, name)) for name in _KINDS}
                np.savez(stream, format=np.str_(FORMAT), block=np.str_(self.block), **held)  # type: ignore[arg-type]  # numpy's stub takes the names for its own
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path | str) -> "GroupProof":
        """Read a proof file.

        Raises
        ------
        InvalidInput   no such file, not such a proof file, or an array that is missing or of another type
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidInput(f"{path}: there is no such file; make one with 'prunebench solve … --proof FILE'")
        with npz.opened(path, f"proof file ({FORMAT}, .npz)") as archive:
            found = archive.text(archive.header("format"), 64) if "format" in archive else None
            if found != FORMAT:
                raise InvalidInput(f"{path}: format is {found!r}; expected {FORMAT!r}, as the block is of groups")
            missing = [name for name in ("block", *_KINDS) if name not in archive]
            if missing:
                raise InvalidInput(f"{path}: the proof file lacks {missing[0]!r}")
            members = [archive.header(key) for key in _KINDS]
            for member in members:
                if member.dtype != np.dtype(_KINDS[member.name]) or len(member.shape) != 1:
                    raise InvalidInput(
                        f"{path}: {member.name!r} has dtype {member.dtype} and {len(member.shape)} axes; "
                        f"expected {np.dtype(_KINDS[member.name])} and 1"
                    )
            archive.require_unpacked(members)
            block = archive.text(archive.header("block"), 128)
            held = {member.name: archive.array(member) for member in members}
        return GroupProof(block, **held)


@dataclass
class GroupProofWriter:
    """Collects the records of one search; drops all (`full`) once they exceed `most` bytes."""

    block: str
    most: int = MOST_BYTES
    full: bool = False
    bytes: int = 0
    _parent: list[int] = field(default_factory=list)
    _value: list[int] = field(default_factory=list)
    _branch: list[int] = field(default_factory=list)
    _relaxations: list[GroupRelaxation | None] = field(default_factory=list)

    def add(self, parent: int, value: int) -> int:
        """Add a record under `parent`, whose branching group is kept (1) or dropped (0) here. Returns its number."""
        self._parent.append(parent)
        self._value.append(value)
        self._branch.append(-1)
        self._relaxations.append(None)
        return len(self._parent) - 1

    def relax(self, record: int, relaxation: GroupRelaxation) -> None:
        """Give a record its relaxation."""
        size = relaxation.shift.size
        self.bytes += 2 * size * (size + 1) + 16 * size + 16
        if self.bytes > self.most:
            self.full = True
            self._relaxations = [None] * len(self._relaxations)
        if not self.full:
            self._relaxations[record] = relaxation

    def branch(self, record: int, group: int) -> tuple[int, int]:
        """The record branches on a group. Returns the numbers of the children that keep and that drop it."""
        children = self.add(record, 1), self.add(record, 0)
        self._branch[record] = group
        return children

    def proof(self, needed: Set[int]) -> GroupProof | None:
        """The proof so far, with the relaxations of the records `needed` alone; None if it grew too large."""
        if self.full or not self._parent:
            return None
        relaxations = [item if record in needed else None for record, item in enumerate(self._relaxations)]
        held = [item for item in relaxations if item is not None]
        moments = [item.moments[np.tril_indices(item.shift.size)] for item in held]
        points = [part for item in held for part in (item.shift, item.point)]
        return GroupProof(
            self.block,
            np.array(self._parent, dtype=np.int64),
            np.array(self._value, dtype=np.int8),
            np.array(self._branch, dtype=np.int32),
            np.array([item is not None for item in relaxations], dtype=np.uint8),
            np.concatenate(moments) if held else np.empty(0, dtype=np.float32),
            np.concatenate(points) if held else np.empty(0),
        )
