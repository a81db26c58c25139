"""Continue an interrupted run from its directory, to the result it would have had."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.commands.prune import text as text
from prunebench.coordinator.prune import resume


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run directory."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continue and return the result."""
    return resume(arguments.directory, say=shared.teller(arguments))
