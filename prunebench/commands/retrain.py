"""Train what a finished run kept, by a protocol, and add what that reaches to the run's result."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.commands import prune
from prunebench.core import options as option_tools
from prunebench.progress import shown
from prunebench.recovery.training.protocol import Protocol
from prunebench.runs.retraining import retrain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and every field of a protocol."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a finished run directory of a network")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="the directory is yours or of somebody you trust: follow options that name code",
    )
    shared.add_controls(parser, "by the same protocol")
    group = parser.add_argument_group("the protocol (the same K=V serve 'prunebench prune --retrain')")
    for option in option_tools.options_of(Protocol):
        meaning = f"{option.doc.replace('%', '%%')} Default: {option.default}."
        group.add_argument(f"--{option.name.replace('_', '-')}", metavar="X", help=meaning)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and return the run's result with it."""
    names = [option.name for option in option_tools.options_of(Protocol)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    protocol: Protocol = option_tools.build(Protocol, given)
    with shown(not arguments.quiet, lines=True) as (say, step):
        return retrain(
            arguments.directory,
            protocol,
            say=say,
            progress=step,
            trust=arguments.trust,
            controls=arguments.control,
        )


def text(result: dict[str, Any]) -> str:
    """As of the run, its trainings among it."""
    return prune.text(result)
