"""Hand a block to another ecosystem: BQM, CQM, LP, QuadraticProgram, OpenQASM 3."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core.block import BlockProblem
from prunebench.core.errors import unknown_name

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block, the format, the output file."""
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="a block problem file")
    parser.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="where to write")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the file."""
    if arguments.format not in FORMATS:
        raise unknown_name("format", arguments.format, FORMATS)
    shared.require_folder(arguments.output)
    block = BlockProblem.load(arguments.file)
    exports = importlib.import_module(FORMATS[arguments.format]).EXPORTS
    exports[arguments.format](block, arguments.output)
    size = arguments.output.stat().st_size
    return {"format": arguments.format, "file": str(arguments.output), "bytes": size, "block_hash": block.hash}


def text(result: dict[str, Any]) -> str:
    """What was written."""
    return f"wrote {result['file']} ({result['format']}, {result['bytes']:,} bytes)"
