"""The page: one HTML file with its scripts, its style and all data in it, so that it needs no network.

`page.html.j2` is its form; this module says what stands in it.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from prunebench.core.errors import InvalidInput
from prunebench.report import chart, exports, run_verdict, studies, tables, verdict
from prunebench.report.contents import draw, of_studies, only_studies
from prunebench.report.gather import Material, Source
from prunebench.report.glossary import GLOSSARY, anchor
from prunebench.report.masks import albums
from prunebench.report.reproduce import command, why_not
from prunebench.report.style import Looks
from prunebench.report.swatch import swatch

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing. A browser enforces it."""

WATCH = """
(() => {
  const errors = [], root = document.documentElement;
  const note = (text) => { errors.push(String(text)); root.dataset.errors = JSON.stringify(errors); };
  root.dataset.errors = "[]";
  window.addEventListener("error", (event) => note(event.message));
  window.addEventListener("unhandledrejection", (event) => note(event.reason));
  document.addEventListener("securitypolicyviolation", (event) => note("blocked: " + event.blockedURI));
  root.dataset.theme = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
})();
"""
"""Notes what goes wrong in the page, so that a test can read it, and takes the reader's choice of dark or light."""

VERDICT = "Verdict"
"""Heading of what a comparison's page opens with."""
MASKS = "Masks"
"""Heading of the pictures of masks."""


@dataclass(frozen=True)
class Item:
    """A part of a section. kind : which form of page.html.j2 it has;  headed : whether a table's title stands above"""

    kind: str
    what: Any
    headed: bool = True


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    items: tuple[Item, ...]
    place: str = ""
    """Its anchor, where the title is not the only one of its kind."""

    @property
    def key(self) -> str:
        """Its anchor."""
        return self.place or "-".join(
            "".join(letter if letter.isalnum() else " " for letter in self.title.lower()).split()
        )


def write(material: Material, out: Path) -> Path:
    """Write the page and return its path.

    Raises
    ------
    InvalidInput   the folder does not exist or the file cannot be written
    """
    if out.is_dir():
        raise InvalidInput(f"{out} is a folder; give a file name, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise InvalidInput(f"{out}: the folder {out.parent} does not exist; create it first")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(html(material), encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error.strerror}; choose another -o") from error
    return out


