"""The group block: a group form and how many of its groups are kept."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prunebench.core import block_file, group_file
from prunebench.core.arrays import BoolArray, FloatArray, frozen, numeric, whole_number
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.gap import gap
from prunebench.core.group_form import GroupForm
from prunebench.core.group_state import GroupState
from prunebench.core.keeping import Count


@dataclass(frozen=True, eq=False)
class GroupBlock:
    """minimise f(S) over sets S of exactly `keep` groups, the kept groups' weights refitted.

    It has the members of a `BlockProblem` that solving, logging and files use, with groups in the place of weights:
    masks are bool (C,), weights float (p, q).

    Parameters
    ----------
    form : GroupForm over C groups
    keep : int                          how many groups are kept, 0 to C, exactly
    start_mask : bool (C,), optional    the incumbent; a solver never returns anything worse
    problem, layer : str                where the block comes from, for messages; not part of its hash

    Raises
    ------
    InvalidInput   a keep count out of range or an infeasible start mask
    """

    form: GroupForm
    keep: int
    start_mask: BoolArray | None = None
    problem: str = ""
    layer: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.form, GroupForm):
            raise InvalidInput(f"the group block's form is a {type(self.form).__name__}; expected a GroupForm")
        keep = whole_number(f"{self.name}: keep", self.keep, 0)
        if keep > self.p:
            raise InvalidInput(f"{self.name}: keep is {keep} but there are {self.p} groups; choose 0 to {self.p}")
        object.__setattr__(self, "keep", keep)
        if self.start_mask is not None:
            object.__setattr__(self, "start_mask", frozen(self._checked_mask(self.start_mask, "start_mask")))

    @property
    def p(self) -> int:
        """How many groups there are, C: the length of a mask."""
        return self.form.groups

    @property
    def mode(self) -> Literal["refit"]:
        """Kept weights are always refitted."""
        return "refit"

    @property
    def name(self) -> str:
        """The block's name in messages."""
        told = "/".join(part for part in (self.problem, self.layer) if part)
        return f"group block {told!r}" if told else "the group block"

    @property
    def word(self) -> str:
        """What the block chooses among, in the plural."""
        return "groups"

    @property
    def quota(self) -> None:
        """There is none: one count for all groups."""
        return

    @property
    def budget(self) -> None:
        """There is none: one count for all groups."""
        return

    @cached_property
    def keeping(self) -> Count:
        """Which masks are feasible."""
        return Count(self.p, self.keep)

    @property
    def constraint(self) -> Count:
        """The same, under the name that blocks of all kinds have for it."""
        return self.keeping

    @property
    def settled(self) -> bool:
        """Whether only one mask is feasible."""
        return self.keeping.settled

    @property
    def mask_count(self) -> int:
        """How many masks are feasible, exactly."""
        return self.keeping.mask_count

    @cached_property
    def incumbent(self) -> BoolArray:
        """The mask every search starts from: `start_mask`, else the groups that cost most to drop alone. bool (C,)"""
        if self.start_mask is not None:
            return self.start_mask
        costs = GroupState(self.form, np.ones(self.p, dtype=np.bool_)).changes()
        return np.asarray(frozen(self.top_mask(costs)))

    def top_mask(self, scores: FloatArray) -> BoolArray:
        """The groups with the highest scores. (C,) -> bool (C,)"""
        return self.keeping.top_mask(scores)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything a solver can see; equal hashes mean the same problem."""
        digest = hashlib.sha256(group_file.FORMAT.encode())
        for name, array in group_file.problem_arrays(self.contents()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def weights_of(self, mask: npt.ArrayLike) -> FloatArray:
        """The refitted weights of a mask. bool (C,) -> float64 (p, q)"""
        return self.form.refit(self._checked_mask(mask, "mask"))

    def evaluate(self, candidate: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
        """f of a mask, or of given weights with their mask, in float64.

        Parameters
        ----------
        candidate : bool (C,) mask, or float (p, q) weights
        mask : bool (C,)   needed with weights

        Raises
        ------
        InvalidInput   the mask does not keep exactly `keep` groups, or weights are not zero where dropped
        """
        array = np.asarray(candidate)
        if array.dtype == np.bool_:
            return self.form.value(self._checked_mask(array, "mask"))
        if mask is None:
            raise InvalidInput(f"{self.name}: weights are evaluated with their mask; give it")
        dropped = ~self.form.inputs(self._checked_mask(mask, "mask"))
        weights = numeric(f"{self.name}: weights", candidate)
        if weights.shape != (self.form.p, self.form.q):
            raise InvalidInput(
                f"{self.name}: weights have shape {weights.shape}; expected ({self.form.p}, {self.form.q})"
            )
        if np.any(weights[dropped] != 0.0):
            raise InvalidInput(f"{self.name}: {int((weights[dropped] != 0.0).sum())} weights of dropped groups remain")
        return self.form.loss(weights)

    def rounding_of(self, weights: npt.ArrayLike) -> float:
        """A bound on the rounding of `evaluate(weights, mask)`. float (p, q)"""
        return self.form.rounding_of(weights)

    def gap(self, objective: float, lower_bound: float) -> float:
        """(objective − lower bound)/(c − lower bound): 0 is proved optimal, 1 is nothing kept. inf without a bound."""
        return float(gap(objective, lower_bound, self.form.constant))

    def in_mode(self, mode: str) -> "GroupBlock":
        """The block itself.

        Raises
        ------
        InvalidInput   another mode than refit
        """
        if mode != "refit":
            raise InvalidInput(f"{self.name}: mode is {mode!r}; a group block refits its kept weights: use refit")
        return self

    def with_start(self, mask: npt.ArrayLike) -> "GroupBlock":
        """The same block with `mask` as its incumbent."""
        return replace(self, start_mask=np.asarray(mask))

    def contents(self) -> dict[str, Any]:
        """The arrays of the group file, by key."""
        return {
            **self.form.contents(),
            "keep": np.int64(self.keep),
            **({} if self.start_mask is None else {"start_mask": self.start_mask}),
            "problem": np.str_(self.problem),
            "layer": np.str_(self.layer),
        }

    def save(self, path: Path | str) -> None:
        """Write the group file (`.npz`, no pickles) atomically."""
        block_file.write(Path(path), self.contents(), group_file.FORMAT)

    @staticmethod
    def load(path: Path | str) -> "GroupBlock":
        """Read a group file.

        Raises
        ------
        InvalidInput   the file is missing, truncated, foreign, or a key is missing or mis-shaped
        """
        return GroupBlock.from_contents(group_file.read(Path(path)), str(path))

    @staticmethod
    def from_contents(contents: Mapping[str, Any], source: str) -> "GroupBlock":
        """The group block from the arrays that `contents` returns; `source` names them in errors."""
        try:
            form = GroupForm(
                contents["gram"],
                contents["cross"],
                contents["group"],
                contents["ridge"],
                contents["constant"],
                contents.get("weight"),
            )
            return GroupBlock(
                form,
                contents["keep"],
                contents.get("start_mask"),
                str(contents.get("problem", "")),
                str(contents.get("layer", "")),
            )
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error}") from error

    def _checked_mask(self, mask: npt.ArrayLike, what: str) -> BoolArray:
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != (self.p,):
            raise InvalidInput(
                f"{self.name}: {what} has dtype {array.dtype} and shape {array.shape}; expected bool ({self.p},)"
            )
        if not self.keeping.feasible(array):
            raise InvalidInput(f"{self.name}: {what} keeps {int(array.sum())} groups; it must keep {self.keep}")
        return array.copy()


def load_block(path: Path | str) -> BlockProblem | GroupBlock:
    """Read a block file of either format, by what it says of itself.

    Raises
    ------
    InvalidInput   the file is missing, truncated, foreign, or a key is missing or mis-shaped
    """
    if group_file.format_of(Path(path)) == group_file.FORMAT:
        return GroupBlock.load(path)
    return BlockProblem.load(path)
