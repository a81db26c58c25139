"""The page: one HTML file with its script, its style and all data in it, so that it needs no network."""

import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from prunebench.core.errors import InvalidInput
from prunebench.report import studies, tables
from prunebench.report.contents import draw, of_studies, only_studies
from prunebench.report.figure import Absent, Drawn, Figure
from prunebench.report.gather import Material, Source
from prunebench.report.glossary import GLOSSARY, anchor
from prunebench.report.interactive import has_bands, plot_json, shows_bands
from prunebench.report.reproduce import command, why_not
from prunebench.report.style import Looks
from prunebench.report.swatch import swatch
from prunebench.report.tables import Cell, Table

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the page may load: nothing. A browser enforces it."""

WATCH = """
(() => {
  const errors = [], root = document.documentElement;
  const note = (text) => { errors.push(String(text)); root.dataset.errors = JSON.stringify(errors); };
  root.dataset.errors = "[]";
  window.addEventListener("error", (event) => note(event.message));
  window.addEventListener("unhandledrejection", (event) => note(event.reason));
  document.addEventListener("securitypolicyviolation", (event) => note("blocked: " + event.blockedURI));
})();
"""
"""Notes what goes wrong in the page, so that a test can read it."""

LONG = 40
"""Texts longer than this may wrap in a table."""


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
    from plotly.offline import get_plotlyjs

    here = files("prunebench.report")
    looks = Looks(material.solvers)
    sections = _sections(material, looks)
    title = "prunebench report: " + ", ".join(dict.fromkeys(path.resolve().name for path in material.directories))
    contents = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>{text}</section>' for key, name, text in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{here.joinpath("page.css").read_text(encoding="utf-8")}</style>
<script>{WATCH}</script>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{_read(material)}
<noscript><p>The figures need JavaScript. For figures without: <code>prunebench report DIR --figures DIR --format svg
</code></p></noscript>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</header>
<main>
{body}
</main>
<script>{get_plotlyjs()}</script>
<script>{here.joinpath("page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _read(material: Material) -> str:
    """What the page is about, and what could not be read."""
    comparisons, runs = material.comparisons, material.runs
    solves = sum(len(comparison.frame) for comparison in comparisons)
    parts = []
    if comparisons:
        parts.append(f"{_counted(len(comparisons), 'comparison')} of solvers ({solves:,} rows)")
    if runs:
        parts.append(f"{_counted(len(runs), 'pruning run')}")
    if material.studies:
        held = len(material.studies)
        parts.append(f"{held} {'study' if held == 1 else 'studies'}")
    text = (
        f'<p class="subtle">About {" and ".join(parts)}. Click a name below a figure to hide or show it; hover over a '
    )
    text += "point for its values.</p>"
    going = [*(c.source for c in comparisons), *(r.source for r in runs)]
    for source in going:
        if source.finished and source.trouble:
            text += f'<p class="absent">{escape(source.trouble)}</p>'
        elif not source.finished:
            shown = escape(source.trouble) or "what is shown of it is from its events so far"
            text += (
                f'<p class="absent">{escape(str(source.path))} is not finished: {shown}. '
                f"Continue it with <code>prunebench resume {escape(str(source.path))}</code>.</p>"
            )
    for path, reason in material.unreadable:
        text += f'<p class="absent">{escape(str(path))} could not be read: {escape(reason)}</p>'
    return text


def _sections(material: Material, looks: Looks) -> list[tuple[str, str, str]]:
    """(anchor, heading, HTML) of every section."""
    out = _of_studies(material, looks)
    if not only_studies(material):
        out += _of_runs(material, looks)
    sources = [held.source for part in (material.comparisons, material.runs, material.studies) for held in part]
    out.append(("reproduce", "How to reproduce", _reproduce(sources)))
    entries = "".join(
        f'<dt id="{anchor(term)}">{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in GLOSSARY.items()
    )
    if not only_studies(material):
        out.append(("glossary", "Glossary", f"<dl>{entries}</dl>"))
    return out


def _of_studies(material: Material, looks: Looks) -> list[tuple[str, str, str]]:
    """A section for each study: its question, what is to be known of its numbers, its plots and tables."""
    out = []
    for number, (study, figures) in enumerate(zip(material.studies, of_studies(material), strict=True)):
        result = study.result
        text = f"<p>{escape(result['question'])} {escape(result['reference'])}</p>"
        text += "".join(f'<p class="absent">{escape(note)}</p>' for note in result["notes"])
        text += "".join(_table(table) for table in studies.tables(result, f"study-{number}-"))
        text += f'<div class="figures many">{"".join(_figure(figure, looks, True) for figure in figures)}</div>'
        out.append((f"study-{number}", studies.heading(study), text))
    return out


def _of_runs(material: Material, looks: Looks) -> list[tuple[str, str, str]]:
    """The sections about runs and comparisons."""
    out = []
    grouped: dict[str, list[Drawn]] = {}
    for drawn in draw(material):
        name = drawn.figures[0].section if drawn.figures else drawn.absent.section if drawn.absent else ""
        grouped.setdefault(name, []).append(drawn)
    for name, held in grouped.items():
        out.append((_key(name), name, "".join(_drawn(drawn, looks) for drawn in held)))
    further = (tables.controls(material.runs), tables.levels(material.runs), tables.smaller(material.runs))
    results = [
        *tables.summaries(material.comparisons), *tables.pruning(material.runs),
        *(table for table in further if table is not None),
    ]  # fmt: skip
    text = "".join(_table(table) for table in results)
    for table in tables.every_answer(material.comparisons):
        text += f"<details><summary>{escape(table.title)}</summary>{_table(table, heading=False)}</details>"
    out.append(("results", "Table of results", text))
    left = tables.skipped(material.comparisons)
    nothing = (
        "Nothing was skipped: every solver took every block."
        if material.comparisons
        else "There is no comparison, so nothing could be skipped."
    )
    out.append(("skipped", "What was skipped and why", _table(left, heading=False) if left else f"<p>{nothing}</p>"))
    unpruned = tables.left_out(material.runs)
    if unpruned:
        out.append(("left-out", unpruned.title, _table(unpruned, heading=False)))
    shared = tables.workers(material.runs)
    if shared:
        out.append(("workers", shared.title, _table(shared, heading=False)))
    return out


def _drawn(drawn: Drawn, looks: Looks) -> str:
    if drawn.absent is not None:
        return _absent(drawn.absent)
    many = " many" if len(drawn.figures) > 1 else ""
    captions = list(dict.fromkeys((figure.caption, figure.terms) for figure in drawn.figures))
    # What holds for all figures of a kind is said once, above them.
    shared = len(captions) == 1
    text = f"<p>{escape(captions[0][0])} {_terms(captions[0][1])}</p>" if shared else ""
    text += f'<div class="figures{many}">' + "".join(_figure(f, looks, not shared) for f in drawn.figures) + "</div>"
    return text + "".join(f'<p class="absent">{escape(note)}</p>' for note in drawn.notes)


def _absent(absent: Absent) -> str:
    return (
        f'<p class="absent">{escape(absent.title)}: {escape(absent.reason)}. To fill it: '
        f"<code>{escape(absent.command)}</code></p>"
    )


def _figure(figure: Figure, looks: Looks, captioned: bool) -> str:
    keys = "".join(
        f'<button type="button" class="key" aria-pressed="true" data-plot="{figure.id}" data-index="{index}">'
        f"{swatch(series, looks.of(series.key, series.variant))}<span>{escape(series.name)}</span></button>"
        for index, series in enumerate(figure.series)
    )
    if has_bands(figure):
        pressed = "true" if shows_bands(figure) else "false"
        keys += (
            f'<button type="button" class="key band" aria-pressed="{pressed}" data-plot="{figure.id}" '
            'data-index="band">95 % intervals</button>'
        )
    label = escape(f"{figure.title}, {figure.subtitle}")
    caption = f"{escape(figure.caption)} {_terms(figure.terms)} " if captioned else ""
    heading = escape(figure.subtitle)
    if figure.title != figure.section:
        heading = f'{escape(figure.title)} <span class="subtle">· {heading}</span>'
    return f"""<figure>
