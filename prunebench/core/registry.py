"""Registries of solvers, problems, coordinators and recoveries; listing them loads none of their libraries.

Classes are found in a folder of prunebench and by entry points. An entry point names a class, or a module or
package whose own classes with a `name` are all taken.
"""

import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from prunebench.core.errors import InvalidInput, MissingPackage, PrunebenchError, unknown_name

T = TypeVar("T", bound=type)


RENAMED = {
    ("coordinator", "gradual"): "is coordinator rounds now, of which --recipe gmp is gradual pruning; its options "
    "prunings, epochs_between and epochs_end are rounds, train and train_end ('prunebench coordinators')",
}
"""What became of names of earlier versions, by kind and name."""


class Registry:
    """Classes by name, from one package of prunebench and the entry-point group of the same name."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self.failures: dict[str, str] = {}
        """Entry points that failed to load, with the reason."""
        self._classes: dict[str, type] = {}
        self._scanned = self._points_loaded = False

    def register(self, cls: T) -> T:
        """Class decorator: make `cls` known under `cls.name`.

        Raises
        ------
        InvalidInput   another class has that name; the message names both
        """
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"{cls.__module__}.{cls.__qualname__} has no class attribute 'name'; give it one")
        held = self._classes.get(name)
        if held is not None and _path(held) != _path(cls):
            raise InvalidInput(f"two {self.kind}s are named {name!r}: {_path(held)} and {_path(cls)}; rename one")
        self._classes[name] = cls
        return cls

    def forget(self, name: str) -> None:
        """Remove a class; for tests that register classes temporarily."""
        del self._classes[name]

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._scan()
        return sorted(self._classes)

    def get(self, name: str) -> type[Any]:
        """The class of that name.

        Raises
        ------
        UnknownName       with the nearest match
        InvalidInput      a name of an earlier version; the message says what became of it
        PrunebenchError   an entry point of that name exists but failed to load
        """
        if (found := self._found(name)) is not None:
            return found
        self._scan()
        if name in self._classes:
            return self._classes[name]
        if (self.kind, name) in RENAMED:
            raise InvalidInput(f"{self.kind} {name!r} {RENAMED[self.kind, name]}")
        if name in self.failures:
            raise PrunebenchError(f"{self.kind} {name!r} cannot be loaded: {self.failures[name]}")
        raise unknown_name(self.kind, name, self._classes, f"('prunebench {self.kind}s' lists them)")

    def _found(self, name: str) -> type[Any] | None:
        """The package's own class of that name, if its file is called like it; None: look into all files.

        Loads this file and the entry points, which may not have the same name: a fraction of a scan's time.
        """
        path = f"{self.package}.{name.replace('-', '_')}"
        if not self._scanned and name.replace("-", "_").isidentifier() and importlib.util.find_spec(path) is not None:
            importlib.import_module(path)
            self._load_points()
        held = self._classes.get(name)
        own = held is not None and (self._scanned or held.__module__.startswith(f"{self.package}."))
        return held if own else None

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        self._load_points()
        self._scanned = True

    def _load_points(self) -> None:
        if self._points_loaded:
            return
        for point in entry_points(group=self.package):
            self._load(point)
        self._points_loaded = True

    def _load(self, point: EntryPoint) -> None:
        try:
            loaded = point.load()
        except Exception as error:  # importing meets any code of a third party
            self.failures[point.name] = f"{type(error).__name__}: {error} (entry point {point.value!r})"
            return
        if isinstance(loaded, type):
            self.register(loaded)
            return
        found = named_classes(loaded) if isinstance(loaded, ModuleType) else []
        if not found:
            what = "holds no class with a name" if isinstance(loaded, ModuleType) else "is neither a class nor a module"
            self.failures[point.name] = f"entry point {point.value!r} {what}"
        for cls in found:
            self.register(cls)


def named_classes(module: ModuleType) -> list[type]:
    """Classes with a `name` that are defined in a module, or in a package or one of its modules and exported there."""
    inside = (module.__name__, f"{module.__name__}.")
    return [
        held
        for held in vars(module).values()
        if isinstance(held, type)
        and (held.__module__ == inside[0] or held.__module__.startswith(inside[1]))
        and isinstance(vars(held).get("name"), str)
        and vars(held)["name"]
    ]


def missing_packages(requires: tuple[str, ...]) -> list[str]:
    """The import names in `requires` that are not installed; imports nothing."""
    return [name for name in requires if not _installed(name)]


def require_packages(owner: str, requires: tuple[str, ...], install: str) -> None:
    """Raise MissingPackage with the command to install them, unless all of `requires` are installed."""
    missing = missing_packages(requires)
    if missing:
        raise MissingPackage(f"{owner} needs {', '.join(missing)}, which is not installed; run: {install}")


def _installed(name: str) -> bool:
    """Whether a module can be found; unlike find_spec with a dotted name, this imports no parent package."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        if depth == 1 and parts[0] in sys.modules:
            spec = sys.modules[parts[0]].__spec__
        else:
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations or []
    return True


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


SOLVERS = Registry("solver", "prunebench.solvers")
"""All solvers by name."""
PROBLEMS = Registry("problem", "prunebench.problems")
"""All problems by name."""
COORDINATORS = Registry("coordinator", "prunebench.coordinators")
"""All coordinators by name."""
RECOVERIES = Registry("recovery", "prunebench.recovery.steps")
"""All recovery steps by name."""

register_solver: Callable[[T], T] = SOLVERS.register
register_problem: Callable[[T], T] = PROBLEMS.register
register_coordinator: Callable[[T], T] = COORDINATORS.register
register_recovery: Callable[[T], T] = RECOVERIES.register
