"""What the files of a run directory must look like: kinds of values by key, so that damage is named at once."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunebench.core.errors import InvalidInput

Kind = Callable[[Any], bool]


def load_json(text: str, source: object) -> Any:
    """A JSON value.

    Raises
    ------
    InvalidInput   no JSON, or NaN and infinity, which are none; source : what messages call it
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source} is not readable: {error}") from error


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    InvalidInput   the file cannot be read or holds something else
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} is not readable: {error}") from error
    held = load_json(text, file)
    if not isinstance(held, dict):
        raise InvalidInput(f"{file} is not readable: a JSON object is expected, not {type(held).__name__}")
    return held


def is_text(value: Any) -> bool:
    """A text that can be written to a file: JSON may hold halves of characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole(value: Any) -> bool:
    """A whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_seconds(value: Any) -> bool:
    """Seconds: a number of at least 0, or infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def is_flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    """A JSON object."""
    return isinstance(value, Mapping)


def optional(kind: Kind) -> Kind:
    """That kind or null."""
    return lambda value: value is None or kind(value)


def objects_of(kind: Kind) -> Kind:
    """A JSON object whose values are of that kind."""
    return lambda value: isinstance(value, Mapping) and all(map(kind, value.values()))


def lists_of(kind: Kind) -> Kind:
    """A list of that kind."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(kind, value))


def is_choice(value: Any) -> bool:
    """A solver of a comparison: its name, its options, and whether it was given as an object."""
    return (
        isinstance(value, Mapping)
        and set(value) <= {"name", "options", "is_object"}
        and is_text(value.get("name"))
        and is_object(value.get("options", {}))
        and is_flag(value.get("is_object", False))
    )


def is_training(value: Any) -> bool:
    """What a training of a run's network came to: its protocol, epochs and file."""
    return (
        isinstance(value, Mapping)
        and is_text(value.get("protocol"))
        and is_object(value.get("options"))
        and lists_of(is_object)(value.get("epochs"))
        and is_whole(value.get("best"))
        and is_text(value.get("file"))
    )


def is_rounding(value: Any) -> bool:
    """What a run says of its levels: their bits, bytes in several ways of storing, and measures before rounding."""
    return (
        isinstance(value, Mapping)
        and is_whole(value.get("bits"))
        and optional(is_whole)(value.get("group_size"))
        and objects_of(is_whole)(value.get("bytes"))
        and objects_of(optional(is_number))(value.get("unrounded"))
    )


def is_control(value: Any) -> bool:
    """What a control of a run's network came to: its name, protocol and epochs."""
    return (
        isinstance(value, Mapping)
        and is_text(value.get("control"))
        and is_text(value.get("protocol"))
        and is_text(value.get("trained_as"))
        and is_object(value.get("options"))
        and lists_of(is_object)(value.get("epochs"))
        and is_whole(value.get("kept"))
    )


REQUEST: Mapping[str, Kind] = {
    "problem": is_text,
    "density": lambda value: is_number(value) and 0.0 < value <= 1.0,
    "solver": is_text,
    "problem_options": is_object,
    "solver_options": is_object,
    "coordinator": is_text,
    "mode": optional(is_text),
    "scope": is_text,
    "curvature": is_object,
    "coordinator_options": is_object,
    "executor": optional(is_text),
    "seconds": optional(is_seconds),
    "block_seconds": optional(is_seconds),
    "validate_every": is_whole,
    "recover": optional(lists_of(is_text)),
    "retrain": optional(is_text),
    "controls": optional(lists_of(is_text)),
    "seed": is_whole,
    "start": optional(is_text),
    "subset": optional(is_text),
    "subset_hash": optional(is_text),
    "recipe": optional(is_text),
    "effort": optional(is_text),
}
"""A pruning run's request."""
REQUEST_NEEDS = ("problem", "density")
"""Keys without which a request cannot be resumed."""

EVENT: Mapping[str, Kind] = {
    "time": is_number,
    "step": is_whole,
    "solver": is_text,
    "accepted": is_flag,
    "predicted_change": optional(is_number),
    "changed": is_whole,
    "kept": is_whole,
    "tasks": lists_of(is_object),
    "validation": objects_of(optional(is_number)),
    "kept_per_layer": objects_of(is_whole),
    "acceptance_loss": optional(is_number),
    "true_change": optional(is_number),
    "workers": objects_of(is_number),
}
"""A step of a pruning run."""
EVENT_NEEDS = ("time", "step", "accepted", "kept")
"""Keys that every step of a run has."""

