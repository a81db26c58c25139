"""What a problem is: a network with its data, or a fixed set of block problems."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import MissingData
from prunebench.core.registry import PROBLEMS, register_problem, require_packages

register = register_problem

DATA_VARIABLE = "PRUNEBENCH_DATA"


class Samples(Protocol):
    """Samples by position, fetched in batches; the whole set need not fit in memory."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        """Inputs and targets of the samples at `positions`, as torch tensors with the batch axis first."""
        ...


@runtime_checkable
class Problem(Protocol):
    """A frozen dataclass whose fields are its options. `missing` says what to fetch, "" if all is there."""

    name: ClassVar[str]
    summary: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]

    def missing(self) -> str:
        """What data or checkpoint is not there, what to fetch and where to put it; "" if nothing is."""
        ...


@runtime_checkable
class NetworkProblem(Problem, Protocol):
    """A trained network, its calibration and validation samples, and how it is judged."""

    def model(self) -> Any:
        """A new copy of the trained torch.nn.Module, in evaluation mode."""
        ...

    def prunable(self) -> tuple[str, ...]:
        """The names of the parameters that may be pruned, in the order of the weight vector."""
        ...

    def calibration(self) -> Samples:
        """Training samples, for gradients and acceptance."""
        ...

    def validation(self) -> Samples:
        """Held-out samples, for reporting only."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The loss of every sample, a torch tensor (s,), for network outputs and targets of s samples."""
        ...

    def evaluate(self, model: Any) -> dict[str, float]:
        """Measures on the validation samples: at least accuracy (a fraction) and loss (mean)."""
        ...


@runtime_checkable
class BlockSetProblem(Problem, Protocol):
    """A problem that is a quadratic form by itself, with no network behind it."""

    def block(self, density: float, mode: Mode, seed: int) -> BlockProblem:
        """The whole problem as one block with round(density·p) weights kept."""
        ...


def make_problem(problem: "str | Problem", options: Mapping[str, Any] | None = None) -> Problem:
    """A problem by registered name and options, or the object itself.

    Raises
    ------
    UnknownName      no problem or option of that name, with the nearest match
    MissingPackage   the problem's own library is not installed
    """
    if not isinstance(problem, str):
        return problem
    cls = PROBLEMS.get(problem)
    require_packages(f"problem {problem!r}", cls.requires, getattr(cls, "install", "pip install prunebench"))
    made: Problem = option_tools.build(cls, options or {})
    return made


def require_data(problem: Problem) -> None:
    """Make sure that what a problem needs is there, downloading what can be, before any other work.

    Raises
    ------
    MissingData   something is neither there nor to be had; the message says what to fetch and where to put it
    """
    if not problem.missing():
        return
    if isinstance(problem, NetworkProblem):
        problem.model()
        problem.calibration()
        problem.validation()
    still = problem.missing()
    if still:
        raise MissingData(still)


def data_directory() -> Path:
    """Where data sets and checkpoints are looked for: $PRUNEBENCH_DATA, else the user's cache folder."""
    chosen = os.environ.get(DATA_VARIABLE)
    return Path(chosen).expanduser() if chosen else cache_directory() / "data"


def cache_directory() -> Path:
    """The user's cache folder for what prunebench trains or downloads."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "prunebench"


def spread(total: int, count: int, rng: np.random.Generator) -> IndexArray:
    """`count` distinct positions out of `total`, uniformly at random, in rising order. int64 (count,)."""
    return np.sort(rng.choice(total, size=count, replace=False)).astype(np.int64)
