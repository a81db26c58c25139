"""Some of a problem's calibration samples: what a block of samples chose, and a problem that has no others.

Loads no torch. The file is the block itself (`prunebench.meanings.samples`): its start mask says which samples, and in
mode refit the refitted values say how much each counts.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, ProblemLike, Samples

SAMPLES = "samples"
"""What the entries of a block of samples are called."""

HANDED_ON = ("batch_size", "counted", "predicting", "rows", "row_weight", "alone")
"""What samples may say of themselves that holds for each of them, and so for some of them."""


@dataclass(frozen=True, eq=False)
class SampleSubset:
    """Which calibration samples were chosen, and how much each counts.

    positions : int64 (k,), rising;  problem : the name of the problem that they are of
    weights : float64 (k,) with mean 1, in the order of the positions; None where all count alike
    """

    positions: IndexArray
    problem: str
    weights: FloatArray | None = None

    @cached_property
    def hash(self) -> str:
        """Of positions and weights, 16 hexadecimal digits."""
        digest = hashlib.sha256(self.positions.astype("<i8").tobytes())
        if self.weights is not None:
            digest.update(self.weights.astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    def require_fits(self, problem: str, total: int) -> None:
        """Refuse samples of another problem, or beyond those that there are.

        Raises
        ------
        InvalidInput   with both names
        """
        if self.problem != problem:
            raise InvalidInput(
                f"the subset is of problem {self.problem}, not of {problem}; choose one with 'prunebench samples "
                f"{problem}'"
            )
        if self.positions[-1] >= total:
            raise InvalidInput(
                f"the subset has sample {self.positions[-1]}, and {problem} has samples 0 to {total - 1}; were the "
                "problem's options others?"
            )


def subset_of(block: BlockProblem, mask: BoolArray | None = None) -> SampleSubset:
    """The samples of a block of samples.

    mask : which are chosen, bool (n,); None for the block's start mask

    Raises
    ------
    InvalidInput   a block of something else, or without a choice; in mode refit, samples that would count less than
                   nothing
    """
    if block.word != SAMPLES or block.indices is None:
        raise InvalidInput(f"{block.name} is of {block.word}; a subset is a file of 'prunebench samples'")
    chosen = block.start_mask if mask is None else mask
    if chosen is None or not chosen.any():
        raise InvalidInput(f"{block.name} says no samples that were chosen; make the file with 'prunebench samples'")
    order = np.argsort(block.indices[chosen])
    positions = block.indices[chosen][order]
    if block.mode == "select":
        return SampleSubset(positions, block.problem)
    values = block.weights_of(chosen)[chosen][order]
    if negative := int((values < 0.0).sum()):
        raise InvalidInput(
            f"{block.name}: {negative} of {positions.size} samples have a weight below zero, and training would move "
            "away from them; raise the ridge, which draws all weights together, or use mode select"
        )
    return SampleSubset(positions, block.problem, values / values.mean())


def load_subset(path: Path | str) -> SampleSubset:
    """The samples that a file of `prunebench samples` chose.

    Raises
    ------
    InvalidInput   no such file, or one of something else
    """
    try:
        return subset_of(BlockProblem.load(path))
    except InvalidInput as error:
        raise InvalidInput(error if str(path) in str(error) else f"{path}: {error}") from error


class SubsetSamples:
    """Some samples of others, by position among themselves.

    positions : int64 (k,), among the others
    """

    def __init__(self, samples: Samples, positions: IndexArray) -> None:
        self._samples, self._positions = samples, positions
        for name in HANDED_ON:
            if hasattr(samples, name):
                setattr(self, name, getattr(samples, name))

    def __len__(self) -> int:
        """How many samples there are."""
        return int(self._positions.size)

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        """Inputs and targets of the samples at `positions` of the subset, int64 (b,)."""
        chosen = np.asarray(positions)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise InvalidInput(f"sample positions reach outside the {len(self)} samples of the subset")
        return self._samples.batch(self._positions[chosen])


class OfSubset:
    """A network's problem whose calibration samples are some of its own; all else is the problem's.

    problem : NetworkProblem;  subset : of its calibration samples
    """

    def __init__(self, problem: NetworkProblem, subset: SampleSubset) -> None:
        self.problem, self.subset = problem, subset

    def __getattr__(self, name: str) -> Any:
        """What else the problem has. Names of Python's own protocols are not looked for there."""
        if name.startswith("__") or name in ("problem", "subset"):
            raise AttributeError(name)
        return getattr(self.problem, name)

    def calibration(self) -> Samples:
        """The chosen samples."""
        return SubsetSamples(self.problem.calibration(), self.subset.positions)


def of_subset(problem: ProblemLike, path: Path | str, known: str | None = None) -> NetworkProblem:
    """The problem with the samples of a file as its only calibration samples.

    known : the subset's hash as a run directory has it, None where nothing is known

    Raises
    ------
    InvalidInput   no file of samples, those of another problem, weighted ones (a curvature counts rows alike), no
                   network, or another choice than the known one
    """
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network and has no samples; leave the subset out")
    subset = load_subset(path)
    if known is not None and subset.hash != known:
        raise InvalidInput(f"{path} has other samples than when this run began; put the first file back")
    subset.require_fits(problem.name, len(problem.calibration()))
    if subset.weights is not None:
        raise InvalidInput(
            f"{path} has weighted samples (mode refit), and pruning counts its calibration samples alike; choose them "
            "in mode select, or use the file for training (subset=FILE of a protocol)"
        )
    return cast(NetworkProblem, OfSubset(problem, subset))


def whole(problem: ProblemLike) -> ProblemLike:
    """The problem with all its samples."""
    return problem.problem if isinstance(problem, OfSubset) else problem
