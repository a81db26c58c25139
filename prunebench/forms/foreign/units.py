"""What prunebench's own exports say in their first lines of how their values relate to f."""

import re
from itertools import islice
from pathlib import Path

from prunebench.core.errors import InvalidInput
from prunebench.forms.foreign.text import at, lines_of, real
from prunebench.forms.program import Units

STATED = re.compile(r"value = scale \* \(f - constant\), scale = (\S+), constant = ([^\s;]+)")
"""How `Units.text` says it."""
FIRST_LINES = 3
"""Lines in which it may stand."""


def stated(path: Path) -> Units:
    """The units that the first lines of a file state; value = f where they state none.

    Raises
    ------
    InvalidInput   numbers that are none, or a scale that is not above 0
    """
    for number, line in islice(lines_of(path), FIRST_LINES):
        if found := STATED.search(line):
            scale, constant = (real(at(path, number), text) for text in found.groups())
            if scale <= 0.0:
                raise InvalidInput(f"{at(path, number)}: the scale is {scale}; it must be above 0")
            return Units(scale, constant)
    return Units()
