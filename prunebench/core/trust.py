"""Finds parts of a request that may run code from elsewhere: import paths, executables, remote schedulers.

A command typed by the user is trusted. A run directory may come from a stranger, so `resume` refuses what its
run.json names unless the user says that it is trusted.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.core.import_path import is_import_path
from prunebench.core.options import option_name
from prunebench.core.problem import is_program
from prunebench.core.recovery import parts_of
from prunebench.core.registry import COORDINATORS, PROBLEMS, RECOVERIES, SOLVERS

RUNS_CODE = "runs_code"
"""Metadata key of a field: a function that tells whether a value of the option names code."""


def is_path(value: Any) -> bool:
    """Whether a value is a text that may be a file path rather than a plain name."""
    return isinstance(value, str) and re.fullmatch(r"[\w-]*", value) is None


def named_code(request: Mapping[str, Any]) -> list[str]:
    """The parts of a pruning or comparison request that name code, as NAME=VALUE."""
    found: list[str] = []
    executor = request.get("executor")
    if isinstance(executor, str) and executor.startswith("dask"):
        # a scheduler's messages are unpickled, which can run any code
        found.append(f"executor={executor}")
    if is_program(str(request.get("problem"))):
        found.append(f"problem={request['problem']}")
    choices = request.get("solvers") if request.get("kind") == "compare" else None
    pairs: list[tuple[Any, Any, Any]] = [(PROBLEMS, request.get("problem"), request.get("problem_options"))]
    if choices is None:
        pairs.append((SOLVERS, request.get("solver"), request.get("solver_options")))
        pairs.append((COORDINATORS, request.get("coordinator"), request.get("coordinator_options")))
    else:
        # an object's repr cannot be resumed, so it runs nothing
        named = [choice for choice in choices if not choice.get("is_object")]
        pairs += [(SOLVERS, choice.get("name"), choice.get("options")) for choice in named]
    pairs += [(RECOVERIES, *parts_of(text)) for text in request.get("recover") or () if isinstance(text, str)]
    # a solver by its import path is imported where it is made
    found += [f"solver={name}" for registry, name, _ in pairs if registry is SOLVERS and is_import_path(name)]
    for registry, name, options in pairs:
        if isinstance(name, str) and isinstance(options, Mapping) and name in registry.names():
            cls = registry.get(name)
            cls = cls.options_class if registry is COORDINATORS else cls
            found += _marked(cls, options) if cls is not None else []
    return found


def require_trust(request: Mapping[str, Any], source: object, remedy: str) -> None:
    """Refuse a request read from a file that names code.

    source : the run directory;  remedy : the command that declares it trusted

    Raises
    ------
    InvalidInput   with the parts that name code and the remedy
    """
    if found := named_code(request):
        raise InvalidInput(
            f"{source}/run.json asks for {', '.join(found)}, which may run code that is not part of prunebench; "
            f"if you wrote that yourself or trust who did: {remedy}"
        )


def _marked(cls: type, options: Mapping[str, Any]) -> Iterator[str]:
    """Options of a class that name code: marked ones, and import paths if the class is not prunebench's own."""
    own = cls.__module__.startswith("prunebench.")
    fields = {option_name(item): item for item in dataclasses.fields(cls)}
    for name, value in options.items():
        mark = fields[name].metadata.get(RUNS_CODE) if name in fields else None
        if mark(value) if mark is not None else not own and is_import_path(value):
            yield f"{name}={value}"
