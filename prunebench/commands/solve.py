"""Solve a block problem file with one solver and print what was found."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.commands import arguments as shared
from prunebench.core import compilation, solution_file, solver_log
from prunebench.core import options as option_tools
from prunebench.core.block import MODES, BlockProblem
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.group_block import GroupBlock, load_block
from prunebench.core.proof import MOST_BYTES
from prunebench.core.registry import SOLVERS
from prunebench.core.solution import Budget, Solution
from prunebench.core.solver import SolverLike, facts, make_solver, solvers_of
from prunebench.kernels.relaxations.bounds import Bound, lower_bound
from prunebench.meanings.bits.slices import SLICES, stored
from prunebench.solving import native_or_refit, solve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The block file, the solver, its options, budgets and seeds."""
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="a block or group block file")
    parser.add_argument(
        "--solver", metavar="NAME",
        help="a registered solver, or your own, or a dimod sampler, as module:Object or FILE.py:Object (default: swap, "
        "for a group block group-swap)",
    )  # fmt: skip
    shared.add_options(parser, "the solver")
    parser.add_argument("--mode", choices=MODES, help="solve the block in this mode instead of its own")
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="stop after this many seconds")
    parser.add_argument("--evaluations", type=shared.seconds, metavar="N", help="stop after this many evaluations")
    parser.add_argument("--gap", type=shared.seconds, default=0.0, help="stop at this proven relative gap")
    parser.add_argument("--bound", action="store_true", help="attach a proven lower bound to a heuristic's answer")
    parser.add_argument("--bound-time-limit", type=shared.seconds, default=60.0, metavar="SEC", help="default: 60")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of the first repeat (default: 0)")
    parser.add_argument("--repeat", type=shared.positive_int, default=1, metavar="N", help="solve with N seeds in turn")
    parser.add_argument(
        "--start", type=Path, metavar="FILE",
        help="begin from this mask, and return nothing worse: a list of 0 and 1, a solution file of prunebench or of "
        "another solver, a dimod SampleSet; of several the best",
    )  # fmt: skip
    parser.add_argument(
        "--solver-log", action="store_true", help="what the program behind the solver says of itself, on standard error"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the best repeat's solution here")
    parser.add_argument(
        "--proof", type=Path, metavar="FILE.npz",
        help="write here what 'prunebench verify --proof' derives the bound from, without a search",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Solve once a repeat; repeat i uses seed + i."""
    if arguments.output:
        shared.require_folder(arguments.output)
    block = _loaded(arguments)
    name = arguments.solver or ("group-swap" if isinstance(block, GroupBlock) else "swap")
    options = shared.pairs(arguments.option)
    if arguments.proof:
        shared.require_folder(arguments.proof)
        options = _with_proof(name, options, type(block.form))
    solver = make_solver(name, options)
    native_or_refit(solver, block)
    listen = _listener(solver) if arguments.solver_log else None
    limit = float("inf") if arguments.time_limit is None else arguments.time_limit
    evaluations = float("inf") if arguments.evaluations is None else arguments.evaluations
    budget = Budget(seconds=limit, evaluations=evaluations, gap=arguments.gap)
    say = shared.teller(arguments)
    bound = _bound(block, arguments.bound_time_limit, say) if arguments.bound else None
    rows: list[dict[str, Any]] = []
    best: tuple[Solution, dict[str, Any]] | None = None
    for seed in range(arguments.seed, arguments.seed + arguments.repeat):
        with compilation.said(say), solver_log.heard(listen):
            solution = solve(block, solver, budget=budget, seed=seed)
        if bound is not None:
            solution = _with_bound(solution, bound)
        row = solution_file.as_json(block, solution, solver=name, options=option_tools.as_json(solver), seed=seed)
        row |= _stored(block, solution)
        rows.append(row)
        if best is None or solution.objective < best[0].objective:
            best = solution, row
        if arguments.repeat > 1:
            say(f"seed {seed}: objective {solution.objective:.12g}, {row['seconds']:.3f} s")
    if arguments.output and best is not None:
        solution_file.write(arguments.output, solution_file.with_arrays(best[1], best[0]))
    if arguments.proof and best is not None:
        _write_proof(arguments.proof, best[0], say)
    return rows


def _stored(block: BlockProblem | GroupBlock, solution: Solution) -> dict[str, Any]:
    """What slices make of the weights, for a block of slices; else nothing."""
    if not isinstance(block, BlockProblem) or block.word != SLICES:
        return {}
    held = stored(block, solution.mask)
    return {
        "stored": {
            "values": held.values.tolist(), "levels": held.levels.tolist(), "steps": held.steps.tolist(),
            "bits": held.bits.tolist(), "places": None if held.places is None else held.places.tolist(),
        }
    }  # fmt: skip


def _stored_lines(row: dict[str, Any]) -> list[str]:
    """How many bits the weights of a block of slices have."""
    if "stored" not in row:
        return []
    bits = row["stored"]["bits"]
    counts = ", ".join(f"{bits.count(held)} with {held}" for held in sorted(set(bits)))
    return [f"bits         {sum(bits)} for {len(bits)} weights, {sum(bits) / len(bits):.4g} each: {counts}"]


def _loaded(arguments: argparse.Namespace) -> BlockProblem | GroupBlock:
    """The block of the file, in the mode asked for."""
    block = load_block(arguments.file)
    block = block.in_mode(arguments.mode) if arguments.mode else block
    if arguments.start is None:
        return block
    from prunebench.forms.foreign.answers import best_of, read_answers

    return block.with_start(best_of(read_answers(arguments.start, block), block, arguments.start))


def _listener(solver: SolverLike) -> solver_log.Listener:
    """What prints the lines of a solver's log on standard error.

    Raises
    ------
    InvalidInput   the solver has none
    """
    if not facts(solver).logs:
        able = [name for name in SOLVERS.names() if facts(SOLVERS.get(name)).logs]
        raise InvalidInput(
            f"solver {solver.name!r} has no log of its own: no other program is behind it; leave out --solver-log, or "
            f"choose one of {', '.join(able)}"
        )
    return shared.tell


def _with_proof(solver: str, options: dict[str, Any], form: type) -> dict[str, Any]:
    """The options with `proof` set.

    Raises
    ------
    InvalidInput   the solver has no such option
    """
    if solver in SOLVERS.names() and "proof" not in {field.name for field in fields(SOLVERS.get(solver))}:
        able = [name for name in solvers_of(form) if "proof" in {field.name for field in fields(SOLVERS.get(name))}]
        raise InvalidInput(f"solver {solver!r} writes no proof; choose one of {', '.join(able)}, or leave out --proof")
    return {**options, "proof": True}


def _write_proof(path: Path, solution: Solution, say: shared.Say) -> None:
    """Write the proof file.

    Raises
    ------
    PrunebenchError   there is none
    """
    if solution.proof is None:
        raise PrunebenchError(
            f"no proof was written to {path}: the solver recorded none, because nothing was searched or the proof grew "
            f"beyond {MOST_BYTES >> 20} MiB; the solution stands, and 'prunebench verify' checks it without one"
        )
    solution.proof.save(path)
    say(f"proof of {solution.proof.records} records, {solution.proof.nbytes / 1e6:.1f} MB")


def _bound(block: BlockProblem | GroupBlock, seconds: float, say: shared.Say) -> Bound:
    say(f"proving a lower bound, at most about {seconds:g} s")
    if isinstance(block, GroupBlock):
        exact = solve(block, "group-exact", budget=Budget(seconds=seconds))
        found = Bound(exact.lower_bound, "group-exact")
    else:
        found = lower_bound(block, seconds)
    say(f"lower bound {found.value:.12g} ({found.method})")
    return found


def _with_bound(solution: Solution, bound: Bound) -> Solution:
    """The solution with the better of its own bound and the one proved apart, and where it comes from."""
    if bound.value <= solution.lower_bound:
        return solution
    value = min(bound.value, solution.objective)
    details = {**solution.details, **bound.details, "bound_method": bound.method}
    trace = np.array(solution.trace)
    trace[-1, 2] = value
    return replace(solution, lower_bound=value, details=details, trace=trace)


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
            f"kept         {row['kept']} of {row['total']} {row['items']}",
            *_stored_lines(row),
            *(
                f"budget       {held['name']}: {held['spent']:.12g} of {held['limit']:.12g}"
                for held in row.get("budgets", ())
            ),
            f"seconds      {row['seconds']:.3f}",
        ]
    )


def _short(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"
