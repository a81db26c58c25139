"""Tables of the suite as rows of texts, and in Markdown."""

import math
from collections.abc import Sequence

from prunebench.measures import Interval
from prunebench.suite.catalogue import Instance
from prunebench.suite.table import SHARES, Board, Line, lines, ranks, sizes

HEADS = ("solver", "rank", "rank early", "gap", "primal integral", "answers", "solved", "proved", "alone")
"""Columns of a table of solvers."""


LEGEND = (
    "rank: mean rank over the instances, 1 the best, ties shared; no answer is the last rank. In brackets: 95 % "
    "bootstrap interval, none from fewer than three instances",
    f"rank early: the same at {SHARES[0]:g} of the limit. gap: mean gap to the best known value, 0 the best, 1 a "
    "random mask (groups: keeping nothing), anything worse, or no answer",
    "primal integral: mean over the limit of the best answer's gap; small is fast and good",
    "solved: instances whose best known value was reached. proved: by a bound of the solver's own. alone: instances on "
    "which nobody else was as good",
)
"""What the columns mean."""


def cells(line: Line, count: int) -> tuple[str, ...]:
    """A solver's line. count : the instances of the table"""
    late = f" ({line.overran} late)" if line.overran else ""
    return (
        line.solver,
        shown(line.rank, ".1f"),
        shown(line.early, ".1f"),
        shown(line.gap, ".1e"),
        shown(line.integral, ".3f"),
        f"{line.answered} of {count}{late}",
        str(line.solved),
        str(line.proved),
        str(line.alone),
    )


def shown(value: Interval, form: str) -> str:
    """A mean and its interval; "–" without either."""
    if math.isnan(value.value):
        return "–"
    spread = "" if math.isnan(value.lower) else f" [{value.lower:{form}}, {value.upper:{form}}]"
    return f"{value.value:{form}}{spread}"


def main_table(held: Board, chosen: Sequence[Instance]) -> list[tuple[str, ...]]:
    """Heads and rows of the table of some instances."""
    return [HEADS, *(cells(line, len(chosen)) for line in lines(held, chosen))]


def size_table(held: Board, mode: str) -> list[tuple[str, ...]]:
    """Mean ranks by size and moment: a column each."""
    parts = list(sizes(held, mode))
    heads = [f"{size} ({len(part)}), {_moment(held, share)}" for size, part in parts for share in range(len(SHARES))]
    columns = [ranks(held, part, share) for _, part in parts for share in range(len(SHARES))]
    order = [line.solver for line in lines(held, held.part(mode))][:-1]
    rows = [(solver, *(f"{column[solver].mean():.1f}" for column in columns)) for solver in order]
    return [("solver", *heads), *rows]


def _moment(held: Board, share: int) -> str:
    return f"{held.limit * SHARES[share]:g} s"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
