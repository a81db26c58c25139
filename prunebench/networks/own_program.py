"""A user's own network by the function of a Python file that makes it: FILE.py:FUNCTION in place of a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from prunebench.core.errors import InvalidInput, MissingData, PrunebenchError, unknown_name
from prunebench.core.import_path import run_file
from prunebench.core.options import NOTED
from prunebench.core.problem import ProblemLike, Selection
from prunebench.networks.own import OwnNetwork, own_network, require_same
from prunebench.networks.own_copy import first_line

_made: dict[tuple[Any, ...], ProblemLike] = {}
"""What functions have made in this process: one that draws its weights must be called once for a command."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """The options that a network has which FILE.py:FUNCTION makes."""

    name: ClassVar[str] = "FILE.py:FUNCTION"

    include: str = ""
    """Prune the matrices whose names match one of these patterns (comma-separated), and no others; empty: the usual."""

    exclude: str = ""
    """Leave out the matrices whose names match one of these patterns (comma-separated), such as *.0.*,*head*."""

    fingerprint: str = field(default="", metadata={NOTED: True})
    """Refuse the network unless its tensors are those that this digest is of; a run directory holds it."""

    data: str = field(default="", metadata={NOTED: True})
    """Refuse the data unless they are those that this digest is of; a run directory holds it."""

    loss: str = field(default="", metadata={NOTED: True})
    """Refuse the network unless its loss has this name; a run directory holds it."""

    def problem(self, program: str) -> ProblemLike:
        """Call the function, once in a process, and check what it makes.

        Raises
        ------
        InvalidInput   no such file or function, it raises, gives something else than a network, or another one than
                       a run began with
        """
        file, _, function = program.rpartition(":")
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise MissingData(f"{file} is not there (looked for in {Path.cwd()}); give the path of a Python file")
        key = (path, function, path.stat().st_mtime_ns, self.include, self.exclude)
        if key not in _made:
            _made[key] = _problem_of(
                program, _called(path, function), Selection(include=self.include, exclude=self.exclude)
            )
        made = _made[key]
        if isinstance(made, OwnNetwork):
            asked = {"fingerprint": self.fingerprint, "data": self.data, "loss": self.loss}
            require_same(made, {name: value for name, value in asked.items() if value}, program)
        return made


def _called(path: Path, function: str) -> Any:
    """What the function of the file gives."""
    module = _loaded(path)
    held = getattr(module, function, None)
    if not callable(held):
        names = [name for name, item in vars(module).items() if callable(item) and not name.startswith("_")]
        raise unknown_name(f"function of {path.name}", function, names)
    return _quietly_named(f"{path.name}: {function}()", held)


def _loaded(path: Path) -> ModuleType:
    """The file as a module, its folder searched first for what it imports."""
    module: ModuleType = _quietly_named(path.name, lambda: run_file(path, f"prunebench_program_{path.stem}"))
    return module


def _quietly_named(what: str, call: Callable[[], Any]) -> Any:
    """What a call of the user's code gives; what it raises is named by one line."""
    try:
        return call()
    except PrunebenchError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InvalidInput(f"{what} raised {type(error).__name__}: {first_line(error)}") from error


def _problem_of(program: str, made: Any, chosen: Selection) -> ProblemLike:
    """A problem out of what the function gives: one already, (model, data, loss), or `own_network`'s arguments by name.

    Raises
    ------
    InvalidInput   it is something else
    """
    if isinstance(made, ProblemLike) and not isinstance(made, type):
        # Runs call it by its program, which is how it is found again.
        object.__setattr__(made, "name", program)
        object.__setattr__(made, "_selection", chosen)
        return made
    arguments: dict[str, Any]
    if isinstance(made, Mapping):
        arguments = dict(made)
    elif isinstance(made, tuple) and 2 <= len(made) <= 3:
        arguments = dict(zip(("model", "data", "loss"), made, strict=False))
    else:
        raise InvalidInput(
            f"{program} gives a {type(made).__name__}; it must give (model, data, loss), a dictionary with 'model', "
            "'data' and what else prunebench.own_network takes, or a problem"
        )
    for name, patterns in (("prunable", chosen.include), ("exclude", chosen.exclude)):
        if patterns:
            arguments[name] = patterns
    try:
        return own_network(**arguments, name=program)
    except TypeError as error:
        raise InvalidInput(f"{program}: {first_line(error)}") from error
