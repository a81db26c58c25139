"""List the coordinators and their options, and the recoveries that any of them takes."""

import argparse
from typing import Any

from prunebench.commands.solvers import options_rows
from prunebench.core.coordinator import Coordinator
from prunebench.core.options import options_of
from prunebench.core.recovery import Recovery
from prunebench.core.registry import COORDINATORS, RECOVERIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Facts and options of each, and the entry points that cannot be loaded."""
    rows = [_row(COORDINATORS.get(name)) for name in COORDINATORS.names()]
    recoveries = [_recovery(RECOVERIES.get(name)) for name in RECOVERIES.names()]
    return {
        "coordinators": rows,
        "recoveries": recoveries,
        "failed": {**COORDINATORS.failures, **RECOVERIES.failures},
    }


def _row(kind: type[Coordinator]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "reference": kind.reference,
        "needs_network": kind.needs_network,
        "default_mode": kind.default_mode,
        "takes": sorted(kind.takes),
        "recover": list(kind.default_recovery),
        "options": [] if kind.options_class is None else options_rows(options_of(kind.options_class)),
    }


def _recovery(kind: type[Recovery]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "reference": kind.reference,
        "options": options_rows(options_of(kind)),
    }


def text(result: dict[str, Any]) -> str:
    """One paragraph a coordinator."""
    lines: list[str] = []
    for row in result["coordinators"]:
        lines += [f"{row['name']}: {row['summary']}"]
        lines += [f"  --option {o['name']}={o['default']}  ({o['type']})  {o['doc']}" for o in row["options"]]
        lines.append("")
    lines += ["recoveries, by --recover NAME:K=V,K=V:", ""]
    for row in result["recoveries"]:
        lines += [f"{row['name']}: {row['summary']}"]
        lines += [f"  {o['name']}={o['default']}  ({o['type']})  {o['doc']}" for o in row["options"]]
        lines.append("")
    lines += [f"{name}: cannot be loaded: {reason}" for name, reason in result["failed"].items()]
    return "\n".join(lines).rstrip()
