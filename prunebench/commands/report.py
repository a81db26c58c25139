"""Write one self-contained HTML page about runs, comparisons and studies, and their figures for print."""

import argparse
from pathlib import Path
from typing import Any

from prunebench.commands import arguments as shared
from prunebench.report.gather import gather

FORMATS = ("svg", "pdf", "png")
"""File formats that matplotlib writes figures in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The directories, and where to write."""
    parser.add_argument(
        "directories",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a run directory, a comparison, a study, or a folder of such",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.html", help="default: report.html in the first DIR")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also write every figure into this folder")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="also write every table here, as CSV and as LaTeX")
    parser.add_argument("--format", choices=FORMATS, default="svg", help="of the figures (default: svg)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read everything, write the page and, if asked for, the figures."""
    from prunebench.report.page import write

    out: Path = arguments.out or arguments.directories[0] / "report.html"
    say = shared.teller(arguments)
    material = gather(arguments.directories)
    shared.require_folder(out)
    for path, reason in material.unreadable:
        say(f"{path} could not be read: {reason}")
    sources = [held.source for part in (material.comparisons, material.runs, material.studies) for held in part]
    troubled = [source for source in sources if source.trouble]
    for source in troubled:
        say(f"{source.path}: {source.trouble}")
    figures: list[Path] = []
    if arguments.figures is not None:
        from prunebench import plot

        figures = plot.save_all(material, arguments.figures, arguments.format)
    written: list[Path] = []
    if arguments.tables is not None:
        from prunebench.report.exports import write_tables

        written = write_tables(material, arguments.tables)
    return {
        "report": str(write(material, out)),
        "comparisons": len(material.comparisons),
        "runs": len(material.runs),
        "studies": len(material.studies),
        "troubles": [{"directory": str(source.path), "reason": source.trouble} for source in troubled],
        "unreadable": [{"directory": str(path), "reason": reason} for path, reason in material.unreadable],
        "figures": [str(file) for file in figures],
        "tables": [str(file) for file in written],
    }


def text(result: dict[str, Any]) -> str:
    """Where everything is."""
    lines = [
        f"report       {result['report']}",
        f"comparisons  {result['comparisons']}",
        f"runs         {result['runs']}",
        f"studies      {result['studies']}",
    ]
    if result["figures"]:
        lines.append(f"figures      {len(result['figures'])} in {Path(result['figures'][0]).parent}")
    if result["tables"]:
        lines.append(f"tables       {len(result['tables'])} files in {Path(result['tables'][0]).parent}")
    lines += [f"trouble      {held['directory']}: {held['reason']}" for held in result["troubles"]]
    lines += [f"unreadable   {held['directory']}: {held['reason']}" for held in result["unreadable"]]
    return "\n".join(lines)
