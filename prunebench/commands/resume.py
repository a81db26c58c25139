"""Continue an interrupted run from its directory, to the result it would have had."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.commands import compare, prune
from prunebench.comparison.run import resume as resume_comparison
from prunebench.coordinator.prune import resume as resume_pruning
from prunebench.log.run_directory import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run directory."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continue and return the result."""
    say = shared.teller(arguments)
    if RunDirectory.open(arguments.directory).request.get("kind") == "compare":
        return compare.finished(resume_comparison(arguments.directory, say=say))
    return resume_pruning(arguments.directory, say=say)


def text(result: dict[str, Any]) -> str:
    """What the command that began the run would have said."""
    return compare.text(result) if "summary" in result else prune.text(result)
