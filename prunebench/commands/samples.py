"""Choose calibration samples as a block problem, and write block and choice into one file for --subset."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.commands import arguments as shared
from prunebench.core import options as option_tools
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import class_of, make_problem
from prunebench.core.registry import SOLVERS
from prunebench.core.solution import Budget
from prunebench.core.solver import make_solver
from prunebench.meanings.samples import ENDS, SampleOptions, choose_samples

SCORES = ("el2n", "error", "uncertainty", "error-uncertainty", "prototype", "forgetting", "random")
"""Names of scores, said here so that the command's help loads no torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, how many samples, what they look like, and who chooses."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    parser.add_argument("--keep", type=shared.positive_int, required=True, metavar="K", help="samples that are chosen")
    for option in option_tools.options_of(SampleOptions):
        flag, meaning = f"--{option.name.replace('_', '-')}", option.doc.replace("%", "%%")
        if option.kind == "true or false":
            parser.add_argument(flag, action="store_const", const="true", help=meaning)
        else:
            parser.add_argument(flag, metavar="X", help=f"{meaning} Default: {option.default}.")
    parser.add_argument("--solver", help="a registered solver (default: swap)")
    shared.add_options(parser, "the solver or the problem")
    parser.add_argument(
        "--by",
        choices=SCORES,
        metavar="SCORE",
        help=f"in place of a solver, a score of single samples: {', '.join(SCORES)}",
    )
    parser.add_argument("--end", choices=ENDS, help="with --by: which samples are kept (default: hard)")
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="the solver's seconds")
    parser.add_argument("--seed", type=shared.seed, default=0, help="of everything random (default: 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="where to write the block")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Choose, write, describe.

    Raises
    ------
    InvalidInput   before any work, where something does not fit
    """
    shared.require_folder(arguments.output)
    if arguments.by and arguments.solver:
        raise InvalidInput("--by and --solver are both given; a score or a solver chooses, say one of them")
    if arguments.end and not arguments.by:
        raise InvalidInput("--end is of a score: add --by SCORE")
    names = [option.name for option in option_tools.options_of(SampleOptions)]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    options: SampleOptions = option_tools.build(SampleOptions, given)
    name = arguments.solver or "swap"
    owners: dict[str, type] = {"solver": SOLVERS.get(name), "problem": class_of(arguments.problem)}
    tables = shared.split_options(arguments.option, owners)
    chosen = choose_samples(
        make_problem(arguments.problem, tables["problem"]),
        arguments.keep,
        solver=make_solver(name, tables["solver"]),
        score=arguments.by,
        end=arguments.end or ENDS[0],
        options=options,
        seed=arguments.seed,
        budget=None if arguments.time_limit is None else Budget(seconds=arguments.time_limit),
    )
    block = chosen.block
    block.save(arguments.output)
    return {
        "problem": block.problem,
        "items": block.word,
        "file": str(arguments.output),
        "kept": block.keep,
        "total": block.p,
        "kept_per_class": None if block.quota is None else np.sort(block.quota.counts).tolist(),
        "mode": block.mode,
        "features": options.features,
        "rows": block.p if block.form.factor is None else int(block.form.factor.shape[0]),
        "objective": chosen.objective,
        "random_mean": chosen.random_mean,
        "how": chosen.how,
        "block_hash": block.hash,
    }


def text(result: dict[str, Any]) -> str:
    """What was chosen and how near its mean is."""
    counts = result["kept_per_class"]
    classes = f", {counts[0]} to {counts[-1]} of each of {len(counts)} classes" if counts else ""
    return "\n".join(
        [
            f"wrote {result['file']}: {result['kept']} of {result['total']} samples of {result['problem']}{classes}, "
            f"mode {result['mode']}, {result['features']} with {result['rows']} rows",
            f"chosen by {result['how']}",
            f"objective {result['objective']:.6g}, a random choice {result['random_mean']:.6g}",
            f"hash {result['block_hash']}",
        ]
    )
