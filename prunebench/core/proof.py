"""Proofs: records of a search from which its bound can be derived again without searching.

A proof is a tree of records. A record stands for the masks that satisfy all that its ancestors and itself
fix, including the value given to its parent's branching weight. It holds a point of the relaxation, from
which `prunebench.proofs.check` derives bounds on masks that no record below covers: those on the other side
of each weight fixed here and, in a record without branches, its own. A point that proves too little makes
the bound weaker, never wrong.

The file (`.npz`, no pickles), format "prunebench.proof/1":

    block       hash of the block problem
    mode        "select" or "refit"
    diagonals   float64 (trees, p)   the shift (select) or split (refit) of each relaxation, in the block's units
    starts      int8 (trees, p)      what is fixed throughout the relaxation's tree: 1 kept, 0 pruned, −1 free
    penalty     float64 ()           select with a quota: the weight of (Σ_g x − pruned_g)², x = 1 − mask
    relaxation  int32 (r,)           the record's row in `diagonals`
    parent      int64 (r,)           an earlier record; −1 for the first
    value       int8 (r,)            the value of the parent's branching weight: 1 kept, 0 pruned; −1: none
    branch      int32 (r,)           the weight on which the record branches; −1: none
    fixed       uint8 (r, ⌈p/4⌉)     two bits per weight: 0 pruned, 1 kept, 2 free
    kinds       uint8 (r, ⌈p/4⌉)     two bits per entry of the point: 0 for 0.0, 1 for 1.0, 2 for one in `entries`
    entries     float64 (e,)         the point's other entries, record by record;
                                     select: the share of the weight that is pruned; refit: the weight
    foreign     uint8 (r,)           1 where HiGHS itself excluded the masks, else 0
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prunebench.core import npz
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput

FORMAT = "prunebench.proof/1"
"""Format name and version that a proof file states."""
MOST_BYTES = 2**30
"""A proof that grows beyond 1 GiB is dropped: it would not fit in memory beside the search."""

Signs = npt.NDArray[np.int8]
Bits = npt.NDArray[np.uint8]

_KINDS: dict[str, tuple[type[np.generic], int]] = {
    "diagonals": (np.float64, 2),
    "starts": (np.int8, 2),
    "penalty": (np.float64, 0),
    "relaxation": (np.int32, 1),
    "parent": (np.int64, 1),
    "value": (np.int8, 1),
    "branch": (np.int32, 1),
    "fixed": (np.uint8, 2),
    "kinds": (np.uint8, 2),
    "entries": (np.float64, 1),
    "foreign": (np.uint8, 1),
}
"""dtype and number of axes of each array in the file."""


@dataclass(frozen=True, eq=False)
class Proof:
    """The arrays of a proof file, as described at the top of this module."""

    block: str
    mode: str
    diagonals: FloatArray
    starts: Signs
    penalty: float
    relaxation: npt.NDArray[np.int32]
    parent: IndexArray
    value: Signs
    branch: npt.NDArray[np.int32]
    fixed: Bits
    kinds: Bits
    entries: FloatArray
    foreign: Bits

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
                np.savez(stream, format=np.str_(FORMAT), block=np.str_(self.block), mode=np.str_(self.mode), **held)  # type: ignore[arg-type]  # numpy's stub takes the names for its own
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path | str) -> "Proof":
        """Read a proof file.

        Raises
        ------
        InvalidInput   no such file, not a proof file, or an array that is missing or of another type or shape
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidInput(f"{path}: there is no such file; make one with 'prunebench solve … --proof FILE'")
        with npz.opened(path, f"proof file ({FORMAT}, .npz)") as archive:
            members = [archive.header(key) for key in ("format", "block", "mode", *_KINDS) if key in archive]
            for member in members:
                _require_kind(member, str(path))
            archive.require_unpacked(members)
            held = {member.name: archive.array(member) for member in members}
        return _of_arrays(held, str(path))


