"""The pages about the suite in Markdown: its instances, and the scoreboard of committed files of results."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from prunebench.suite import results
from prunebench.suite.catalogue import Catalogue, Instance, catalogue
from prunebench.suite.results import Results
from prunebench.suite.table import MODES, board, mode_of
from prunebench.suite.words import LEGEND, main_table, markdown, size_table

TITLES = {"select": "Select", "refit": "Refit", "groups": "Groups"}
"""Headings of the parts of the suite."""


def instances_page(held: Catalogue | None = None) -> str:
    """A table of the instances by mode, and what they come from."""
    held = held or catalogue()
    parts = ["\n".join(f"- **{name}**: {what}" for name, what in held.origins.items())]
    for mode in MODES:
        rows: list[tuple[str, ...]] = [("instance", "p", "keep", "best known", "from", "left open", "proof", "about")]
        rows += [_instance(item) for item in held.instances if mode_of(item) == mode]
        parts.append(f"### {TITLES[mode]}\n\n{markdown(rows)}")
    proved = sum(item.proved for item in held.instances)
    files = sum(bool(item.proof) for item in held.instances)
    parts.append(
        f"{len(held.instances)} instances; {proved} proved, {len(held.instances) - proved} open. {files} proofs are in "
        f"the package. Version {held.version}, digest `{held.digest[:16]}…`."
    )
    return "\n\n".join(parts)


def _instance(item: Instance) -> tuple[str, ...]:
    left = "proved" if item.proved else "no bound" if item.gap is None else f"{item.gap:.1e}"
    proof = "in the package" if item.proof else item.bound_from.removeprefix("the ").replace(", found here", "")
    size = f"{item.keep}" if item.kind != "budget" else f"at most {item.keep}"
    return (
        f"`{item.name}`", str(item.p), size, f"{item.best:.6g}", f"`{item.best_from}`", left, proof, item.about,
    )  # fmt: skip


def scoreboard_page(folder: Path) -> str:
    """The tables of all files of results in a folder, and on what they were made.

    Raises
    ------
    InvalidInput   no files, files of another version of the suite, or of several limits
    """
    files = [results.read(file) for file in sorted(folder.glob("*.json"))]
    held = board(files, catalogue())
    parts = [f"Limit: {held.limit:g} s ({held.clock}) a solve. {_machines(files)}", "\n".join(f"- {t}" for t in LEGEND)]
    for mode in MODES:
        chosen = held.part(mode)
        if not chosen:
            continue
        parts.append(f"### {TITLES[mode]}: {len(chosen)} instances\n\n{markdown(main_table(held, chosen))}")
        parts.append(f"Mean ranks by size (instances), after a tenth of the limit and at it:\n\n"
                     f"{markdown(size_table(held, mode))}")  # fmt: skip
    parts.append(_refusals(files))
    return "\n\n".join(parts)


def _machines(files: Sequence[Results]) -> str:
    """On what the files were made: once, if all are alike."""
    told = {
        f"{held.machine.get('processor')}, {held.machine.get('cores')} cores, BLAS threads "
        f"{held.threads.get('OPENBLAS_NUM_THREADS', 'not limited')}, Python {held.machine.get('python')}, numpy "
        f"{held.versions.get('numpy')}, prunebench {held.versions.get('prunebench')}"
        for held in files
    }
    return "Machine: " + "; ".join(sorted(told)) + "."


def _refusals(files: Sequence[Results]) -> str:
    """Which solvers refused or failed, how often, and the first reason."""
    rows = [("solver", "refused", "failed", "for example")]
    for held in files:
        missing = [row for row in held.rows if not row.solved]
        if missing:
            failed = sum(row.failed for row in missing)
            rows.append(
                (
                    held.label,
                    str(len(missing) - failed),
                    str(failed),
                    textwrap.shorten(missing[0].skipped, 140, placeholder="…"),
                )
            )
    if len(rows) == 1:
        return "No solver refused an instance."
    return f"### Refused and failed\n\n{markdown(rows)}"
