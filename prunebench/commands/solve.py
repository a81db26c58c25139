"""Solve a block problem file with one solver and print what was found."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core import options as option_tools
from prunebench.core import solution_file
from prunebench.core.block import MODES, BlockProblem
from prunebench.core.solution import Budget, Solution
from prunebench.core.solver import make_solver, native_or_refit, solve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block file, the solver, its options, budgets and seeds."""
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="a block problem file")
    parser.add_argument("--solver", default="swap", help="a registered solver (default: swap)")
    shared.add_options(parser, "the solver")
    parser.add_argument("--mode", choices=MODES, help="solve the block in this mode instead of its own")
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="stop after this many seconds")
    parser.add_argument("--evaluations", type=shared.seconds, metavar="N", help="stop after this many evaluations")
    parser.add_argument("--gap", type=shared.seconds, default=0.0, help="stop at this proven relative gap")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of the first repeat (default: 0)")
    parser.add_argument("--repeat", type=shared.positive_int, default=1, metavar="N", help="solve with N seeds in turn")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the best repeat's solution here")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Solve once a repeat; repeat i uses seed + i."""
    if arguments.output:
        shared.require_folder(arguments.output)
    block = BlockProblem.load(arguments.file)
    if arguments.mode:
        block = block.in_mode(arguments.mode)
    solver = make_solver(arguments.solver, shared.pairs(arguments.option))
    native_or_refit(solver, block)
    limit = float("inf") if arguments.time_limit is None else arguments.time_limit
    evaluations = float("inf") if arguments.evaluations is None else arguments.evaluations
    budget = Budget(seconds=limit, evaluations=evaluations, gap=arguments.gap)
    say = shared.teller(arguments)
    rows: list[dict[str, Any]] = []
    best: tuple[Solution, dict[str, Any]] | None = None
    for seed in range(arguments.seed, arguments.seed + arguments.repeat):
        solution = solve(block, solver, budget=budget, seed=seed)
        row = solution_file.as_json(
            block, solution, solver=arguments.solver, options=option_tools.as_json(solver), seed=seed
        )
        rows.append(row)
        if best is None or solution.objective < best[0].objective:
            best = solution, row
        if arguments.repeat > 1:
            say(f"seed {seed}: objective {solution.objective:.12g}, {row['seconds']:.3f} s")
    if arguments.output and best is not None:
        solution_file.write(arguments.output, solution_file.with_arrays(best[1], best[0]))
    return rows


def text(result: list[dict[str, Any]]) -> str:
    """One paragraph a repeat."""
    return "\n\n".join(_paragraph(row) for row in result)


def _paragraph(row: dict[str, Any]) -> str:
    bound = "none" if row["lower_bound"] is None else f"{row['lower_bound']:.12g}"
    gap = "unknown" if row["gap"] is None else f"{row['gap']:.3g} (relative {_short(row['relative_gap'])})"
    return "\n".join(
        [
            f"solver       {row['solver']} (mode {row['mode']}, seed {row['seed']})",
            f"status       {row['status']}: {row['stop_reason']}",
            f"objective    {row['objective']:.12g}",
            f"lower bound  {bound}",
            f"gap          {gap}",
            f"kept         {row['kept']} of {row['total']}",
            f"seconds      {row['seconds']:.3f}",
        ]
    )


def _short(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"
