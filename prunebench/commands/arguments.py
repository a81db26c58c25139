"""Arguments that several commands share."""

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core.controls import CONTROLS
from prunebench.core.errors import InvalidInput, RunFailed, unknown_name
from prunebench.core.problem import problem_options

Say = Callable[[str], None]

PROBLEM_HELP = "a registered problem, or FILE.py:FUNCTION that makes your own network"
"""What commands say of their argument PROBLEM."""


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    number = _number(int, text, "a whole number")
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1; expected a whole number of at least 1")
    return int(number)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    number = _number(int, text, "a whole number")
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; expected a whole number of at least 0")
    return int(number)


def seed(text: str) -> int:
    """A whole number of at least 0, said of a seed where it is none."""
    number = _number(int, text, "a whole number")
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; a seed is a whole number of at least 0")
    return int(number)


def density(text: str) -> float:
    """A number above 0 and at most 1."""
    number = _number(float, text, "a number above 0 and at most 1")
    if not 0.0 < number <= 1.0:
        raise argparse.ArgumentTypeError(
            f"{text} is not a density: expected a number above 0 and at most 1 (0.1 keeps a tenth of the weights)"
        )
    return float(number)


def seconds(text: str) -> float:
    """A number of seconds, not negative."""
    number = _number(float, text, "a number of seconds")
    if math.isnan(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a time limit: expected seconds, not negative")
    return float(number)


def ridge(text: str) -> float:
    """A finite number of at least 0."""
    number = finite(text)
    if number < 0.0:
        raise argparse.ArgumentTypeError(f"ridge is {number}; it must not be negative")
    return number


def finite(text: str) -> float:
    """A finite number."""
    number = _number(float, text, "a number")
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return float(number)


def add_options(parser: argparse.ArgumentParser, what: str) -> None:
    """--option K=V, repeatable."""
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help=f"an option of {what}; repeatable")


def pairs(texts: list[str]) -> dict[str, str]:
    """K=V texts as a dictionary.

    Raises
    ------
    InvalidInput   a text without '=', or a key given twice
    """
    out: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise InvalidInput(f"--option {text!r} is not of the form K=V")
        if key in out:
            raise InvalidInput(f"--option {key} is given twice")
        out[key] = value
    return out


def split_options(texts: list[str], owners: Mapping[str, type]) -> dict[str, dict[str, str]]:
    """Options by owner ("solver", "problem", …): by 'OWNER.' before the name, else by who has such an option.

    Raises
    ------
    InvalidInput   several owners have it, or the text is malformed
    UnknownName    none has it
    """
    mine: dict[str, dict[str, str]] = {owner: {} for owner in owners}
    listed = {
        owner: problem_options(cls) if owner == "problem" else option_tools.options_of(cls)
        for owner, cls in owners.items()
    }
    known = {owner: {option.name for option in options} for owner, options in listed.items()}
    for key, value in pairs(texts).items():
        named, dot, name = key.partition(".")
        if dot and named in mine:
            mine[named][name] = value
            continue
        having = [owner for owner, names in known.items() if key in names]
        if len(having) > 1:
            choices = " or ".join(f"{owner}.{key}={value}" for owner in having)
            raise InvalidInput(f"--option {key}: {' and '.join(having)} have it; say {choices}")
        if not having:
            raise unknown_name("option", key, set().union(*known.values()))
        mine[having[0]][key] = value
    return mine


def add_curvature(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how sample gradients become a quadratic form."""
    parser.add_argument("--samples", type=positive_int, help="sample-gradient rows are drawn from this many samples")
    parser.add_argument("--batch-size", type=positive_int, help="samples averaged in each gradient row")
    parser.add_argument("--ridge", type=ridge, help="ridge, relative to the mean of the curvature's diagonal")
    parser.add_argument("--gradient-scale", type=finite, help="factor of the mean gradient in the linear term; 0: none")


def curvature(arguments: argparse.Namespace) -> dict[str, Any]:
    """The curvature options that were given, by FisherOptions name."""
    names = ("samples", "batch_size", "ridge", "gradient_scale")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def require_folder(file: Path) -> None:
    """Raise InvalidInput, before any work, unless the folder of an output file exists."""
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder; give a file name")
    if not file.parent.is_dir():
        raise InvalidInput(f"{file}: the folder {file.parent} does not exist; create it first")


def teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Print progress to standard error, or nothing with --quiet."""
    if arguments.quiet:
        return lambda _line: None
    return tell


def tell(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def with_losses(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a pruning run gives, also where it is whole but lost blocks; its command's `failure` then says so.

    Raises
    ------
    RunFailed   the run stopped before its end: there is nothing to show
    """
    try:
        return run()
    except RunFailed as failed:
        if failed.result.get("outcome") != "incomplete":
            raise
        return dict(failed.result)


def _number(kind: Callable[[str], Any], text: str, expected: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None


def add_controls(parser: argparse.ArgumentParser, how: str) -> None:
    """The controls of a mask. how : by what they are trained"""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in CONTROLS.items())
    parser.add_argument(
        "--control", action="append", default=[], metavar="NAME", help=f"repeatable: train {how} as well {meanings}"
    )
