"""Make a block of a problem that was written elsewhere: LP, MPS, QPLIB, QUBO lists, BQM, CQM, Max-Cut."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.forms.foreign.reading import READERS, import_block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, its format, what it keeps, the output."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the problem; .gz, .bz2 and .xz are unpacked")
    parser.add_argument(
        "--format", choices=tuple(READERS), metavar="FORMAT",
        help=f"one of {', '.join(READERS)}, where suffix and first lines do not tell",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=shared.whole, metavar="K",
        help="of a problem without a constraint, exactly this many variables are 1 (default: any number)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.npz", help="where to write the block; nothing: look")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read, write, describe."""
    if arguments.output:
        shared.require_folder(arguments.output)
    found = import_block(arguments.file, format=arguments.format, keep=arguments.keep)
    block = found.block
    if arguments.output:
        block.save(arguments.output)
    return {
        "source": str(arguments.file),
        "file": str(arguments.output) if arguments.output else None,
        "p": block.p,
        "keep": block.keep if block.budget is None else None,
        "quota_groups": None if block.quota is None else int(block.quota.counts.size),
        "budgets": [] if block.budget is None else list(block.budget.names),
        "scale": found.scale,
        "constant": found.constant,
        "fixed": found.fixed,
        "notes": list(found.notes),
        "block_hash": block.hash,
    }


def text(result: dict[str, Any]) -> str:
    """What was found and written."""
    wrote = f"wrote {result['file']}" if result["file"] else "nothing is written; -o FILE.npz writes the block"
    kept = f"keep {result['keep']}" if result["keep"] is not None else f"budget {', '.join(result['budgets'])}"
    scale, constant = result["scale"], result["constant"]
    if (scale, constant) == (1.0, 0.0):
        value = "the problem's value is the block's objective f"
    else:
        value = f"the problem's value is scale * (f - constant): scale = {scale!r}, constant = {constant!r}"
    return "\n".join([
        f"{wrote}: {result['p']} variables of {result['source']}, {kept}",
        value, *(f"note: {note}" for note in result["notes"]), f"hash {result['block_hash']}",
    ])  # fmt: skip
