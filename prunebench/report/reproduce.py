"""The command that repeats a run, made from every field of the request that its run.json holds."""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from prunebench.core.problem import OWN
from prunebench.core.registry import COORDINATORS

Request = Mapping[str, Any]

SAFE_INTEGER = 2**53
"""Whole numbers up to here are written without a fraction when they are given as floats."""


class _NoCommand(Exception):
    """No words of the command line stand for this; the message says for what."""


def command(request: Request) -> str:
    """The shell command that asks for the same; "" where none can, and `why_not` tells why."""
    try:
        return " ".join(shlex.quote(word) for word in _words(request))
    except _NoCommand:
        return ""


def why_not(request: Request) -> str:
    """Why no command asks for the same; "" where one does."""
    try:
        _words(request)
    except _NoCommand as error:
        return str(error)
    return ""


def _words(request: Request) -> list[str]:
    """Each field's own words; a field without any is one that this version does not know."""
    compared = request.get("kind") == "compare"
    if str(request.get("problem")).startswith(OWN):
        raise _NoCommand("its network was made in a Python program")
    if request.get("kind") == "study":
        return _study(request)
    fields = COMPARE_FIELDS if compared else PRUNE_FIELDS
    if not request.get("problem"):
        raise _NoCommand("blocks were given as objects")
    if not compared and request.get("curvature") and not _takes_curvature(str(request.get("coordinator", "one-shot"))):
        raise _NoCommand("its curvature options are one-shot's, which this coordinator does not take")
    words = ["prunebench", "compare" if compared else "prune", str(request["problem"])]
    for name, value in request.items():
        if name in ("kind", "problem"):
            continue
        if name not in fields:
            raise _NoCommand(f"it asks for {name}, which this version does not know")
        words += fields[name](value)
    return words


def _study(request: Request) -> list[str]:
    """A study's: all its options, with lists as separate words, as its command takes them."""
    words = ["prunebench", "study", str(request["study"]), str(request["problem"])]
    words += _options("")(request.get("problem_options"))
    for name, value in request["options"].items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, (list, tuple)):
            words += [flag, *map(_text, value)] if value else []
        elif value != "":
            words.append(f"{flag}={_text(value)}")
    return words + _flag("--executor")(request.get("executor")) + ([] if request.get("cache") else ["--no-cache"])


def _takes_curvature(coordinator: str) -> bool:
    """Whether a coordinator that is installed here takes the request's curvature."""
    return coordinator in COORDINATORS.names() and "curvature" in COORDINATORS.get(coordinator).takes


def _flag(flag: str, *, unless: Any = None) -> Callable[[Any], list[str]]:
    """A field that one argument holds. It is joined by "=": a number may begin with a sign, a path with a dash."""
    return lambda value: [] if value is None or value == unless else [f"{flag}={_text(value)}"]


def _list(flag: str) -> Callable[[Any], list[str]]:
    return lambda values: [flag, *map(_text, values)]


def _options(prefix: str) -> Callable[[Request | None], list[str]]:
    return lambda held: [f"--option={prefix}{name}={_text(value)}" for name, value in (held or {}).items()]


def _curvature(held: Request | None) -> list[str]:
    return [f"--{name.replace('_', '-')}={_text(value)}" for name, value in (held or {}).items()]


def _solvers(choices: list[Request]) -> list[str]:
    return [f"--solver={_choice(choice)}" for choice in choices]


def _choice(choice: Request) -> str:
    if choice.get("is_object"):
        raise _NoCommand(f"solver {choice['name']} was given as an object")
    parts = [f"{name}={_nested(value)}" for name, value in choice["options"].items()]
    return str(choice["name"]) + (f":{','.join(parts)}" if parts else "")


def _nested(value: Any) -> str:
    """An option of one solver among several: a list stands in brackets, since commas part the options."""
    if isinstance(value, (list, tuple)):
        return f"[{_text(value)}]"
    text = _text(value)
    if any(mark in text for mark in ",[]"):
        raise _NoCommand(f"an option of a solver is {text!r}, and commas and brackets part the options there")
    return text


def _text(value: Any) -> str:
    """A value as the command line takes it: lists as 1,2,3."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        # Nothing at all would be taken for "none" by an option that may be that.
        return ",".join(map(_text, value)) if value else "()"
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= SAFE_INTEGER:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


PRUNE_FIELDS: Mapping[str, Callable[[Any], list[str]]] = {
    "density": _flag("--density"),
    "solver": _flag("--solver"),
    "coordinator": _flag("--coordinator"),
    "mode": _flag("--mode"),
    "scope": _flag("--scope", unless="network"),
    "curvature": _curvature,
    "solver_options": _options("solver."),
    "problem_options": _options("problem."),
    "coordinator_options": _options("coordinator."),
    "recover": lambda value: [f"--recover={text}" for text in ([] if value is None else value or ["none"])],
    "retrain": _flag("--retrain"),
    "controls": lambda value: [f"--control={name}" for name in value or ()],
    "start": _flag("--start"),
    "subset": _flag("--subset"),
    # the file's hash is computed anew from the file
    "subset_hash": lambda _value: [],
    "executor": _flag("--executor"),
    "block_seconds": _flag("--block-time-limit"),
    "validate_every": _flag("--validate-every", unless=0),
    "seconds": _flag("--time-limit"),
    "seed": _flag("--seed"),
    # All that a recipe says stands in the other fields.
    "recipe": lambda _value: [],
    "effort": lambda _value: [],
}
"""The words of every field of a pruning request."""

COMPARE_FIELDS: Mapping[str, Callable[[Any], list[str]]] = {
    "solvers": _solvers,
    "sizes": _list("--size"),
    "densities": _list("--density"),
    "blocks": _flag("--blocks"),
    "seeds": _flag("--seeds"),
    "select": _flag("--select"),
    "mode": _flag("--mode"),
    "problem_options": _options(""),
    "curvature": _curvature,
    "time_limit": _flag("--time-limit"),
    "target": _flag("--target"),
    "executor": _flag("--executor"),
    "true_loss": lambda value: [] if value else ["--no-true-loss"],
    "retrain": _flag("--retrain"),
    "finalists": _flag("--finalists", unless="all"),
    "cache": lambda value: [] if value else ["--no-cache"],
    "seed": _flag("--seed"),
}
"""The words of every field of a comparison's request."""
