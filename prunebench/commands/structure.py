"""List what of a network can be pruned as a whole: families of channels, neurons and heads, and what must stay."""

import argparse
from collections.abc import Sequence
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core import options as option_tools
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, class_of, make_problem, require_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The problem, and which families."""
    parser.add_argument("problem", metavar="PROBLEM", help=shared.PROBLEM_HELP)
    parser.add_argument(
        "--structure", default="", metavar="KINDS", help="kinds or patterns of families' names, separated by commas"
    )
    shared.add_options(parser, "the problem")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Find the families, check them, and count."""
    options = shared.split_options(arguments.option, {"problem": class_of(arguments.problem)})
    problem = make_problem(arguments.problem, options["problem"])
    if not isinstance(problem, NetworkProblem):
        raise InvalidInput(f"problem {problem.name!r} is no network and has no structure")
    require_data(problem)
    from prunebench.runs.structured import described
    from prunebench.structure.found import find

    kinds = [part.strip() for part in arguments.structure.split(",") if part.strip() and part.strip() != "usual"]
    found = find(problem.model(), problem.calibration(), kinds)
    return {"problem": problem.name, "options": option_tools.as_json(problem), **described(found)}


def text(result: dict[str, Any]) -> str:
    """A table of families, then what is not pruned and why."""
    costs = result["costs"]
    lines = [
        f"{result['problem']}: {costs['macs']:,.0f} multiply-accumulates a sample, {costs['parameters']:,.0f} "
        f"parameters, {costs['bytes']:,.0f} bytes",
        "",
        "can be pruned (share: what goes with all of the family)",
    ]
    rows: list[tuple[str, ...]] = [("kind", "family", "groups", "MACs", "parameters")]
    rows += [
        (row["kind"], row["name"], str(row["groups"]), f"{row['share']['macs']:.1%}",
         f"{row['share']['parameters']:.1%}")
        for row in result["families"]
    ]  # fmt: skip
    lines += _aligned(rows)
    if result["not_pruned_families"]:
        lines += ["", "not pruned"]
        rows = [("kind", "family", "groups", "why")]
        for row in result["not_pruned_families"]:
            crossed = f", {row['crossed_by']} goes across it" if row["crossed_by"] else ""
            why = row["reason"] if row["reason"] != "not asked for" else f"not asked for{crossed}"
            rows.append((row["kind"], row["name"], str(row["groups"]), why))
        lines += _aligned(rows)
    if result["frozen"]:
        lines += ["", "must stay"]
        lines += _aligned(
            [
                ("first in", "indices", "because of"),
                *((r["name"], str(r["groups"]), r["reason"]) for r in result["frozen"]),
            ]
        )
    if result["unknown_operations"]:
        names = ", ".join(f"{name} ({count})" for name, count in result["unknown_operations"].items())
        lines += ["", f"operations without a rule, which freeze what they touch: {names}"]
    return "\n".join(lines)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
