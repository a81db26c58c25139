"""Continue an interrupted run from its directory, to the result it would have had."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.commands import compare, prune
from prunebench.comparison.run import resume as resume_comparison
from prunebench.core.errors import InvalidInput
from prunebench.log.run_directory import RunDirectory
from prunebench.progress import shown
from prunebench.runs.prune import resume as resume_pruning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run directory."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="the directory is yours or of somebody you trust: follow options that name code (an import path, an "
        "executable, a dask scheduler), and take a checkpoint that has no seal",
    )
    parser.add_argument(
        "--executor",
        metavar="WHERE",
        help="of a pruning run: inline, local:N or dask:ADDRESS instead of what was asked",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Continue and return the result."""
    kind = RunDirectory.open(arguments.directory).request.get("kind")
    if kind == "study":
        raise InvalidInput(f"{arguments.directory} is a study, which is whole or not there; ask for it again")
    if kind == "compare":
        if arguments.executor is not None:
            raise InvalidInput(f"{arguments.directory} is a comparison; leave --executor out")
        return compare.finished(
            resume_comparison(arguments.directory, say=shared.teller(arguments), trust=arguments.trust)
        )
    how = {"trust": arguments.trust, "executor": arguments.executor}
    with shown(not arguments.quiet, lines=True) as (say, step):
        return shared.with_losses(lambda: resume_pruning(arguments.directory, say=say, progress=step, **how))


def failure(result: dict[str, Any]) -> str:
    """What a pruning run that lost blocks says, "" for others."""
    return "" if "summary" in result else prune.failure(result)


def text(result: dict[str, Any]) -> str:
    """What the command that began the run would have said."""
    return compare.text(result) if "summary" in result else prune.text(result)
