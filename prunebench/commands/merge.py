"""Merge what several sites wrote into one block, as if all their samples were in one place."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core.block import MODES
from prunebench.meanings.site_file import Site
from prunebench.meanings.sites import merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sites' files, and how much the block keeps."""
    parser.add_argument("sites", nargs="+", type=Path, metavar="SITE.npz", help="files of 'prunebench site'")
    parser.add_argument("--density", type=shared.density, required=True, metavar="D", help="the part that is kept")
    parser.add_argument("--mode", choices=MODES, default="select", help="default: select")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="where to write the block")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merge, write, describe."""
    shared.require_folder(arguments.output)
    names = [str(path) for path in arguments.sites]
    merged = merge([Site.load(path) for path in arguments.sites], density=arguments.density, mode=arguments.mode,
                   names=names)  # fmt: skip
    block = merged.block
    block.save(arguments.output)
    return {
        "problem": block.problem,
        "file": str(arguments.output),
        "p": block.p,
        "keep": block.keep,
        "mode": block.mode,
        "random_mean": block.random_mean(),
        "incumbent_objective": block.evaluate(block.incumbent),
        "block_hash": block.hash,
        "told": list(merged.told),
    }


def text(result: dict[str, Any]) -> str:
    """What was written."""
    return "\n".join(
        [
            f"wrote {result['file']}: {result['p']} weights of {result['problem']}, keep {result['keep']}, "
            f"mode {result['mode']}",
            *result["told"],
            f"magnitude pruning costs {result['incumbent_objective']:.6g}, a random mask {result['random_mean']:.6g}",
            f"hash {result['block_hash']}",
        ]
    )
