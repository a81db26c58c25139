"""What a site hands on, and its file: one `.npz` without pickles, format "prunebench.site/1"."""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core import block_file
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.npz import opened

FORMAT = "prunebench.site/1"
"""Format name and version that a site file states."""

KINDS = {
    "rows": "the gradient of every sample",
    "r": "the triangular factor R of the gradients",
    "gram": "the products G'G of the gradients, or X'X of a layer's inputs",
    "sketch": "random sums of the gradients",
}
"""What a site can hand on."""

TEXTS = ("kind", "problem", "weights", "preprocessing", "layer")
"""Entries that are text."""
LONGEST = 4096
"""Characters of the longest text."""
WHOLE = ("samples", "rows_of_layer", "indices")
"""Entries that are whole numbers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Site:
    """The curvature of one site's samples.

    kind : one of KINDS
    data : (m, p) rows of which A'A is the sum over samples of gg', or for gram that sum itself, (p, p)
    samples : how many they are
    indices : int64 (p,), which of the network's weights; of a layer's inputs, all weights of the layer
    dense_weights : float64 (p,), or (rows · columns,) of a layer
    layer : whose inputs `gram` is of; "" for gradients;  rows_of_layer : its output rows, 0 for gradients
    problem : name;  weights, preprocessing : hashes of all the network's values, and of how samples are made
    ridge : relative to the mean of the pooled curvature's diagonal
    error : of a sketch, by how much f of masks differs from that of the rows, relatively, at most; else 0
    """

    kind: str
    data: npt.NDArray[Any]
    samples: int
    indices: IndexArray
    dense_weights: FloatArray
    problem: str
    weights: str
    preprocessing: str
    ridge: float
    layer: str = ""
    rows_of_layer: int = 0
    error: float = 0.0

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(FORMAT.encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def floats(self) -> int:
        """How many numbers are handed on, those of a symmetric matrix once."""
        size = self.data.shape[1]
        return size * (size + 1) // 2 if self.kind == "gram" else self.data.size

    def save(self, path: Path | str) -> None:
        """Write the site file, whole or not at all."""
        block_file.write(Path(path), self._arrays(), FORMAT)

    @staticmethod
    def load(path: Path | str) -> "Site":
        """Read a site file.

        Raises
        ------
        InvalidInput   missing, truncated or foreign, a key missing, or shapes that do not fit each other
        """
        names = [item.name for item in fields(Site)]
        with opened(Path(path), f"site file ({FORMAT}, .npz)") as archive:
            found = archive.text(archive.header("format"), LONGEST) if "format" in archive else None
            if found != FORMAT:
                raise InvalidInput(f"{path}: format is {found!r}; a site's file has {FORMAT!r}: 'prunebench site'")
            if missing := [name for name in names if name not in archive]:
                raise InvalidInput(f"{path}: the key {missing[0]!r} is missing; make the file anew")
            members = {name: archive.header(name) for name in names}
            for name, member in members.items():
                kinds = "U" if name in TEXTS else "iu" if name in WHOLE else "f"
                if member.dtype.kind not in kinds:
                    raise InvalidInput(f"{path}: {name} has dtype {member.dtype}; make the file anew")
            archive.require_unpacked(list(members.values()))
            held: dict[str, Any] = {
                name: archive.text(member, LONGEST) if name in TEXTS else archive.array(member)
                for name, member in members.items()
            }
        for name in ("samples", "rows_of_layer", "ridge", "error"):
            if held[name].shape != ():
                raise InvalidInput(f"{path}: {name} has shape {held[name].shape}; expected a single number")
            held[name] = held[name].item()
        site = Site(**held)
        site.require_sound(str(path))
        return site

    def require_sound(self, source: str) -> None:
        """Refuse values that do not fit each other. source : what messages call it

        Raises
        ------
        InvalidInput   an unknown kind, shapes that do not fit, no samples, or numbers that are not finite
        """
        columns = self.indices.size if not self.layer else self.indices.size // max(1, self.rows_of_layer)
        shape = (columns, columns) if self.kind == "gram" else (self.data.shape[0], columns)
        if self.kind not in KINDS or self.data.ndim != 2 or self.data.shape != shape or not self.data.size:
            raise InvalidInput(
                f"{source}: {self.kind} of shape {self.data.shape} does not fit {self.indices.size} weights"
            )
        if self.dense_weights.shape != self.indices.shape or self.samples < 1 or not 0.0 <= self.ridge < np.inf:
            raise InvalidInput(f"{source}: weights, samples or ridge do not fit each other; make the file anew")
        if not np.isfinite(self.data).all():
            raise InvalidInput(f"{source}: it holds NaN or infinity; look for a broken sample at that site")

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        kinds = {**dict.fromkeys(TEXTS, np.str_), **dict.fromkeys(WHOLE, np.int64), "data": None}
        return {
            item.name: np.asarray(getattr(self, item.name), dtype=kinds.get(item.name, np.float64))
            for item in fields(self)
        }
