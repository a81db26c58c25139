"""Ask what a mask's objective is worth: studies of many masks of one network, each with one answer."""

import argparse
import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.core import options as option_tools
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.progress import shown
from prunebench.report.studies import tables
from prunebench.studies import STUDIES
from prunebench.studies.asked_by_runs import asked_by_runs, is_run
from prunebench.studies.run import study
from prunebench.studies.study import Study

WIDTH = 110
"""Columns of the captions under which tables stand."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study, the network, and the options of all studies, each with those that have it."""
    questions = "; ".join(f"{name}: {kind.summary}" for name, kind in STUDIES.items())
    parser.add_argument("study", metavar="STUDY", help=questions)
    having = ", ".join(name for name, kind in STUDIES.items() if _has(kind, "runs"))
    parser.add_argument(
        "problem",
        metavar="PROBLEM|RUN",
        nargs="+",
        help=f"{shared.PROBLEM_HELP}; or directories of finished runs, of studies that look at runs ({having}), whose "
        "network and density are taken",
    )
    shared.add_options(parser, "the problem")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run directory; must not exist or be empty")
    parser.add_argument("--executor", metavar="WHERE", help="where solvers run: inline, local:N or dask:ADDRESS")
    parser.add_argument("--no-cache", action="store_true", help="solve anew what was solved before")
    for title, names in _groups().items():
        group = parser.add_argument_group(title)
        for name in names:
            several = any(_has(kind, name) and _is_list(kind, name) for kind in STUDIES.values())
            flag = f"--{name.replace('_', '-')}"
            group.add_argument(flag, nargs="+" if several else 1, metavar="X", help=_help(name))


def _groups() -> dict[str, list[str]]:
    """The names of options by the studies that have them."""
    held: dict[str, list[str]] = {}
    for name in dict.fromkeys(option.name for kind in STUDIES.values() for option in option_tools.options_of(kind)):
        having = [study for study, kind in STUDIES.items() if _has(kind, name)]
        held.setdefault("of every study" if len(having) == len(STUDIES) else f"of {', '.join(having)}", []).append(name)
    return held


def _has(kind: type[Study], name: str) -> bool:
    return name in {item.name for item in dataclasses.fields(kind)}


def _is_list(kind: type[Study], name: str) -> bool:
    return str(option_tools.kinds_of(kind)[name]).startswith("tuple")


def _help(name: str) -> str:
    """What an option means: once, or for each study that means something else by it, with the defaults."""
    meanings: dict[str, list[str]] = {}
    for study_name, kind in STUDIES.items():
        for option in option_tools.options_of(kind):
            if option.name == name:
                text = f"{option.doc} Default: {option.default}."
                meanings.setdefault(text.replace("%", "%%"), []).append(study_name)
    if len(meanings) == 1:
        return next(iter(meanings))
    return " ".join(f"{', '.join(names)}: {text}" for text, names in meanings.items())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do the study and return what it found."""
    if arguments.study not in STUDIES:
        raise unknown_name("study", arguments.study, STUDIES)
    kind = STUDIES[arguments.study]
    given = {
        name: value
        for names in _groups().values()
        for name in names
        if (value := getattr(arguments, name)) is not None
    }  # fmt: skip
    for name in given:
        if not _has(kind, name):
            having = ", ".join(other for other, cls in STUDIES.items() if _has(cls, name))
            raise InvalidInput(
                f"study {arguments.study} has no option --{name.replace('_', '-')}, which is of {having}; leave it out"
            )
    options: dict[str, Any] = {name: _value(kind, name, parts) for name, parts in given.items()}
    problem, problem_options = arguments.problem[0], shared.pairs(arguments.option)
    if is_run(problem):
        if problem_options or "runs" in options:
            said = "--option" if problem_options else "--runs"
            raise InvalidInput(f"{said} is given beside run directories, which say that themselves; leave it out")
        of_runs = asked_by_runs(kind, arguments.problem)
        problem, problem_options, options = (
            of_runs.problem,
            dict(of_runs.problem_options),
            {**of_runs.options, **options},
        )
    elif len(arguments.problem) > 1:
        raise InvalidInput(f"{problem} is no run directory, so nothing may stand beside it: {arguments.problem[1]}")
    question: Study = option_tools.build(kind, options)
    with shown(not arguments.quiet, lines=True, verb=arguments.study) as (say, step):
        return study(
            question, problem, problem_options, out=arguments.out,
            executor=arguments.executor, cache=not arguments.no_cache, say=say, progress=step,
        )  # fmt: skip


def _value(kind: type[Study], name: str, parts: list[str]) -> Any:
    """The words after an option as one value: texts may have commas of their own, numbers are parsed as a list."""
    if option_tools.kinds_of(kind)[name] == tuple[str, ...]:
        return tuple(parts)
    if len(parts) > 1 and not _is_list(kind, name):
        raise InvalidInput(f"study {kind.name}: --{name.replace('_', '-')} takes one value, not {' '.join(parts)}")
    return ",".join(parts)


def text(result: dict[str, Any]) -> str:
    """The study's tables, its notes, and where everything is."""
    lines = [f"{result['question']} ({result['problem']})"]
    for table in tables(result):
        lines += ["", table.title, *textwrap.wrap(table.caption, WIDTH), ""]
        rows = [table.columns, *(tuple(cell.text for cell in row) for row in table.rows)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(table.columns))]
        left = [kind == "text" for kind in _kinds(result, table.id)]
        lines += [_line(row, widths, left) for row in rows]
    lines += ["", *(f"note     {note}" for note in result["notes"])]
    lines += [f"run      {result['run']}", f"report   prunebench report {result['run']}"]
    return "\n".join(lines)


def _kinds(result: dict[str, Any], key: str) -> list[str]:
    return [kind for grid in result["grids"] if grid["key"] == key for _, kind in grid["columns"]]


def _line(row: tuple[str, ...], widths: list[int], left: list[bool]) -> str:
    cells = (
        cell.ljust(width) if to_left else cell.rjust(width)
        for cell, width, to_left in zip(row, widths, left, strict=True)
    )
    return "  ".join(cells).rstrip()
