"""Foreign problems become blocks: the format is told by suffix or first bytes, or said."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from prunebench.core.arrays import whole_number
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.forms.foreign import dimod_models, lists, mps, qplib
from prunebench.forms.foreign.model import ForeignModel, Imported, block_of
from prunebench.forms.foreign.text import beginning, lines_of, require_file, suffix_of

READERS: dict[str, Callable[[Path], ForeignModel]] = {
    "lp": dimod_models.read_lp,
    "mps": mps.read_mps,
    "qplib": qplib.read_qplib,
    "bqm": dimod_models.read_bqm,
    "cqm": dimod_models.read_cqm,
    "coo": lists.read_coo,
    "qubo": lists.read_qubo,
    "qs": lists.read_qs,
    "maxcut": lists.read_cut,
}
"""Readers by the name of the format."""

SUFFIXES = {
    ".lp": "lp", ".mps": "mps", ".qps": "mps", ".qplib": "qplib", ".bqm": "bqm", ".cqm": "cqm", ".coo": "coo",
    ".qubo": "qubo", ".qs": "qs", ".mc": "maxcut", ".rud": "maxcut", ".rudy": "maxcut", ".gset": "maxcut",
}  # fmt: skip
"""Formats by suffix."""

BEGINNINGS = {b"DIMODBQM": "bqm", b"DIMODCQM": "cqm"}
"""Formats by their first bytes."""
FIRST_LINES = {
    r"#\s*vartype=": "coo", r"p qubo ": "qubo", r"# ObjectiveOffset": "qs", r"NAME\b": "mps", r"QPLIB_": "qplib",
    r"(?i)(min|max)(imi[sz]e)?\s*$": "lp",
}  # fmt: skip
"""Formats by a line among the first."""
LOOKED_AT = 50
"""Lines that are looked at."""


def import_block(source: Any, *, format: str | None = None, keep: int | None = None) -> Imported:
    """A problem that was written elsewhere as a block of mode select: it minimises f, the problem's value or minus it.

    Parameters
    ----------
    source : a file (LP, MPS, QPLIB, COO, .qubo, .qs, BQM, CQM, a Max-Cut list; .gz, .bz2 and .xz are unpacked), or a
             dimod.BinaryQuadraticModel or dimod.ConstrainedQuadraticModel
    format : one of READERS where suffix and first lines do not tell
    keep : how many variables are 1, for problems without a constraint; None: any number, by a budget that never binds

    Raises
    ------
    InvalidInput   no such file, another format, damage, or a problem that no block can be, with what was found in it
    """
    keep = None if keep is None else whole_number("keep", keep, 0)
    if isinstance(source, (str, Path)):
        path = Path(source)
        require_file(path, "a problem file")
        if format is not None and format not in READERS:
            raise unknown_name("format", format, READERS)
        return block_of(READERS[format or format_of(path)](path), keep)
    kind = type(source).__name__
    if hasattr(source, "constraints") and hasattr(source, "objective"):
        return block_of(dimod_models.of_cqm(source, kind), keep)
    if hasattr(source, "iter_quadratic") and hasattr(source, "change_vartype"):
        return block_of(dimod_models.of_bqm(source, kind), keep)
    raise InvalidInput(f"{kind} is no problem to import; give a file, a dimod BQM or a dimod CQM")


def format_of(path: Path) -> str:
    """The format of a file by its suffix, or its first bytes and lines.

    Raises
    ------
    InvalidInput   it cannot be told
    """
    if suffix_of(path) in SUFFIXES:
        return SUFFIXES[suffix_of(path)]
    begins = beginning(path, 8)
    if begins in BEGINNINGS:
        return BEGINNINGS[begins]
    first: list[str] = []
    for _, line in islice(lines_of(path), LOOKED_AT):
        for pattern, name in FIRST_LINES.items():
            if re.match(pattern, line):
                return name
        if line.strip() and not line.startswith(("#", "c ")):
            first.append(line)
    if len(first) > 1 and len(first[0].split()) == 2 and len(first[1].split()) in (2, 3):
        raise InvalidInput(
            f"{path}: two numbers and a list of pairs are a Max-Cut list (--format maxcut) or a QUBO (--format qs); "
            "say which"
        )
    raise InvalidInput(f"{path}: neither suffix nor first lines tell the format; say --format {', '.join(READERS)}")
