"""The .qplib format of QPLIB.

Furini et al.: QPLIB: a library of quadratic programming instances, Mathematical Programming Computation 11, 2019,
appendix B: values line by line, each list as a default, the number of exceptions, and the exceptions; what follows
`#` or `!` on a line is a comment. The objective is ½x'Qx + b'x + q, of Q the lower triangle.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.forms.foreign.model import ForeignModel, Range
from prunebench.forms.foreign.text import MOST_VARIABLES, at, lines_of, real, short, whole


def read_qplib(path: Path) -> ForeignModel:
    """The program of a .qplib file.

    Raises
    ------
    InvalidInput   no such file, no .qplib, one that is cut, or quadratic constraints
    """
    lines = _Lines(path)
    lines.words(1)
    kind = lines.words(1)[0].upper()
    if len(kind) != 3 or kind[0] not in "LDCQ" or kind[1] not in "CBMIG" or kind[2] not in "NBLDCQ":
        raise InvalidInput(f"{lines.where}: the problem's type is {short(kind)}; expected three letters such as QBL")
    sense = lines.words(1)[0].lower()
    if sense not in ("minimize", "maximize"):
        raise InvalidInput(f"{lines.where}: the sense is {short(sense)}; expected minimize or maximize")
    if kind[2] in "DCQ":
        raise InvalidInput(f"{path}: type {kind} has quadratic constraints; a block's constraints are linear")
    model, count = ForeignModel(str(path)), lines.count(MOST_VARIABLES)
    model.binaries(count, first=1)
    rows = lines.count(MOST_VARIABLES) if kind[2] == "L" else 0
    if kind[0] != "L":
        for i, j, value in lines.triples(count, count):
            model.product(i, j, 0.5 * value if i == j else value)
    model.linear = lines.vector(count)
    model.constant = lines.number()
    terms = list(lines.triples(rows, count)) if rows else []
    infinite = lines.number()
    if rows:
        model.rows = _rows(terms, lines.vector(rows), lines.vector(rows), infinite)
    if kind[1] != "B":
        model.lower, model.upper = (_open(lines.vector(count), infinite) for _ in range(2))
        model.whole = [kind[1] == "I"] * count
    if kind[1] in "MG":
        # 0 continuous, 1 integer, 2 binary
        kinds = lines.vector(count)
        model.whole = [code > 0.0 for code in kinds]
        for place, code in enumerate(kinds):
            if code == 2.0:
                model.lower[place], model.upper[place] = max(0.0, model.lower[place]), min(1.0, model.upper[place])
    # starting values of variables, of rows' multipliers and of bounds' multipliers
    for size in (count, *([rows] if rows else []), count):
        lines.vector(size)
    _rename(model, lines.names(count))
    if sense == "maximize":
        model.flip()
    return model


def _rename(model: ForeignModel, names: dict[int, str]) -> None:
    """Give variables the names that the file has for them."""
    renamed = [names.get(place, name) for place, name in enumerate(model.names)]
    if len(set(renamed)) != len(renamed):
        raise InvalidInput(f"{model.source}: two variables have one name")
    model.names = {name: place for place, name in enumerate(renamed)}


def _rows(terms: list[tuple[int, int, float]], least: list[float], most: list[float], infinite: float) -> list[Range]:
    held: dict[int, list[tuple[int, float]]] = {}
    for row, place, value in terms:
        held.setdefault(row, []).append((place, value))
    low, high = _open(least, infinite), _open(most, infinite)
    return [
        Range(
            f"c{row + 1}", np.array([place for place, _ in held.get(row, [])], dtype=np.int64),
            np.array([value for _, value in held.get(row, [])]), low[row], high[row],
        )
        for row in range(len(low))
    ]  # fmt: skip


def _open(values: list[float], infinite: float) -> list[float]:
    return [math.copysign(math.inf, value) if abs(value) >= infinite else value for value in values]


class _Lines:
    """The lines of a file that hold something, one after another."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        self._lines = self._held()

    def _held(self) -> Iterator[tuple[int, list[str]]]:
        for number, line in lines_of(self.path):
            words = line.partition("#")[0].partition("!")[0].split()
            if words:
                yield number, words

    def words(self, count: int) -> list[str]:
        """The first words of the next line.

        Raises
        ------
        InvalidInput   the file ends, or the line has fewer
        """
        number, words = next(self._lines, (0, []))
        if not words:
            raise InvalidInput(f"{self.path}: the file ends too early; is it cut?")
        self.where = at(self.path, number)
        if len(words) < count:
            raise InvalidInput(f"{self.where}: expected {count} words, not {len(words)}")
        return words[:count]

    def count(self, most: int) -> int:
        """How many of something there are."""
        (word,) = self.words(1)
        return whole(self.where, word, 0, most)

    def number(self) -> float:
        """One finite number."""
        (word,) = self.words(1)
        return real(self.where, word)

    def triples(self, first: int, second: int) -> Iterator[tuple[int, int, float]]:
        """How many, then that many lines of two places, from 1 on in the file, and a value."""
        for _ in range(self.count(1 << 40)):
            i, j, value = self.words(3)
            yield whole(self.where, i, 1, first) - 1, whole(self.where, j, 1, second) - 1, real(self.where, value)

    def vector(self, size: int) -> list[float]:
        """A default, how many entries differ from it, and these."""
        out = [self.number()] * size
        for _ in range(self.count(size)):
            place, value = self.words(2)
            out[whole(self.where, place, 1, size) - 1] = real(self.where, value)
        return out

    def names(self, size: int) -> dict[int, str]:
        """Places and their names, where the file still has some."""
        out = {}
        for _ in range(self.count(size)):
            place, name = self.words(2)
            out[whole(self.where, place, 1, size) - 1] = name
        return out
