"""What the site takes from the program itself, so that it cannot go stale: MkDocs calls these functions.

A page says `<!-- generated: NAME -->` where the text of `GENERATED[NAME]` belongs.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from prunebench import cli, measures
from prunebench.commands import coordinators, problems, solvers
from prunebench.comparison import qoblib, table
from prunebench.core import block_file
from prunebench.core.options import options_of
from prunebench.recovery.training.protocol import Protocol
from prunebench.suite import scoreboard

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- generated: (?P<name>[\w-]+) -->$", re.MULTILINE)

sys.path.insert(0, str(Path(__file__).parent))
from tutorials import Tutorial, tutorial  # noqa: E402 (MkDocs loads this file by its path)

TUTORIALS: list[Tutorial] = []
"""The notebooks of this build as pages: links and files must be the same."""

TYPES = ("list of numbers", table.LISTS), ("text", table.TEXTS), ("true or false", ("stochastic", "cached", "success"))
"""Columns of a comparison's table that are no numbers."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The notebooks come into the navigation, after the quick start."""
    TUTORIALS[:] = [tutorial(notebook) for notebook in _notebooks()]
    held = next(part["Tutorials"] for part in config.nav or [] if "Tutorials" in part)
    held[1:1] = [page.address for page in TUTORIALS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The notebooks become part of the site, as pages and to be downloaded."""
    for notebook, page in zip(_notebooks(), TUTORIALS, strict=True):
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
        for file in page.files(config):
            files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_rest: Any) -> str:
    """Put the generated text in the place of its marker."""

    def text(found: re.Match[str]) -> str:
        if found["name"] not in GENERATED:
            raise PluginError(f"{page.file.src_uri}: nothing generates {found['name']!r}; there is {list(GENERATED)}")
        return GENERATED[found["name"]]()

    return MARKER.sub(text, markdown)


def glossary() -> str:
    """The definitions of the measures."""
    return "\n\n".join(f"### {name}\n\n{text}" for name, text in measures.GLOSSARY.items())


def commands() -> str:
    """Every command with its arguments, from the parsers that the program uses."""
    parts = []
    for name, what in cli.COMMANDS.items():
        module = cli.command_module(name)
        parser = argparse.ArgumentParser(prog=f"prunebench {name}", add_help=False)
        module.add_arguments(parser)
        parts.append(f"## prunebench {name}\n\n{_sentence(what)}\n\n{_command(name, parser)}")
    return "\n\n".join(parts)


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    """A command's arguments, or those of each of its own commands."""
    held = cli.parts(parser)
    if not held:
        return _arguments(parser)
    return "\n\n".join(
        f"### prunebench {name} {part}\n\n{inner.description}\n\n{_arguments(inner)}" for part, inner in held.items()
    )


def common_arguments() -> str:
    """The arguments of all commands."""
    parser = argparse.ArgumentParser(add_help=False)
    cli.add_common(parser)
    return _arguments(parser)


def solver_table() -> str:
    """One row a solver."""
    rows = _solvers()
    return _table(
        ("solver", "what it does", "modes", "proves", "budgets", "random", "largest p"),
        (
            (
                f"[`{row['name']}`](#{row['name']})",
                row["summary"],
                ", ".join(row["modes"]) + (" of groups" if row["form"] == "groups" else ""),
                "optimum" if row["exact"] else "a bound" if row["bound"] else "–",
                "yes" if row["budgets"] else "–",
                "yes" if row["stochastic"] else "–",
                f"{row['max_size']:,}" if row["max_size"] else "–",
            )
            for row in rows
        ),
    )


def solver_options() -> str:
    """Reference and options of each solver."""
    parts = []
    for row in _solvers():
        needs = f"\n\nNeeds: `{'`, `'.join(row['requires'])}`." if row["requires"] else ""
        reference = f"\n\nAfter: {row['reference']}." if row["reference"] else ""
        parts.append(
            f"### {row['name']} {{#{row['name']}}}\n\n{row['summary']}{reference}{needs}\n\n{_options(row['options'])}"
        )
    return "\n\n".join(parts)


def coordinator_options() -> str:
    """Options of each coordinator."""
    found = coordinators.run(argparse.Namespace())["coordinators"]
    return "\n\n".join(
        f"### {row['name']} {{#options-{row['name']}}}\n\n{row['summary']}\n\n{_options(row['options'])}"
        for row in found
    )


def recovery_options() -> str:
    """Options of each recovery."""
    found = coordinators.run(argparse.Namespace())["recoveries"]
    return "\n\n".join(f"### {row['name']}\n\n{row['summary']}\n\n{_options(row['options'])}" for row in found)


def protocol_options() -> str:
    """Options of a training protocol."""
    return _options(solvers.options_rows(options_of(Protocol)))


def problem_options() -> str:
    """Summary and options of each problem."""
    found = problems.run(argparse.Namespace(name=None))["problems"]
    return "\n\n".join(
        f"## {row['name']} {{#{row['name']}}}\n\n{_sentence(row['summary'])}\n\n{_options(row['options'])}"
        for row in found
    )


def comparison_columns() -> str:
    """The columns of a comparison's table with their types."""
    kinds = {name: kind for kind, names in TYPES for name in names}
    return _table(("column", "type"), ((f"`{name}`", kinds.get(name, "number")) for name in table.COLUMNS))


def qoblib_columns() -> str:
    """The columns of QOBLIB's summary."""
    return ", ".join(qoblib.COLUMNS) + "."


def block_keys() -> str:
    """The keys of a block problem file."""
    return (
        f"Format `{block_file.FORMAT}`. Always there: {_codes(('format', *block_file.REQUIRED))}. "
        f"One of `factor` and `hessian`. Optional: {_codes(block_file.OPTIONAL[2:])}; "
        "with a budget there is no `keep`."
    )


def notebook_list() -> str:
    """The notebooks with their headings."""
    return "\n".join(f"- [{page.title}]({page.address})" for page in TUTORIALS)


def gallery() -> str:
    """Every figure of the notebooks, with the heading that it stands under, as a link to its place."""
    parts = []
    for page in TUTORIALS:
        parts.append(f"## {page.title}")
        figures = [
            f"[![{picture.heading}]({picture.address}){{ loading=lazy }}<br>{picture.heading}]"
            f"({page.address}#{picture.anchor})"
            for picture, _ in page.pictures
        ]
        rows = "\n".join(f"- {figure}" for figure in figures)
        parts.append(f'<div class="gallery" markdown>\n\n{rows}\n\n</div>')
    return "\n\n".join(parts)


def suite_scoreboard() -> str:
    """The tables of the committed results of the suite."""
    return scoreboard.scoreboard_page(ROOT / "benchmarks" / "results" / "suite")


GENERATED: dict[str, Callable[[], str]] = {
    "glossary": glossary,
    "commands": commands,
    "common-arguments": common_arguments,
    "solver-table": solver_table,
    "solver-options": solver_options,
    "coordinator-options": coordinator_options,
    "recovery-options": recovery_options,
    "protocol-options": protocol_options,
    "problem-options": problem_options,
    "comparison-columns": comparison_columns,
    "qoblib-columns": qoblib_columns,
    "block-keys": block_keys,
    "suite-instances": scoreboard.instances_page,
    "scoreboard": suite_scoreboard,
    "notebooks": notebook_list,
    "gallery": gallery,
}


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def _solvers() -> list[dict[str, Any]]:
    return list(solvers.run(argparse.Namespace(name=None))["solvers"])


def _arguments(parser: argparse.ArgumentParser) -> str:
    """The plain arguments of a parser as one table, those of each titled group as another."""
    plain: list[argparse.Action] = []
    titled: list[str] = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if group.title in ("positional arguments", "options", "common"):
            plain += actions
        elif actions:
            rows = _table(("argument", "meaning"), map(_argument, actions))
            titled.append(f"*{_sentence(str(group.title))}*\n\n{rows}")
    first = [_table(("argument", "meaning"), map(_argument, plain))] if plain else []
    return "\n\n".join(first + titled) or "No arguments of its own."


def _argument(action: argparse.Action) -> tuple[str, str]:
    """An argument as it is written, and its help."""
    values = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else None)
    value = str(values or action.dest.upper()) if action.nargs != 0 else ""
    value += " …" if action.nargs in ("+", "*") and value else ""
    names = ", ".join(action.option_strings)
    written = f"{names} {value}".strip() if names else f"[{value}]" if action.nargs == "?" else value
    text = _sentence(action.help or "")
    if action.required and names:
        text += " Required."
    return f"`{written}`", text


def _options(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return "No options."
    return _table(
        ("option", "default", "type", "meaning"),
        ((f"`{row['name']}`", f"`{row['default']}`", row["type"], row["doc"]) for row in rows),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    shown = text[:1].upper() + text[1:]
    return shown if not shown or shown.endswith((".", "?", "!")) else shown + "."
