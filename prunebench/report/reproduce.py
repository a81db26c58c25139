"""The command that repeats a run, from what its run.json holds."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def command(request: Mapping[str, Any]) -> str:
    """The shell command that asks for the same; "" where blocks were given as objects and no command can."""
    words = _compare(request) if request.get("kind") == "compare" else _prune(request)
    return " ".join(shlex.quote(word) for word in words)


def _prune(request: Mapping[str, Any]) -> list[str]:
    words = ["prunebench", "prune", str(request["problem"]), "--density", _text(request["density"])]
    words += ["--solver", str(request["solver"]), "--coordinator", str(request.get("coordinator", "one-shot"))]
    words += _given("--mode", request.get("mode"))
    if request.get("scope", "network") != "network":
        words += ["--scope", str(request["scope"])]
    words += _curvature(request.get("curvature") or {})
    for owner in ("solver", "problem", "coordinator"):
        for name, value in (request.get(f"{owner}_options") or {}).items():
            if value is not None:
                words += ["--option", f"{owner}.{name}={_text(value)}"]
    words += _given("--executor", request.get("executor"))
    words += _given("--block-time-limit", request.get("block_seconds"))
    if request.get("validate_every"):
        words += ["--validate-every", _text(request["validate_every"])]
    words += _given("--time-limit", request.get("seconds"))
    return [*words, "--seed", _text(request.get("seed", 0))]


def _compare(request: Mapping[str, Any]) -> list[str]:
    if not request.get("problem"):
        return []
    words = ["prunebench", "compare", str(request["problem"])]
    for choice in request["solvers"]:
        options = ",".join(f"{name}={_text(value)}" for name, value in choice["options"].items())
        words += ["--solver", choice["name"] + (f":{options}" if options else "")]
    words += ["--size", *map(_text, request["sizes"]), "--density", *map(_text, request["densities"])]
    words += ["--blocks", _text(request["blocks"]), "--seeds", _text(request["seeds"])]
    words += ["--select", str(request["select"]), "--mode", str(request["mode"])]
    for name, value in (request.get("problem_options") or {}).items():
        words += ["--option", f"{name}={_text(value)}"]
    words += _curvature(request.get("curvature") or {})
    words += ["--time-limit", _text(request["time_limit"]), "--target", _text(request["target"])]
    words += _given("--executor", request.get("executor"))
    if not request.get("true_loss", True):
        words.append("--no-true-loss")
    return [*words, "--seed", _text(request.get("seed", 0))]


def _curvature(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), _text(value)]
    return words


def _given(flag: str, value: Any) -> Sequence[str]:
    return [] if value is None else [flag, _text(value)]


def _text(value: Any) -> str:
    """A value as the command line takes it: lists as 1,2,3."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
