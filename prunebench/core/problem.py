"""What a problem is: a network with its data, or a fixed set of block problems."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.arrays import IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput, MissingData
from prunebench.core.registry import PROBLEMS, register_problem, require_packages

register = register_problem

OWN = "own:"
"""What the name of a network begins with that a Python program made: no registered problem."""

PROGRAM_FORM = re.compile(r".+\.py:[A-Za-z_]\w*")
"""What names a function of a Python file that makes a problem."""
PROGRAM_MODULE = "prunebench.networks.own_program"
"""Where such functions are called: loaded when one is named, since it needs torch."""

DATA_VARIABLE = "PRUNEBENCH_DATA"
"""Environment variable that names the data folder."""


class Samples(Protocol):
    """Samples by position, fetched in batches; the whole set need not fit in memory."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        """Inputs and targets of the samples at `positions`, as torch tensors with the batch axis first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What every problem here is: a frozen dataclass whose fields are its options.

    A subclass sets the facts that differ from those below. Any class that has them is taken: `ProblemLike`.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    """What it is, in a line."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Import names of the packages that it needs."""
    install: ClassVar[str] = "pip install prunebench"
    """The command that brings them."""

    def missing(self) -> str:
        """What data or checkpoint is not there, what to fetch and where to put it; "" if nothing is."""
        return ""


@runtime_checkable
class ProblemLike(Protocol):
    """What is asked of a problem: a `Problem`, or any frozen dataclass that has these."""

    name: ClassVar[str]
    summary: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]

    def missing(self) -> str:
        """What data or checkpoint is not there, what to fetch and where to put it; "" if nothing is."""
        ...


@runtime_checkable
class NetworkProblem(ProblemLike, Protocol):
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
class BlockSetProblem(ProblemLike, Protocol):
    """A problem that is a quadratic form by itself, with no network behind it."""

    def block(self, density: float, mode: Mode, seed: int) -> BlockProblem:
        """The whole problem as one block with round(density·p) weights kept."""
        ...


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which matrices of a network are pruned: two options that every problem made of a network has beside its own.

    Patterns are those of the shell (`*`, `?`, `[abc]`) and are held against whole parameter names.
    """

    include: str = ""
    """Prune the matrices whose names match one of these patterns (comma-separated), and no others; empty: the usual."""

    exclude: str = ""
    """Leave out the matrices whose names match one of these patterns (comma-separated), such as *.0.*,*head*."""

    @property
    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The patterns of include, and those of exclude."""
        return _listed(self.include), _listed(self.exclude)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


SELECTION = tuple(item.name for item in option_tools.options_of(Selection))
"""The names of these options."""


def make_problem(problem: "str | ProblemLike", options: Mapping[str, Any] | None = None) -> ProblemLike:
    """A problem by registered name and options, by FILE.py:FUNCTION that makes one, or the object itself.

    Raises
    ------
    UnknownName      no problem or option of that name, with the nearest match
    InvalidInput     a value that does not fit its option, or a network that only its own program can make
    MissingPackage   the problem's own library is not installed
    """
    if not isinstance(problem, str):
        return problem
    if problem.startswith(OWN):
        raise InvalidInput(
            f"the network {problem!r} was made in a Python program and stands in no file; go on from that program: "
            "prunebench.prune(model, data, ..., out=DIR, resume=True); a comparison is begun again there"
        )
    cls = class_of(problem)
    if is_program(problem):
        called: ProblemLike = option_tools.build(cls, dict(options or {})).problem(problem)
        return called
    require_packages(f"problem {problem!r}", cls.requires, getattr(cls, "install", Problem.install))
    given = dict(options or {})
    which = {name: given.pop(name) for name in SELECTION if name in given and _selects(cls)}
    made: ProblemLike = option_tools.build(cls, given)
    if any(which.values()):
        # Not a field of the class: problems of other packages need not know of it.
        object.__setattr__(made, "_selection", Selection(**{name: _text(name, item) for name, item in which.items()}))
    return made


def is_program(problem: str) -> bool:
    """Whether a text names a function of a Python file, as FILE.py:FUNCTION."""
    return PROGRAM_FORM.fullmatch(problem) is not None


def class_of(problem: str) -> type[Any]:
    """The class whose options a problem has: that of its name, or of what FILE.py:FUNCTION makes.

    Raises
    ------
    UnknownName   there is none, with the nearest match
    """
    if is_program(problem):
        found: type[Any] = import_module(PROGRAM_MODULE).Program
        return found
    return PROBLEMS.get(problem)


def problem_options(cls: type) -> list[option_tools.Option]:
    """The options of a problem class: its fields, and for a network those of `Selection`."""
    return [*option_tools.options_of(cls), *(option_tools.options_of(Selection) if _selects(cls) else [])]


def options_as_json(problem: ProblemLike) -> dict[str, Any]:
    """The options of a problem as JSON-able values; those of `Selection` where they were given."""
    chosen = option_tools.as_json(selection(problem))
    return option_tools.as_json(problem) | {name: value for name, value in chosen.items() if value}


def selection(problem: ProblemLike) -> Selection:
    """Which matrices the problem was asked to prune."""
    held: Selection = getattr(problem, "_selection", Selection())
    return held


def _selects(cls: type) -> bool:
    """Whether the class is a network's and has no options of its own with these names."""
    own = {option.name for option in option_tools.options_of(cls)}
    return hasattr(cls, "prunable") and not own & set(SELECTION)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    raise InvalidInput(f"{name} is {value!r}; give patterns of parameter names, separated by commas")


def require_data(problem: ProblemLike) -> None:
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


def joined(*missing: str) -> str:
    """What several parts of a problem miss, in one line; "" if none misses anything."""
    return "; ".join(text for text in missing if text)


def data_directory() -> Path:
    """Where data sets and checkpoints are looked for: $PRUNEBENCH_DATA, else the user's cache folder."""
    chosen = os.environ.get(DATA_VARIABLE)
    return Path(chosen).expanduser() if chosen else cache_directory() / "data"


def cache_directory() -> Path:
    """The user's cache folder for what prunebench trains or downloads: where the system keeps such, or $XDG_CACHE_HOME.

    A folder ~/.cache/prunebench that is there already, as earlier versions made it on every system, is used further.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "prunebench"
    earlier = Path.home() / ".cache" / "prunebench"
    if earlier.is_dir():
        return earlier
    from platformdirs import user_cache_path

    return Path(user_cache_path("prunebench", appauthor=False))


def spread(total: int, count: int, rng: np.random.Generator) -> IndexArray:
    """`count` distinct positions out of `total`, uniformly at random, in rising order. int64 (count,)."""
    return np.sort(rng.choice(total, size=count, replace=False)).astype(np.int64)
