"""Accuracy and loss of a problem's network on its validation samples, dense or with given weights."""

import argparse
from pathlib import Path
from typing import Any

from prunebench import threads
from prunebench.commands import arguments as shared
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, make_problem, options_as_json, require_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem and, optionally, a weights file."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    parser.add_argument("--weights", type=Path, metavar="FILE.safetensors", help="weights to load, e.g. of a run")
    shared.add_options(parser, "the problem")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, judge, count."""
    problem = make_problem(arguments.problem, shared.pairs(arguments.option))
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {arguments.problem!r} has no network to evaluate")
    require_data(problem)
    from prunebench.networks.chosen import prunable_network

    model = problem.model()
    network = prunable_network(problem, model)
    if arguments.weights:
        network.load(arguments.weights)
    with threads.for_network(threads.few(model, problem.validation())):
        measures = problem.evaluate(model)
    return {
        "problem": arguments.problem,
        "options": options_as_json(problem),
        "weights": str(arguments.weights) if arguments.weights else None,
        **measures,
        "kept": int((network.weights() != 0.0).sum()),
        "total": network.total,
    }


def text(result: dict[str, Any]) -> str:
    """One line a measure."""
    which = result["weights"] or "dense"
    lines = [f"problem   {result['problem']} ({which})"]
    counted = ("problem", "options", "weights", "kept", "total")
    lines += [f"{name:<9} {value:.6g}" for name, value in result.items() if name not in counted]
    lines.append(f"kept      {result['kept']:,} of {result['total']:,}")
    return "\n".join(lines)
