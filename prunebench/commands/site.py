"""Write what one site's samples say of a network's weights, to be merged with other sites' into one block.

It is not private: rows, R and products give the samples away.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.commands import arguments as shared
from prunebench.core import options as option_tools
from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, require_data
from prunebench.meanings.site_file import KINDS, Site
from prunebench.meanings.sites import SiteOptions, at_site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, this site's share of its samples, and what is handed on."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--classes", metavar="C,C", help="this site has the samples of these classes (default: all)")
    share.add_argument("--part", metavar="I/N", help="this site has the I-th of N parts, of consecutive samples")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rows", action="store_true", help=f"hand on {KINDS['rows']} (the default)")
    what.add_argument("--r", action="store_true", help=f"hand on {KINDS['r']}")
    what.add_argument("--gram", action="store_true", help=f"hand on {KINDS['gram']}")
    what.add_argument("--sketch", type=shared.positive_int, metavar="ROWS", help=f"hand on {KINDS['sketch']}, so many")
    parser.add_argument("--layer", metavar="NAME", help="with --gram: of this layer's inputs, and not of gradients")
    parser.add_argument("--size", type=shared.positive_int, metavar="P", help="of P weights, drawn by the seed")
    parser.add_argument("--ridge", type=shared.ridge, help="relative to the mean of the pooled curvature's diagonal")
    parser.add_argument("--seed", type=shared.seed, default=0, help="of the weights, the same everywhere (default: 0)")
    shared.add_options(parser, "the problem")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="where to write it")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute, write, describe."""
    shared.require_folder(arguments.output)
    kind = next((name for name in KINDS if getattr(arguments, name)), "rows")
    given = {"kind": kind, "size": arguments.size, "layer": arguments.layer, "sketched": arguments.sketch,
             "ridge": arguments.ridge}  # fmt: skip
    options: SiteOptions = option_tools.build(
        SiteOptions, {name: value for name, value in given.items() if value is not None}
    )
    problem = make_problem(arguments.problem, shared.pairs(arguments.option))
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network and has no samples")
    require_data(problem)
    site = at_site(problem, _share(problem, arguments.classes, arguments.part), options, seed=arguments.seed)
    site.save(arguments.output)
    return described(site, arguments.output)


def described(site: Site, file: Path) -> dict[str, Any]:
    """A site's file as JSON-able values."""
    return {
        "file": str(file),
        "problem": site.problem,
        "kind": site.kind,
        "layer": site.layer,
        "samples": site.samples,
        "p": int(site.indices.size),
        "numbers": int(site.floats),
        "error": site.error,
        "hash": site.hash,
    }


def _share(problem: NetworkProblem, classes: str | None, part: str | None) -> IndexArray | None:
    """This site's samples; None for all.

    Raises
    ------
    InvalidInput   a text that says no share, or a class without samples
    """
    total = len(problem.calibration())
    if part is not None:
        number, _, count = part.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= total):
            raise InvalidInput(f"--part is {part!r}; give I/N with I from 1 to N, for example 2/4")
        return np.array_split(np.arange(total, dtype=np.int64), int(count))[int(number) - 1]
    if classes is None:
        return None
    from prunebench.meanings.features import labels_of

    if not all(text.strip().isdecimal() for text in classes.split(",")):
        raise InvalidInput(f"--classes is {classes!r}; give whole numbers, for example 0,1,2")
    wanted, labels = [int(text) for text in classes.split(",")], labels_of(problem.calibration())
    if empty := [number for number in wanted if not (labels == number).any()]:
        raise InvalidInput(f"{problem.name} has no samples of class {empty[0]}; its classes are 0 to {labels.max()}")
    return np.flatnonzero(np.isin(labels, wanted))


def text(result: dict[str, Any]) -> str:
    """What was written."""
    of = f"layer {result['layer']}" if result["layer"] else f"{result['p']} weights"
    lines = [
        f"wrote {result['file']}: {result['kind']} of {result['samples']} samples, {of} of {result['problem']}, "
        f"{result['numbers']:,} numbers",
        f"hash {result['hash']}",
    ]
    if result["kind"] == "sketch":
        lines.append(f"f of random masks is off by up to {100 * result['error']:.3g} %")
    return "\n".join(lines)
