"""Let solvers compete for the same blocks: blocks × solvers × densities × sizes × seeds, one table, one report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunebench.commands import arguments as shared
from prunebench.commands.tables import table as ruled_or_plain
from prunebench.comparison import table
from prunebench.comparison.request import BASELINES, SolverChoice, Which
from prunebench.comparison.run import compare
from prunebench.core.block import MODES, BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock, load_block
from prunebench.core.items import WEIGHTS
from prunebench.core.problem import make_problem

if TYPE_CHECKING:
    import pandas


OF_A_PROBLEM: dict[str, Any] = {"size": [64], "density": [0.5], "blocks": 3, "select": "random", "mode": "select"}
"""Arguments that say how blocks are cut out of a problem, and what they are where nothing is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, the solvers, and the grid of blocks."""
    parser.add_argument("problem", metavar="PROBLEM", help=f"{shared.PROBLEM_HELP}; or a block file, FILE.npz")
    parser.add_argument(
        "--solver",
        action="append",
        default=[],
        metavar="NAME[:OPTION=VALUE,…]",
        help="repeatable; NAME may be your own solver or dimod sampler, as module:Object or FILE.py:Object; a list "
        f"stands in brackets, OPTION=[1,2]; {', '.join(BASELINES)} are always added",
    )
    parser.add_argument("--size", type=shared.positive_int, nargs="+", metavar="P", help="default: 64")
    parser.add_argument("--density", type=shared.density, nargs="+", metavar="D", help="default: 0.5")
    parser.add_argument("--blocks", type=shared.positive_int, metavar="N", help="blocks a size (default: 3)")
    parser.add_argument(
        "--seeds", type=shared.positive_int, default=3, metavar="N", help="runs of each stochastic solver (default: 3)"
    )
    parser.add_argument(
        "--select", metavar="SCORE", help="how blocks are cut: random, row, or a score (default: random)"
    )
    parser.add_argument("--mode", choices=MODES, help="default: select")
    shared.add_options(parser, "the problem")
    shared.add_curvature(parser)
    parser.add_argument("--time-limit", type=shared.seconds, default=5.0, metavar="SEC", help="each solve (default: 5)")
    parser.add_argument("--target", type=float, default=1e-3, metavar="GAP", help="gap that counts as success (1e-3)")
    parser.add_argument("--executor", metavar="WHERE", help="inline, local:N or dask:ADDRESS (default: inline)")
    parser.add_argument("--no-true-loss", action="store_true", help="do not measure the network's own loss")
    parser.add_argument(
        "--retrain",
        nargs="?",
        const="",
        metavar="PROTOCOL",
        help="train the network under every answer's mask and tell what that reaches: K=V,K=V as in 'prunebench "
        "retrain --help'; nothing for the usual protocol",
    )
    parser.add_argument(
        "--finalists",
        choices=get_args(Which),
        default="all",
        help="with --retrain: train all answers in full (default), or rank those of every block by successive halving "
        "and train the last of them: a quarter of the masks each time four times as long",
    )
    parser.add_argument("--no-cache", action="store_true", help="solve anew what was solved in an earlier comparison")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of the blocks (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run directory; must not exist or be empty")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare, write the table and the report, return the summary."""
    options = shared.pairs(arguments.option)
    given = _block(arguments, options)
    for name, usual in OF_A_PROBLEM.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, usual)
    if given is None:
        make_problem(arguments.problem, options)
    if not arguments.solver:
        raise InvalidInput("name at least one solver: --solver anneal --solver branch-and-bound")
    frame = compare(
        arguments.problem if given is None else [given],
        [SolverChoice.parse(text) for text in arguments.solver],
        problem_options=options,
        out=arguments.out,
        say=shared.teller(arguments),
        sizes=tuple(arguments.size),
        densities=tuple(arguments.density),
        blocks=arguments.blocks,
        seeds=arguments.seeds,
        select=arguments.select,
        mode=arguments.mode if given is None else given.mode,
        curvature=shared.curvature(arguments),
        time_limit=arguments.time_limit,
        target=arguments.target,
        executor=arguments.executor,
        true_loss=not arguments.no_true_loss,
        retrain=arguments.retrain,
        finalists=arguments.finalists,
        cache=not arguments.no_cache,
        seed=arguments.seed,
    )
    return finished(frame)


