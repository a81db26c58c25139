"""A recipe: a named way to prune, kept in a small TOML file."""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core import recovery
from prunebench.core.block import MODES, Mode
from prunebench.core.coordinator import require_current
from prunebench.core.errors import InvalidInput, PrunebenchError, unknown_name
from prunebench.core.registry import COORDINATORS, SOLVERS
from prunebench.curvature.fisher import FisherOptions
from prunebench.runs.request import SCOPES

ENDING = ".toml"
"""What the files of recipes end with."""

EFFORTS = ("quick", "normal", "thorough")
"""How much work a recipe may take. A recipe says what differs from `normal` in tables of the other two's names."""

NORMAL = "normal"
"""The effort where none is asked for: the recipe as it stands."""

Empty: Mapping[str, Any] = MappingProxyType({})
"""No options."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named way to prune: what a request says beside problem and density.

    The four texts are for those who choose: what is done, the paper it is after ("" for none), what it costs and what
    it is good for. The other fields are those of `prunebench.runs.request.PruneRequest`.
    """

    name: str
    summary: str
    good_for: str
    cost: str
    paper: str = ""
    coordinator: str
    solver: str
    mode: Mode | None = None
    scope: str = SCOPES[0]
    recover: Sequence[str] | None = None
    coordinator_options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    curvature: Mapping[str, Any] = field(default_factory=dict)
    efforts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields that other efforts have otherwise, by effort; tables of options are laid over those above."""

    def at(self, effort: str) -> "Recipe":
        """The recipe at an effort. With another solver or coordinator, options of the one it replaces are dropped.

        Raises
        ------
        UnknownName   there is no such effort
        """
        if effort not in EFFORTS:
            raise unknown_name("effort", effort, EFFORTS)
        changed = dict(self.efforts.get(effort, Empty))
        for part, owned in OWNED_TABLES.items():
            kept = changed.get(part, getattr(self, part)) == getattr(self, part)
            for name in owned:
                changed[name] = {**(getattr(self, name) if kept else Empty), **changed.get(name, Empty)}
        return dataclasses.replace(self, efforts={}, **changed)

    @property
    def request_fields(self) -> dict[str, Any]:
        """The fields of a request that it sets."""
        return {name: getattr(self, name) for name in (*PLAIN, *OPTION_TABLES)}


TEXTS = ("summary", "good_for", "cost", "paper")
"""Keys that people read."""
PLAIN = ("coordinator", "solver", "mode", "scope", "recover")
"""Keys of a request with one value."""
OPTION_TABLES = ("coordinator_options", "solver_options", "curvature")
"""Keys of a request with a table of options."""
OWNED_TABLES = {"coordinator": ("coordinator_options", "curvature"), "solver": ("solver_options",)}
"""Whose options the tables hold."""
NEEDED = ("summary", "good_for", "cost", "coordinator", "solver")
"""Keys that every recipe has."""


def names() -> list[str]:
    """The recipes that come with prunebench, sorted."""
    return sorted(entry.name.removesuffix(ENDING) for entry in _folder().iterdir() if entry.name.endswith(ENDING))


def find(name: str) -> Recipe:
    """A recipe by name, or by the path of a file.

    A name is looked for among prunebench's own; what ends with .toml or names a folder is a path.

    Raises
    ------
    UnknownName    no recipe of that name, with the nearest match
    InvalidInput   there is no such file, or `parsed` refuses it
    """
    if name in names():
        return parsed((_folder() / f"{name}{ENDING}").read_text(encoding="utf-8"), name, f"recipe {name!r}")
    path = Path(name)
    if path.suffix != ENDING and len(path.parts) == 1:
        hint = f"('prunebench recipes' lists them; a file of your own is given by its path, which ends with {ENDING})"
        raise unknown_name("recipe", name, names(), hint)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InvalidInput(f"recipe {name} is not readable: {reason}; give the path of a TOML file") from error
    return parsed(text, path.stem, f"recipe {name}")


def parsed(text: str, name: str, source: str) -> Recipe:
    """The recipe that a TOML text says.

    source : what messages call it

    Raises
    ------
    InvalidInput   not TOML, a key that is unknown or missing, a value of another type, a coordinator, solver, option
                   or recovery that there is not; the message names source and key
    """
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{source} is not TOML: {error}") from error
    _require_keys(held, (*TEXTS, *PLAIN, *OPTION_TABLES, *EFFORTS), source)
    for key in NEEDED:
        if key not in held:
            raise InvalidInput(f"{source}: the key {key} is missing; a recipe has {', '.join(NEEDED)}")
    efforts = {effort: held.pop(effort) for effort in EFFORTS if effort in held}
    if NORMAL in efforts:
        raise InvalidInput(f"{source}: {NORMAL} is the recipe as it stands; leave the table [{NORMAL}] out")
    _require_types(held, source)
    for effort, changed in efforts.items():
        _require_table(effort, changed, source)
        _require_keys(changed, (*PLAIN, *OPTION_TABLES), f"{source}, table [{effort}]")
        _require_types(changed, f"{source}, table [{effort}]")
    made = Recipe(name=name, **held, efforts=efforts)
    for effort in (NORMAL, *efforts):
        _require_known(made.at(effort), source if effort == NORMAL else f"{source} at effort {effort}")
    return made


def _folder() -> Any:
    return resources.files("prunebench.recipes").joinpath("own")


def _require_keys(held: Mapping[str, Any], known: Iterable[str], source: str) -> None:
    for key in held:
        if key not in known:
            raise InvalidInput(f"{source}: {unknown_name('key', key, known)}")


def _require_types(held: Mapping[str, Any], source: str) -> None:
    for key, value in held.items():
        if key in OPTION_TABLES:
            _require_table(key, value, source)
        elif key == "recover":
            if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
                raise InvalidInput(f'{source}: recover is {value!r}; give a list of texts such as ["follow:steps=12"]')
        elif not isinstance(value, str):
            raise InvalidInput(f'{source}: {key} is {value!r}; give a text in quotes, {key} = "..."')


def _require_table(key: str, value: Any, source: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{source}: {key} is {value!r}; give a table: a line [{key}], then a line NAME = VALUE each")


def _require_known(recipe: Recipe, source: str) -> None:
    """Raise InvalidInput, naming the source, unless everything that is named exists and every option fits."""
    try:
        kind, solver = COORDINATORS.get(recipe.coordinator), SOLVERS.get(recipe.solver)
        for what, value, known in (("mode", recipe.mode or MODES[0], MODES), ("scope", recipe.scope, SCOPES)):
            if value not in known:
                raise unknown_name(what, value, known)
        option_tools.build(solver, recipe.solver_options)
        require_current(kind, recipe.coordinator_options)
        if kind.options_class is not None:
            option_tools.build(kind.options_class, recipe.coordinator_options)
        elif recipe.coordinator_options:
            raise InvalidInput(f"coordinator {kind.name} has no options; leave [coordinator_options] out")
        if recipe.curvature and "curvature" not in kind.takes:
            raise InvalidInput(f"coordinator {kind.name} takes no curvature; say it in [coordinator_options]")
        option_tools.build(FisherOptions, recipe.curvature)
        recovery.parse(recipe.recover or ())
    except PrunebenchError as error:
        raise InvalidInput(f"{source}: {error}") from error
