"""Hand a block to another ecosystem (BQM, CQM, LP, QuadraticProgram, OpenQASM 3), or a comparison to QOBLIB."""

import argparse
import dataclasses
import importlib
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.forms.dimod import ENCODINGS
from prunebench.forms.program import FORMULATIONS

FORMATS = {
    "bqm": "prunebench.forms.dimod",
    "cqm": "prunebench.forms.dimod",
    "coo": "prunebench.forms.dimod",
    "qs": "prunebench.forms.dimod",
    "lp": "prunebench.forms.text_files",
    "mps": "prunebench.forms.text_files",
    "nl": "prunebench.forms.pyomo",
    "qp": "prunebench.forms.qiskit",
    "qasm": "prunebench.forms.qiskit",
}
"""Which module writes a format; each has a table EXPORTS of format to function."""

PENALISED, PROGRAMS = ("bqm", "coo", "qs"), ("lp", "mps", "nl", "qp")
"""The formats that have an encoding, and those that have a formulation."""

QOBLIB = "qoblib"
"""The format of whole comparisons."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block or comparison, the format, the output."""
    parser.add_argument(
        "file", type=Path, metavar="FILE.npz|DIR", help=f"a block problem file; for {QOBLIB}, a comparison's directory"
    )
    parser.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join((*FORMATS, QOBLIB))}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file or folder to write")
    parser.add_argument(
        "--encoding",
        choices=ENCODINGS,
        help=f"{', '.join(PENALISED)}: how the count enters (default: safe, whose least energy is the block's optimum; "
        "adaptive and lagrange are milder and tuned for samplers)",
    )
    parser.add_argument(
        "--formulation",
        choices=FORMULATIONS,
        help=f"{', '.join(PROGRAMS)}: products in the objective (miqp, the default) or, in mode select, as columns "
        "(milp), for readers without integer quadratic programming such as HiGHS",
    )
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
    units = exports[arguments.format](block, arguments.output, **_options(arguments))
    names = {"names": str(arguments.output.with_suffix(".col"))} if arguments.format == "nl" else {}
    return {
        "format": arguments.format,
        "file": str(arguments.output),
        "bytes": arguments.output.stat().st_size,
        **names,
        "block_hash": block.hash,
        **dataclasses.asdict(units),
    }


def text(result: dict[str, Any]) -> str:
    """What was written."""
    if "folders" in result:
        return f"wrote {len(result['folders'])} instances below {result['file']} ({result['format']})"
    lines = [f"wrote {result['file']} ({result['format']}, {result['bytes']:,} bytes)"]
    scale, constant, stretch = result["scale"], result["constant"], result["weight_scale"]
    if (scale, constant) == (1.0, 0.0):
        lines.append("its objective is the block's on every feasible mask")
    else:
        lines.append(f"its objective is scale * (f - constant): scale = {scale!r}, constant = {constant!r}")
    if "names" in result:
        lines.append(f"names of its variables: {result['names']}")
    if stretch != 1.0:
        lines.append(f"its variables w are the weights times weight_scale = {stretch!r}")
    return "\n".join(lines)


def _options(arguments: argparse.Namespace) -> dict[str, str]:
    """The encoding or formulation, where one was given and the format has it."""
    out: dict[str, str] = {}
    for name, formats in (("encoding", PENALISED), ("formulation", PROGRAMS)):
        value = getattr(arguments, name)
        if value is None:
            continue
        if arguments.format not in formats:
            raise InvalidInput(f"--{name} belongs to {', '.join(formats)}; {arguments.format} has none")
        out[name] = value
    return out


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