<h3>{heading}</h3>
<div class="plot" id="{figure.id}" role="img" aria-label="{label}"></div>
<script type="application/json" id="{figure.id}-data">{_inert(plot_json(figure, looks))}</script>
<div class="legend" role="group" aria-label="Series of {label}">{keys}</div>
<figcaption>{caption}{escape(figure.note)}</figcaption>
</figure>
"""


def _terms(terms: Sequence[str]) -> str:
    if not terms:
        return ""
    links = ", ".join(f'<a href="#{anchor(term)}">{escape(term)}</a>' for term in terms)
    return f'<span class="terms">Defined below: {links}.</span>'


def _table(table: Table, heading: bool = True) -> str:
    title = f"<h3>{escape(table.title)}</h3>" if heading else ""
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in table.columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    return (
        f"{title}<p>{escape(table.caption)} {_terms(table.terms)}</p>"
        f'<div class="scroll" tabindex="0"><table id="{table.id}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if cell.value is not None:
        return f'<td class="number" data-value="{float(cell.value)!r}">{escape(cell.text)}</td>'
    return f'<td class="long">{escape(cell.text)}</td>' if len(cell.text) > LONG else f"<td>{escape(cell.text)}</td>"


def _reproduce(sources: Iterable[Source]) -> str:
    text = "<p>The commands that ask for the same, with the versions, machine and seeds that each run wrote down. "
    text += "Times differ from machine to machine, and so do answers that a time limit cut short.</p>"
    held = list(sources)
    for source in held:
        asked = command(source.request) if "problem" in source.request else ""
        words = " ".join(f"<span>{escape(word)}</span>" for word in asked.split(" "))
        reason = why_not(source.request) if "problem" in source.request else "the table came without its run"
        line = f"<pre>{words}</pre>" if asked else f"<p>No command does it: {escape(reason)}.</p>"
        seeds = source.request.get("seeds")
        runs = f"; {_counted(int(seeds), 'run')} of each stochastic solver on each block" if seeds else ""
        text += f"<h3>{escape(str(source.path))}</h3>{line}<p class='subtle'>seed {source.seed}{escape(runs)}</p>"
    grouped: dict[str, list[str]] = {}
    for source in held:
        machine = ", ".join(f"{key} {value}" for key, value in {**source.versions, **source.machine}.items())
        grouped.setdefault(machine or "not written down", []).append(source.path.name)
    for machine, names in grouped.items():
        which = f" ({escape(', '.join(names))})" if len(grouped) > 1 else ""
        text += f"<p>Versions and machine{which}: {escape(machine)}</p>"
    return text


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _key(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _inert(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