@dataclass
class ProofWriter:
    """Collects the records of one search; drops all (`full`) once they exceed `most` bytes.

    block, mode, size : of the block problem
    """

    block: str
    mode: str
    size: int
    most: int = MOST_BYTES
    penalty: float = 0.0
    full: bool = False
    records: int = 0
    _bytes: int = 0
    _diagonals: list[FloatArray] = field(default_factory=list)
    _starts: list[Signs] = field(default_factory=list)
    _parts: list[tuple[npt.NDArray[np.generic], ...]] = field(default_factory=list)

    def relaxation(self, diagonal: FloatArray, start: Signs) -> int:
        """Add a relaxation: its diagonal (p,) and what is fixed throughout its tree (p,). Returns its row."""
        if self.full:
            return -1
        self._diagonals.append(np.array(diagonal, dtype=np.float64))
        self._starts.append(np.array(start, dtype=np.int8))
        self._bytes += 9 * self.size
        return len(self._diagonals) - 1

    def add(
        self, relaxation: int, parent: IndexArray, value: Signs, branch: IndexArray, fixed: Signs, point: FloatArray,
        foreign: bool = False,
    ) -> int:  # fmt: skip
        """Add records of one relaxation, parents before children. Returns the number of the first.

        parent, value, branch : (r,);  fixed : 1 kept, 0 pruned, −1 free (r, p);  point : (r, p)
        """
        first = self.records
        if self.full:
            return first
        kinds, entries = _packed_point(point)
        part = (
            np.full(parent.size, relaxation, np.int32), parent.astype(np.int64), value.astype(np.int8),
            branch.astype(np.int32), pack(np.where(fixed < 0, 2, fixed).astype(np.uint8)), kinds, entries,
            np.full(parent.size, foreign, np.uint8),
        )  # fmt: skip
        self._parts.append(part)
        self.records += int(parent.size)
        self._bytes += sum(array.nbytes for array in part)
        if self._bytes > self.most:
            self.full = True
            self._parts.clear()
            self._diagonals.clear()
            self._starts.clear()
        return first

    def proof(self) -> Proof | None:
        """The proof so far; None if it grew too large or nothing was recorded."""
        if self.full or not self._parts:
            return None
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        relaxation, parent, value, branch, fixed, kinds, entries, foreign = columns
        return Proof(
            self.block, self.mode, np.array(self._diagonals), np.array(self._starts), self.penalty,
            relaxation, parent, value, branch, fixed, kinds, entries, foreign,
        )  # fmt: skip


def pack(values: Bits) -> Bits:
    """Numbers 0 to 3, (r, p), as two bits each, (r, ⌈p/4⌉)."""
    rows, size = values.shape
    padded = np.zeros((rows, -(-size // 4) * 4), np.uint8)
    padded[:, :size] = values
    return np.asarray(padded[:, 0::4] | padded[:, 1::4] << 2 | padded[:, 2::4] << 4 | padded[:, 3::4] << 6)


def unpack(packed: Bits, size: int) -> Bits:
    """Inverse of `pack`. (r, ⌈p/4⌉) -> (r, p)"""
    out = np.empty((packed.shape[0], 4 * packed.shape[1]), np.uint8)
    for place in range(4):
        out[:, place::4] = (packed >> (2 * place)) & 3
    return out[:, :size]


def _packed_point(point: FloatArray) -> tuple[Bits, FloatArray]:
    kinds = np.full(point.shape, 2, np.uint8)
    kinds[point == 0.0] = 0
    kinds[point == 1.0] = 1
    return pack(kinds), np.ascontiguousarray(point[kinds == 2])


def _require_kind(member: npz.Member, source: str) -> None:
    """Refuse an array of another type or number of axes before it is loaded."""
    kind, axes = _KINDS.get(member.name, (np.str_, 0))
    right = member.dtype.kind == "U" if kind is np.str_ else member.dtype == np.dtype(kind)
    if not right or len(member.shape) != axes:
        raise InvalidInput(
            f"{source}: {member.name!r} has dtype {member.dtype} and {len(member.shape)} axes; "
            f"expected {np.dtype(kind)} and {axes}"
        )


def _of_arrays(held: dict[str, npt.NDArray[np.generic]], source: str) -> Proof:
    found = str(held["format"]) if "format" in held else None
    if found != FORMAT:
        raise InvalidInput(f"{source}: format is {found!r}; expected {FORMAT!r}")
    missing = [name for name in ("block", "mode", *_KINDS) if name not in held]
    if missing:
        raise InvalidInput(f"{source}: the proof file lacks {missing[0]!r}")
    arrays = {name: held[name] for name in _KINDS if name != "penalty"}
    return Proof(str(held["block"]), str(held["mode"]), penalty=float(held["penalty"]), **arrays)  # type: ignore[arg-type]  # checked above
