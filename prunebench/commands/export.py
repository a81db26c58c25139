"""Hand a block to another ecosystem (BQM, CQM, LP, QuadraticProgram, OpenQASM 3), or a comparison to QOBLIB."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, unknown_name

FORMATS = {
    "bqm": "prunebench.forms.dimod",
    "cqm": "prunebench.forms.dimod",
    "coo": "prunebench.forms.dimod",
    "lp": "prunebench.forms.dimod",
    "mps": "prunebench.forms.pyomo",
    "nl": "prunebench.forms.pyomo",
    "qp": "prunebench.forms.qiskit",
    "qasm": "prunebench.forms.qiskit",
}
"""Which module writes a format; each has a table EXPORTS of format to function."""

QOBLIB = "qoblib"
"""The format of whole comparisons."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block or comparison, the format, the output."""
    parser.add_argument(
        "file", type=Path, metavar="FILE.npz|DIR", help=f"a block problem file; for {QOBLIB}, a comparison's directory"
    )
    parser.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join((*FORMATS, QOBLIB))}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file or folder to write")
    qoblib = parser.add_argument_group(f"format {QOBLIB}")
    qoblib.add_argument("--submitter", metavar="NAME", help="who submits")
    qoblib.add_argument("--affiliation", metavar="TEXT", help="of the submitter")
    qoblib.add_argument("--reference", default="", metavar="TEXT", help="paper or repository with further information")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the file."""
    if arguments.format == QOBLIB:
        return _submission(arguments)
    if arguments.format not in FORMATS:
        raise unknown_name("format", arguments.format, (*FORMATS, QOBLIB))
    shared.require_folder(arguments.output)
    block = BlockProblem.load(arguments.file).plain()
    exports = importlib.import_module(FORMATS[arguments.format]).EXPORTS
    exports[arguments.format](block, arguments.output)
    size = arguments.output.stat().st_size
    return {"format": arguments.format, "file": str(arguments.output), "bytes": size, "block_hash": block.hash}


def text(result: dict[str, Any]) -> str:
    """What was written."""
    if "folders" in result:
        return f"wrote {len(result['folders'])} instances below {result['file']} ({result['format']})"
    return f"wrote {result['file']} ({result['format']}, {result['bytes']:,} bytes)"


def _submission(arguments: argparse.Namespace) -> dict[str, Any]:
    from prunebench.comparison.qoblib import export

    if not arguments.submitter or not arguments.affiliation:
        raise InvalidInput("format qoblib needs --submitter NAME and --affiliation TEXT")
    folders = export(
        arguments.file,
        arguments.output,
        submitter=arguments.submitter,
        affiliation=arguments.affiliation,
        reference=arguments.reference,
    )
    return {"format": QOBLIB, "file": str(arguments.output), "folders": [str(folder) for folder in folders]}
