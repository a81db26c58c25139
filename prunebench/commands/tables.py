"""Tables as text: ruled in a terminal, and plain where output is piped, the same for scripts everywhere."""

import sys
from collections.abc import Sequence
from io import StringIO


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts under heads. Columns whose head begins with '>' are aligned to the right."""
    return _ruled(heads, rows) if sys.stdout.isatty() else _plain(heads, rows)


def _plain(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, two blanks between."""
    lines = [[head.lstrip(">") for head in heads], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [str.rjust if head.startswith(">") else str.ljust for head in heads]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in lines
    )


def _ruled(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same with rules and wrapped cells, as wide as the terminal; without colours where NO_COLOR asks for it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ruled = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in heads:
        ruled.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left", overflow="fold")
    for row in rows:
        ruled.add_row(*map(Text, row))
    console = Console(file=StringIO(), force_terminal=True, width=Console().width)
    with console.capture() as captured:
        console.print(ruled)
    return captured.get().strip("\n")