def html(material: Material) -> str:
    """The whole page."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def own(name: str) -> str:
        return files("prunebench.report").joinpath(name).read_text(encoding="utf-8")

    form = Environment(loader=FunctionLoader(own), autoescape=True, undefined=StrictUndefined).get_template(
        "page.html.j2"
    )
    return form.render(
        title="prunebench report: " + ", ".join(dict.fromkeys(path.resolve().name for path in material.directories)),
        policy=POLICY,
        css=own("page.css"),
        watch=WATCH,
        scripts=own("chart.js") + own("page.js"),
        about=_about(material),
        troubles=_troubles(material),
        sections=_sections(material),
        looks=Looks(material.solvers),
        signs=json.dumps(exports.LATEX_SIGNS),
        anchor=anchor,
        inert=lambda text: Markup(_inert(text)),
        swatch=lambda *held: Markup(swatch(*held)),
        plot_json=chart.plot_json,
        has_bands=chart.has_bands,
        shows_bands=chart.shows_bands,
        numeric_columns=exports.numeric_columns,
        digits=exports.digits,
    )


def _about(material: Material) -> str:
    """What the page is about, in words."""
    comparisons, runs = material.comparisons, material.runs
    solves = sum(len(comparison.frame) for comparison in comparisons)
    parts = []
    if comparisons:
        parts.append(f"{_counted(len(comparisons), 'comparison')} of solvers ({solves:,} rows)")
    if runs:
        parts.append(_counted(len(runs), "pruning run"))
    if material.studies:
        held = len(material.studies)
        parts.append(f"{held} {'study' if held == 1 else 'studies'}")
    return " and ".join(parts)


def _troubles(material: Material) -> list[dict[str, str]]:
    """What could not be read or is not finished: text, and the command that continues it, or ""."""
    out = []
    for source in [held.source for part in (material.comparisons, material.runs) for held in part]:
        if source.finished and source.trouble:
            out.append({"text": source.trouble, "command": ""})
        elif not source.finished:
            shown = source.trouble or "what is shown of it is from its events so far"
            text = f"{source.path} is not finished: {shown}."
            out.append({"text": text, "command": f"prunebench resume {source.path}"})
    return out + [
        {"text": f"{path} could not be read: {reason}", "command": ""} for path, reason in material.unreadable
    ]


def _sections(material: Material) -> list[Section]:
    out = _verdicts(material) + _of_studies(material)
    if not only_studies(material):
        out += _of_figures(material) + _of_tables(material)
    sources = [held.source for part in (material.comparisons, material.runs, material.studies) for held in part]
    out.append(Section("How to reproduce", tuple(_reproduce(sources))))
    if not only_studies(material):
        out.append(Section("Glossary", (Item("glossary", GLOSSARY),)))
    return out


def _verdicts(material: Material) -> list[Section]:
    """What the page answers first: who is best, by how much, how sure; then the bars."""
    items: list[Item] = []
    for index, comparison in enumerate(material.comparisons):
        held = verdict.verdicts(comparison)
        if not held:
            continue
        longest = max(one.seconds for one in held)
        if len(material.comparisons) > 1:
            items.append(Item("heading", comparison.source.path.name))
        items.append(Item("list", [verdict.sentence(one) for one in held if one.seconds == longest]))
        items.append(Item("table", verdict.table(comparison, index, held)))
    of_runs = run_verdict.sentences(material.runs)
    if of_runs:
        items += [Item("heading", "Networks pruned")] if items else []
        items.append(Item("list", of_runs))
    return [Section(VERDICT, tuple(items))] if items else []


def _of_studies(material: Material) -> list[Section]:
    """A section for each study: its question, what is to be known of its numbers, its plots and tables."""
    out = []
    for number, (study, figures) in enumerate(zip(material.studies, of_studies(material), strict=True)):
        result = study.result
        items = [Item("text", f"{result['question']} {result['reference']}")]
        items += [Item("note", note) for note in result["notes"]]
        items += [Item("table", table) for table in studies.tables(result, f"study-{number}-")]
        out.append(Section(studies.heading(study), (*items, Item("figures", figures)), f"study-{number}"))
    return out


def _of_figures(material: Material) -> list[Section]:
    """The figures of runs and comparisons, and the pictures of masks."""
    grouped: dict[str, list[Item]] = {}
    for drawn in draw(material):
        name = drawn.figures[0].section if drawn.figures else drawn.absent.section if drawn.absent else ""
        grouped.setdefault(name, []).append(Item("drawn", drawn))
    out = [Section(name, tuple(items)) for name, items in grouped.items()]
    pictures = albums(material.runs)
    if pictures:
        text = "What was kept of each layer: black is kept, white is pruned. Rows are outputs, columns inputs."
        out.append(Section(MASKS, (Item("text", text), *(Item("album", album) for album in pictures))))
    return out


def _of_tables(material: Material) -> list[Section]:
    """The tables of runs and comparisons."""
    further = (tables.controls(material.runs), tables.levels(material.runs), tables.smaller(material.runs))
    results = [
        *tables.summaries(material.comparisons), *tables.pruning(material.runs),
        *(table for table in further if table is not None),
    ]  # fmt: skip
    items = [Item("table", table) for table in results]
    items += [Item("folded", table) for table in tables.every_answer(material.comparisons)]
    out = [Section("Table of results", tuple(items))]
    left = tables.skipped(material.comparisons)
    nothing = (
        "Nothing was skipped: every solver took every block."
        if material.comparisons
        else "There is no comparison, so nothing could be skipped."
    )
    out.append(Section("What was skipped and why", (Item("table", left, False) if left else Item("text", nothing),)))
    for table in (tables.left_out(material.runs), tables.workers(material.runs)):
        if table is not None:
            out.append(Section(table.title, (Item("table", table, False),)))
    return out


def _reproduce(sources: list[Source]) -> Iterable[Item]:
    yield Item(
        "text", "The commands that ask for the same, with the versions, machine and seeds that each run wrote down. "
        "Times differ from machine to machine, and so do answers that a time limit cut short."
    )  # fmt: skip
    for source in sources:
        yield Item("heading", str(source.path))
        known = "problem" in source.request
        asked = command(source.request) if known else ""
        reason = why_not(source.request) if known else "the table came without its run"
        yield Item("command", asked) if asked else Item("text", f"No command does it: {reason}.")
        seeds = source.request.get("seeds")
        runs = f"; {_counted(int(seeds), 'run')} of each stochastic solver on each block" if seeds else ""
        yield Item("subtle", f"seed {source.seed}{runs}")
    grouped: dict[str, list[str]] = {}
    for source in sources:
        machine = ", ".join(f"{key} {value}" for key, value in {**source.versions, **source.machine}.items())
        grouped.setdefault(machine or "not written down", []).append(source.path.name)
    for machine, names in grouped.items():
        which = f" ({', '.join(names)})" if len(grouped) > 1 else ""
        yield Item("text", f"Versions and machine{which}: {machine}")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _inert(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