RESULT: Mapping[str, Kind] = {
    "outcome": lambda value: value in ("finished", "incomplete", "failed"),
    "status": is_text,
    "error": is_text,
    "failures": objects_of(is_whole),
    "unsolved": is_whole,
    "problem": is_text,
    "coordinator": is_text,
    "solver": is_text,
    "mode": is_text,
    "scope": is_text,
    "density": is_number,
    "kept": is_whole,
    "total": lambda value: is_whole(value) and value > 0,
    "kept_per_layer": objects_of(is_whole),
    "bits": is_rounding,
    "timings": objects_of(is_number),
    "workers": objects_of(is_number),
    "steps": is_whole,
    "seed": is_whole,
    "run": is_text,
    **dict.fromkeys(
        ("accuracy", "loss", "perplexity", "dense_accuracy", "dense_loss", "dense_perplexity", "objective", "seconds"),
        optional(is_number),
    ),
    "options": is_object,
    "files": objects_of(is_text),
    "retrained": lists_of(is_training),
    "controls": lists_of(is_control),
}
"""A pruning run's result."""
RESULT_NEEDS = ("problem", "coordinator", "solver", "mode", "density", "kept", "total", "seconds", "timings", "steps")
"""Keys that a finished run has."""


def is_grid(value: Any) -> bool:
    """A table of a study: every row has a value for each column, which has a name and a kind."""
    if not (is_object(value) and lists_of(lists_of(is_text))(value.get("columns"))):
        return False
    columns, rows = value["columns"], value.get("rows")
    named = all(is_text(value.get(name)) for name in ("key", "title", "caption"))
    return named and lists_of(lambda row: isinstance(row, (list, tuple)) and len(row) == len(columns))(rows)


def is_curve(value: Any) -> bool:
    """A curve of a study: a name, a kind, and as many x as y."""
    if not (is_object(value) and is_text(value.get("name")) and value.get("kind") in ("line", "points", "rule")):
        return False
    numbers = lists_of(optional(is_number))
    return numbers(value.get("x")) and numbers(value.get("y")) and len(value["x"]) == len(value["y"])


def is_plot(value: Any) -> bool:
    """A plot of a study: two axes, each with a title and a scale, and curves."""
    if not (is_object(value) and lists_of(is_curve)(value.get("curves"))):
        return False
    named = all(is_text(value.get(name)) for name in ("key", "title", "caption"))
    return named and all(lists_of(is_text)(value.get(axis)) and len(value[axis]) == 2 for axis in ("x", "y"))


STUDY: Mapping[str, Kind] = {
    "study": is_text,
    "problem": is_text,
    "question": is_text,
    "reference": is_text,
    "seconds": is_number,
    "values": is_object,
    "grids": lists_of(is_grid),
    "plots": lists_of(is_plot),
    "notes": lists_of(is_text),
}
"""What a study found, all of which it must have."""

COMPARISON: Mapping[str, Kind] = {
    "problem": is_text,
    "solvers": lists_of(is_choice),
    "problem_options": is_object,
    "sizes": lists_of(lambda value: is_whole(value) and value > 0),
    "densities": lists_of(is_positive),
    "blocks": is_whole,
    "seeds": is_whole,
    "select": is_text,
    "mode": is_text,
    "curvature": is_object,
    "time_limit": is_number,
    "target": is_number,
    "executor": optional(is_text),
    "true_loss": is_flag,
    "retrain": optional(is_text),
    "finalists": is_text,
    "cache": is_flag,
    "seed": is_whole,
}
"""A comparison's request."""
COMPARISON_NEEDS = ("problem", "solvers")
"""Keys without which a comparison cannot be resumed."""


def require(held: Any, kinds: Mapping[str, Kind], needs: tuple[str, ...], source: object) -> None:
    """Check a JSON object.

    kinds : what stands under a key, if it is there;  needs : keys that must be there;  source : for messages

    Raises
    ------
    InvalidInput   no object, a key is missing, or a value is of another kind
    """
    if not isinstance(held, Mapping):
        raise InvalidInput(f"{source}: a JSON object is expected, not {type(held).__name__}")
    for name in needs:
        if name not in held:
            raise InvalidInput(f"{source}: the key {name!r} is missing")
    for name, kind in kinds.items():
        if name in held and not kind(held[name]):
            shown = repr(held[name])
            raise InvalidInput(f"{source}: {name} is {shown if len(shown) < 80 else shown[:77] + '...'}")
