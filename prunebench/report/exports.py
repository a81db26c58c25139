"""Tables for other programs: CSV for spreadsheets, LaTeX for papers. The page's script writes the same texts."""

import csv
import io
from pathlib import Path

from prunebench.core.errors import InvalidInput
from prunebench.report import studies, tables, verdict
from prunebench.report.gather import Material
from prunebench.report.tables import LAST, MOST_ROWS, Cell, Table

LATEX_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "†": r"\dag{}", "≤": r"$\leq$", "µ": r"\textmu{}",
    "×": r"$\times$", "τ": r"$\tau$", "·": r"$\cdot$", "“": "``", "”": "''", "…": r"\dots{}",
}  # fmt: skip
"""Signs that LaTeX reads otherwise than they look, and what stands for them."""


def every_table(material: Material, most: int | None = MOST_ROWS) -> list[Table]:
    """All tables of a report. most : answers in the tables of answers; None for all"""
    comparisons, runs = material.comparisons, material.runs
    verdicts = [verdict.table(one, index, verdict.verdicts(one)) for index, one in enumerate(comparisons)]
    single = (
        tables.controls(runs), tables.levels(runs), tables.smaller(runs), tables.skipped(comparisons),
        tables.left_out(runs), tables.workers(runs),
    )  # fmt: skip
    of_studies = [
        table
        for index, study in enumerate(material.studies)
        for table in studies.tables(study.result, f"study-{index}-")
    ]
    return [
        *of_studies, *verdicts, *tables.summaries(comparisons), *tables.pruning(runs),
        *tables.every_answer(comparisons, most), *(table for table in single if table is not None),
    ]  # fmt: skip


def plain(cell: Cell) -> str:
    """What a spreadsheet gets: the number where there is one; a value with its interval, and words, as shown."""
    if cell.value is None or "[" in cell.text:
        return cell.text
    if abs(cell.value) < LAST / 2:
        return digits(cell.value)
    return "" if cell.value == LAST else "inf" if cell.value > 0 else "-inf"


def digits(value: float) -> str:
    """A number with all its digits; whole ones without a fraction."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def csv_text(table: Table) -> str:
    """The table with a line of column names, fields quoted where they need it, "inf" for what is infinite."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([plain(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def latex_text(table: Table) -> str:
    """A tabular with the rules of the package booktabs, cells as the page shows them."""

    def line(texts: list[str]) -> str:
        return " & ".join("".join(LATEX_SIGNS.get(sign, sign) for sign in text) for text in texts) + " \\\\\n"

    body = "".join(line([cell.text for cell in row]) for row in table.rows)
    aligned = "".join("r" if numeric else "l" for numeric in numeric_columns(table))
    head = line(list(table.columns))
    return f"\\begin{{tabular}}{{{aligned}}}\n\\toprule\n{head}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers, in every row."""
    return [
        bool(table.rows) and all(row[place].value is not None for row in table.rows)
        for place in range(len(table.columns))
    ]


def write_tables(material: Material, folder: Path) -> list[Path]:
    """Write every table as KEY.csv and KEY.tex into a folder, and return the files.

    Raises
    ------
    InvalidInput   the folder cannot be made or written to
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in every_table(material, most=None):
            for ending, text in ((".csv", csv_text(table)), (".tex", latex_text(table))):
                written.append(folder / f"{table.id}{ending}")
                written[-1].write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}; choose another --tables") from error
    return written
