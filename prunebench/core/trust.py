"""What of a request may run code that is not installed here: import paths, executables, a scheduler elsewhere.

Who types a command means it. A run directory may come from a stranger, so what its run.json names is
refused on resuming unless the user says that it is trusted.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.core.options import option_name
from prunebench.core.recovery import parts_of
from prunebench.core.registry import COORDINATORS, PROBLEMS, RECOVERIES, SOLVERS

RUNS_CODE = "runs_code"
"""Key in a field's metadata: a function of the option's value that says whether that names code."""

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
"""Text of the form module.path:name."""


def is_import_path(value: Any) -> bool:
    """Whether a value is a text like "package.module:Class"."""
    return isinstance(value, str) and IMPORT_PATH.fullmatch(value) is not None


def is_path(value: Any) -> bool:
    """Whether a value is a text that may be the path of a file and not a plain name."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]*", value) is None


def named_code(request: Mapping[str, Any]) -> list[str]:
    """Those parts of a pruning run's or a comparison's request that name code, as NAME=VALUE."""
    found: list[str] = []
    executor = request.get("executor")
    if isinstance(executor, str) and executor.startswith("dask"):
        # messages of a scheduler are unpickled, which runs what they say
        found.append(f"executor={executor}")
    choices = request.get("solvers") if request.get("kind") == "compare" else None
    pairs: list[tuple[Any, Any, Any]] = [(PROBLEMS, request.get("problem"), request.get("problem_options"))]
    if choices is None:
        pairs.append((SOLVERS, request.get("solver"), request.get("solver_options")))
        pairs.append((COORDINATORS, request.get("coordinator"), request.get("coordinator_options")))
    else:
        # An object's words are no path: nothing is made of them.
        named = [choice for choice in choices if not choice.get("is_object")]
        pairs += [(SOLVERS, choice.get("name"), choice.get("options")) for choice in named]
    pairs += [(RECOVERIES, *parts_of(text)) for text in request.get("recover") or () if isinstance(text, str)]
    for registry, name, options in pairs:
        if isinstance(name, str) and isinstance(options, Mapping) and name in registry.names():
            cls = registry.get(name)
            cls = cls.options_class if registry is COORDINATORS else cls
            found += _marked(cls, options) if cls is not None else []
    return found


def require_trust(request: Mapping[str, Any], source: object, remedy: str) -> None:
    """Refuse a request out of a file that names code.

    source : the run directory;  remedy : the command that says that it is trusted

    Raises
    ------
    InvalidInput
    """
    if found := named_code(request):
        raise InvalidInput(
            f"{source}/run.json asks for {', '.join(found)}, which may run code that is not part of prunebench; "
            f"if you wrote that yourself or trust who did: {remedy}"
        )


def _marked(cls: type, options: Mapping[str, Any]) -> Iterator[str]:
    """Options of one class that name code: the marked ones, and import paths in classes that are not ours."""
    own = cls.__module__.startswith("prunebench.")
    fields = {option_name(item): item for item in dataclasses.fields(cls)}
    for name, value in options.items():
        mark = fields[name].metadata.get(RUNS_CODE) if name in fields else None
        if mark(value) if mark is not None else not own and is_import_path(value):
            yield f"{name}={value}"