def _block(arguments: argparse.Namespace, options: dict[str, str]) -> BlockProblem | None:
    """The block of a block file; None where a problem is named.

    Raises
    ------
    InvalidInput   the file is none of a block of single items, or options or arguments are of a problem
    """
    if not arguments.problem.endswith(".npz"):
        return None
    if options:
        raise InvalidInput(f"--option {next(iter(options))} is of a problem, and {arguments.problem} is a block file")
    for name in OF_A_PROBLEM:
        if getattr(arguments, name) is not None:
            raise InvalidInput(
                f"--{name} says how blocks are cut out of a problem, and {arguments.problem} is a block; leave it out"
            )
    block = load_block(arguments.problem)
    if isinstance(block, GroupBlock):
        raise InvalidInput(f"{arguments.problem} is a group block; solve it with 'prunebench solve'")
    return block


def finished(frame: "pandas.DataFrame") -> dict[str, Any]:
    """Write the report beside the table; the summary as JSON-able values."""
    from prunebench.report import write_report

    directory = Path(frame.attrs["directory"])
    page = write_report([directory], directory / "report.html")
    rows = table.summary(frame).to_dict("records")
    return {
        "run": str(directory),
        "table": str(directory / table.FILE),
        "report": str(page),
        "rows": len(frame),
        "cached": int(frame["cached"].sum()),
        "failed_solves": frame.attrs["failed"],
        "items": table.words(frame),
        "summary": rows,
    }


def text(result: dict[str, Any]) -> str:
    """The summary as a table."""
    trained = next((row["retrained_measure"] for row in result["summary"] if _has(row, "retrained")), "")
    ranked = any(_has(row, "finals") for row in result["summary"])
    heads = [
        ">p", ">density", "solver", ">runs", ">gap (95 % interval)", ">proved", ">success", ">TTS99", ">integral",
        ">seconds", ">CPU s", *([f">{trained} after retraining"] if trained else []),
        *([">trained in full"] if ranked else []),
    ]  # fmt: skip
    rows, skipped = [], []
    for row in result["summary"]:
        head = [str(row["p"]), f"{row['density']:g}", row["solver"]]
        if not row["runs"]:
            skipped.append(f"{row['solver']} (p={row['p']}, density {row['density']:g}) skipped: {row['reason']}")
            continue
        mark = "" if row["gap_to"] == "bound" else "*"
        spread = "" if row["gap_lower"] != row["gap_lower"] else f" [{row['gap_lower']:.1e}, {row['gap_upper']:.1e}]"
        rows.append([
            *head, str(row["runs"]), f"{row['gap']:.1e}{mark}{spread}", str(int(row["optimal"])),
            f"{row['success']:.2f}", _seconds(row["time_to_solution"]), f"{row['primal_integral']:.4f}",
            f"{row['seconds']:.3f}", f"{row['cpu_seconds']:.3f}",
            *([f"{row['retrained']:.4f}" if _has(row, "retrained") else "-"] if trained else []),
            *([f"{int(row['finals'])} of {row['runs']}"] if ranked else []),
        ])  # fmt: skip
    lines = [ruled_or_plain(heads, rows), *skipped]
    lines += [
        "",
        "gap: to the best bound proved by any solver (* to the best objective); 0 optimal, 1 a random mask.",
        *([] if result["items"] == WEIGHTS else [f"p counts {result['items']}; the density is the part that is kept."]),
        f"table   {result['table']} ({result['rows']} rows, {result['cached']} of them from the cache)",
        f"report  {result['report']}",
    ]
    if result["failed_solves"]:
        lines.append(f"FAILED  {result['failed_solves']} of {result['rows']} solves; their rows say why")
    return "\n".join(lines)


def _has(row: dict[str, Any], name: str) -> bool:
    """Whether a row of the summary has a value; rows without one have NaN where others have one."""
    value = row.get(name)
    return value is not None and value == value


def _seconds(value: float) -> str:
    return "never" if value == float("inf") else f"{value:.3g} s"
