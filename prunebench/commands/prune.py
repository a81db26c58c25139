"""Prune a whole network and write the run directory: mask, weights, events and result."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.coordinator.prune import COORDINATORS, SCOPES, PruneRequest, prune
from prunebench.core.block import MODES
from prunebench.core.registry import PROBLEMS, SOLVERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, the density, the solver, and how the work is cut into blocks."""
    parser.add_argument("problem", metavar="PROBLEM", help="a registered problem")
    parser.add_argument("--density", type=shared.density, required=True, help="the part of the weights that is kept")
    parser.add_argument("--solver", default="swap", help="a registered solver (default: swap)")
    shared.add_options(parser, "the solver or the problem")
    parser.add_argument("--coordinator", default="one-shot", help=f"one of {', '.join(COORDINATORS)}")
    parser.add_argument("--mode", choices=MODES, help="default: the mode the solver is known for")
    parser.add_argument("--scope", default="network", choices=SCOPES, help="one block in all, or one a layer")
    shared.add_curvature(parser)
    parser.add_argument("--time-limit", type=shared.seconds, metavar="SEC", help="seconds for all solving together")
    parser.add_argument("--seed", type=shared.seed, default=0, help="the seed of everything random (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run directory; must not exist or be empty")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune and return the result."""
    solver_options, problem_options = shared.split_options(
        arguments.option, SOLVERS.get(arguments.solver), PROBLEMS.get(arguments.problem)
    )
    request = PruneRequest(
        problem=arguments.problem,
        density=arguments.density,
        solver=arguments.solver,
        problem_options=problem_options,
        solver_options=solver_options,
        coordinator=arguments.coordinator,
        mode=arguments.mode,
        scope=arguments.scope,
        curvature=shared.curvature(arguments),
        seconds=arguments.time_limit,
        seed=arguments.seed,
    )
    return prune(request, out=arguments.out, say=shared.teller(arguments))


def text(result: dict[str, Any]) -> str:
    """The result in a few lines."""
    lines = [
        f"problem      {result['problem']}, {result['coordinator']} with {result['solver']}, "
        f"mode {result['mode']}, scope {result['scope']}",
        f"kept         {result['kept']:,} of {result['total']:,} (density {result['kept'] / result['total']:.4f})",
    ]
    if result["accuracy"] is not None:
        lines.append(f"accuracy     {result['accuracy']:.4f} (dense {result['dense_accuracy']:.4f})")
    lines += [
        f"loss         {result['loss']:.6g} (dense {result['dense_loss']:.6g})",
        f"objective    {result['objective']:.8g}",
        f"seconds      {result['seconds']:.1f} ({', '.join(f'{k} {v:.1f}' for k, v in result['timings'].items())})",
        f"run          {result['run']}",
    ]
    return "\n".join(lines)
