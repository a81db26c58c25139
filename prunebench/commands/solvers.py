"""List the solvers: modes, exact or not, stochastic or not, size limits, options, and what is missing."""

import argparse
from collections.abc import Iterable
from typing import Any

from prunebench.commands.tables import table
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
    heads = ("solver", "modes", "exact", "bound", "stochastic", "quotas", "budgets", ">largest p", "available")
    rows = [
        (
            row["name"],
            _modes(row),
            *(_yes(row[fact]) for fact in ("exact", "bound", "stochastic", "quotas", "budgets")),
            f"{row['max_size']:,}" if row["max_size"] else "-",
            "yes" if row["available"] else f"no: {row['install']}",
        )
        for row in result["solvers"]
    ]
    lines = [table(heads, rows)]
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
