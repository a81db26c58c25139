"""List the problems: what they are, their options, and whether their data are there."""

import argparse
from typing import Any

from prunebench.commands.solvers import options_rows
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import data_directory, problem_options
from prunebench.core.registry import PROBLEMS, missing_packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One optional name."""
    parser.add_argument("name", nargs="?", help="only this problem")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The registered problems, where data are looked for, and entry points that could not be loaded."""
    names = [arguments.name] if arguments.name else PROBLEMS.names()
    return {
        "data": str(data_directory()),
        "problems": [_describe(PROBLEMS.get(name)) for name in names],
        "failed": dict(PROBLEMS.failures),
    }


def text(result: dict[str, Any]) -> str:
    """One paragraph a problem."""
    lines = [f"data are looked for in {result['data']} (set PRUNEBENCH_DATA or --data)"]
    for row in result["problems"]:
        lines += [
            "",
            f"{row['name']}: {row['summary']}",
            f"  ready: {'yes' if row['ready'] else 'no: ' + row['missing']}",
        ]
        for option in row["options"]:
            lines.append(f"  --option {option['name']}={option['default']}  ({option['type']})  {option['doc']}")
    for name, reason in result["failed"].items():
        lines += ["", f"{name}: cannot be loaded: {reason}"]
    return "\n".join(lines)


def _describe(cls: type[Any]) -> dict[str, Any]:
    packages = missing_packages(cls.requires)
    if packages:
        missing = f"needs {', '.join(packages)}: {getattr(cls, 'install', 'pip install prunebench')}"
    else:
        try:
            missing = cls().missing()
        except (TypeError, InvalidInput) as error:
            missing = f"needs options: {error}"
    return {
        "name": cls.name,
        "summary": cls.summary,
        "ready": not missing,
        "missing": missing,
        "options": options_rows(problem_options(cls)),
    }
