"""What an answer depends on beside the request: prunebench's source, others' code, libraries, programs, the machine."""

import hashlib
import inspect
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import prunebench
from prunebench.core.solver import SolverLike
from prunebench.scores import SCORES

LONGEST_NAME = 255
"""Longer texts are no file names, and are not looked up as programs."""


class NoSource(Exception):
    """Code that decides an answer has no file: it was typed in, so nothing tells whether it is the same again."""


def code_version(solver: type) -> str:
    """The version, and a digest of the source that decides: the package's, and of a solver or score from elsewhere."""
    try:
        foreign = foreign_code(solver)
    except NoSource:
        foreign = "no source"
    digest = hashlib.sha256(f"{package_code()} {foreign}".encode()).hexdigest()
    return f"{prunebench.__version__}+{digest[:12]}"


@cache
def package_code() -> str:
    """A digest of every source file of the package, solvers and problems included."""
    folders = {Path(prunebench.__file__).parent.resolve()}
    for name in ("solvers", "problems"):
        # In a checkout these two lie beside the package.
        folders |= {Path(folder).resolve() for folder in __import__(f"prunebench.{name}", fromlist=["_"]).__path__}
    return _digest_of_files({file for folder in folders for file in folder.rglob("*.py")})


def foreign_code(solver: type) -> str:
    """A digest of the code of a solver that is not prunebench's, and of every score that is not; "" without any.

    What such code calls is unknown, so that every module counts that is loaded and neither Python's own
    nor installed: a script and its helpers. Installed ones count by `libraries`.

    Raises
    ------
    NoSource   it has no source file
    """
    held: list[Any] = [base for base in solver.__mro__ if base not in (object,)]
    held += [SCORES[name] for name in sorted(SCORES)]
    others = [item for item in held if not _is_known(getattr(item, "__module__", ""))]
    if not others:
        return ""
    files = {_file_of(item) for item in others} | _own_files()
    bound = " ".join(f"{name}={_bound(SCORES[name])}" for name in sorted(SCORES))
    return hashlib.sha256(f"{bound} {_digest_of_files(files)}".encode()).hexdigest()


def _bound(function: Any) -> str:
    """What a function carries beside its source: defaults and the values that it closes over."""
    cells = [repr(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    defaults = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None))
    return f"{getattr(function, '__qualname__', function)!r} {defaults!r} {cells!r}"


@cache
def libraries() -> str:
    """A digest of Python's version and of every installed distribution with its version: any may decide."""
    names = sorted(f"{item.name}=={item.version}" for item in distributions())
    return hashlib.sha256(f"{sys.version} {' '.join(names)}".encode()).hexdigest()


def programs(options: Mapping[str, Any]) -> list[list[Any]]:
    """Executables that an option names, by path, size and time of change: a solver may hand the work to them."""
    found = []
    for value in options.values():
        if isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and (path := shutil.which(value)):
            held = os.stat(path)
            found.append([path, held.st_size, held.st_mtime_ns])
    return found


def machine() -> list[Any]:
    """What of the machine decides rounding and what fits into a time limit."""
    return [platform.machine(), platform.processor(), os.cpu_count(), platform.node()]


def of(solver: SolverLike, options: Mapping[str, Any]) -> dict[str, Any]:
    """All of it for one solver, as JSON-able values.

    Raises
    ------
    NoSource   the solver or a score has no source file
    """
    cls = type(solver)
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "package": package_code(),
        "foreign": foreign_code(cls),
        "libraries": libraries(),
        "programs": programs(options),
        "machine": machine(),
    }


def _is_known(module: str) -> bool:
    return module in ("typing", "abc", "builtins") or module.partition(".")[0] == "prunebench"


def _file_of(item: Any) -> Path:
    try:
        file = Path(inspect.getfile(item))
    except (TypeError, OSError) as error:
        raise NoSource(repr(item)) from error
    if not file.is_file():
        raise NoSource(repr(item))
    return file.resolve()


def _own_files() -> set[Path]:
    """The source files of loaded modules that are neither Python's own, installed, nor prunebench's."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {Path(sysconfig.get_path(kind)).resolve() for kind in kinds} | {Path(sys.prefix).resolve()}
    found = set()
    for name, module in list(sys.modules.items()):
        held = getattr(module, "__file__", None)
        if _is_known(name) or not held:
            continue
        file = Path(held).resolve()
        installed = "site-packages" in file.parts or any(file.is_relative_to(root) for root in roots)
        if file.suffix == ".py" and file.is_file() and not installed:
            found.add(file)
    return found


def _digest_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
