"""List the solvers: modes, exact or not, stochastic or not, size limits, options, and what is missing."""

import argparse
from collections.abc import Iterable
from typing import Any

from prunebench.core import options as option_tools
from prunebench.core.group_form import GroupForm
from prunebench.core.registry import SOLVERS, missing_packages
from prunebench.core.solver import facts, solves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One optional name."""
    parser.add_argument("name", nargs="?", help="only this solver, with its options")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The registered solvers and those entry points that could not be loaded."""
    names = [arguments.name] if arguments.name else SOLVERS.names()
    return {
        "solvers": [_describe(SOLVERS.get(name)) for name in names],
        "failed": dict(SOLVERS.failures),
        "detail": bool(arguments.name),
    }


def text(result: dict[str, Any]) -> str:
    """A table; with a name, that solver's options and their documentation."""
    facts = f"{'exact':<6} {'bound':<6} {'stochastic':<11} {'quotas':<7} {'budgets':<8} {'largest p':<10}"
    lines = [f"{'solver':<22} {'modes':<14} {facts} available"]
    for row in result["solvers"]:
        largest = f"{row['max_size']:,}" if row["max_size"] else "-"
        available = "yes" if row["available"] else f"no: {row['install']}"
        lines.append(
            f"{row['name']:<22} {_modes(row):<14} {_yes(row['exact']):<6} {_yes(row['bound']):<6} "
            f"{_yes(row['stochastic']):<11} {_yes(row['quotas']):<7} {_yes(row['budgets']):<8} {largest:<10} "
            f"{available}"
        )
    for row in result["solvers"]:
        lines += ["", f"{row['name']}: {row['summary']}"]
        if row["reference"]:
            lines.append(f"  reference: {row['reference']}")
        for option in row["options"]:
            lines.append(f"  --option {option['name']}={option['default']}  ({option['type']})  {option['doc']}")
    for name, reason in result["failed"].items():
        lines += ["", f"{name}: cannot be loaded: {reason}"]
    return "\n".join(lines)


def _describe(cls: type[Any]) -> dict[str, Any]:
    known = facts(cls)
    missing = missing_packages(known.requires)
    return {
        "name": known.name,
        "summary": (cls.__doc__ or "").strip().split("\n")[0],
        "form": "groups" if solves(cls, GroupForm) else "weights",
        "modes": sorted(known.modes, reverse=True),
        "exact": known.exact,
        "bound": known.exact,
        "stochastic": known.stochastic,
        "quotas": known.quotas,
        "budgets": known.budgets,
        "max_size": known.max_size,
        "reference": known.reference,
        "requires": list(known.requires),
        "missing": missing,
        "available": not missing,
        "install": known.install if missing else "",
        "options": options_rows(option_tools.options_of(cls)),
    }


def _modes(row: dict[str, Any]) -> str:
    """The modes, or what else a solver chooses among than weights."""
    return "+".join(row["modes"]) if row["form"] == "weights" else str(row["form"])


def options_rows(options: Iterable[option_tools.Option]) -> list[dict[str, str]]:
    """Options as rows of name, type, default and documentation."""
    return [
        {"name": option.name, "type": option.kind, "default": option.default, "doc": option.doc} for option in options
    ]


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
