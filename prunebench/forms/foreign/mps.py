"""MPS, fixed or free, with quadratic objectives: QUADOBJ, QSECTION and QMATRIX.

HiGHS' own reader leaves out products below 1e-9, or 1e-12 where it is told so; this one leaves out nothing. Names
must not hold blanks. A section that a block has no place for is refused by its name.

IBM: CPLEX file formats, "MPS file format"; Maros, Mészáros: A repository of convex quadratic programming problems,
Optimization Methods and Software 11, 1999 (QUADOBJ).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.forms.foreign.model import ForeignModel, Range
from prunebench.forms.foreign.text import at, lines_of, real, short
from prunebench.forms.foreign.units import stated

INFINITE = 1e20
"""Bounds and sides of this size are none."""
SENSES = ("N", "E", "L", "G")
"""Kinds of rows: the objective, =, <=, >=."""
BOUND_KINDS = {
    "BV": False,
    "FR": False,
    "MI": False,
    "PL": False,
    "UP": True,
    "LO": True,
    "FX": True,
    "UI": True,
    "LI": True,
}
"""Kinds of bounds, and whether a value stands behind them."""


def read_mps(path: Path) -> ForeignModel:
    """The program of an MPS file.

    Raises
    ------
    InvalidInput   no such file, no MPS, one without its end, or a section that is not known
    """
    reader = _Reader(path)
    for number, line in lines_of(path):
        if line.startswith(("*", "$")) or not line.strip():
            continue
        words = line.split()
        if line[0].isspace():
            reader.entry(number, words)
        elif reader.begin(number, words):
            return reader.finished()
    raise InvalidInput(f"{path}: its last line ENDATA is missing: the file is cut, or no MPS")


@dataclass
class _Row:
    sense: str
    name: str
    places: list[int] = field(default_factory=list)
    coefficients: list[float] = field(default_factory=list)
    side: float = 0.0
    span: float = math.nan


class _Reader:
    """The state of a file that is read line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = ForeignModel(str(path), units=stated(path))
        self.rows: dict[str, _Row] = {}
        self.objective = ""
        self.maximise = False
        self.integral = False
        self.bounded: set[int] = set()
        self.default: list[str] = []
        self.section = ""
        self.entries: dict[str, Callable[[str, list[str]], None]] = {
            "OBJSENSE": self._sense, "ROWS": self._row, "COLUMNS": self._column, "RHS": self._side,
            "RANGES": self._span, "BOUNDS": self._bound, "QUADOBJ": self._triangle, "QSECTION": self._triangle,
            "QMATRIX": self._matrix,
        }  # fmt: skip

    def begin(self, number: int, words: list[str]) -> bool:
        """Begin a section. -> whether the file ends here"""
        self.section = words[0].upper()
        where = at(self.path, number)
        if self.section == "OBJSENSE" and len(words) > 1:
            self._sense(where, words[1:])
        elif self.section == "QSECTION" and len(words) > 1 and words[1] not in ("OBJ", self.objective):
            raise InvalidInput(f"{where}: row {words[1]} is quadratic; a block's constraints are linear")
        elif self.section not in ("NAME", "ENDATA", *self.entries):
            raise InvalidInput(
                f"{where}: section {short(words[0])} is not known here; a block is made of {', '.join(self.entries)}"
            )
        return self.section == "ENDATA"

    def entry(self, number: int, words: list[str]) -> None:
        """One line of a section."""
        where = at(self.path, number)
        if self.section not in self.entries:
            raise InvalidInput(f"{where}: this line belongs to no section; is the file MPS?")
        self.entries[self.section](where, words)

    def finished(self) -> ForeignModel:
        """The program, its rows and senses put together."""
        model = self.model
        if not self.objective:
            raise InvalidInput(f"{self.path}: there is no objective: no row of kind N")
        for row in self.rows.values():
            if row.name == self.objective:
                model.constant = -row.side
            elif row.sense == "N":
                model.notes.append(f"row {row.name!r} of kind N is a second objective, or free, and is left out")
            else:
                least, most = _sides(row)
                model.rows.append(
                    Range(row.name, np.array(row.places, dtype=np.int64), np.array(row.coefficients), least, most)
                )
        if self.default:
            model.notes.append(
                f"{len(self.default)} integer variables have no bounds and are binary, as in CPLEX, Gurobi and HiGHS"
            )
        if self.maximise:
            model.flip()
        return model

    def _sense(self, where: str, words: list[str]) -> None:
        word = words[0].upper()
        if word not in ("MAX", "MAXIMIZE", "MAXIMISE", "MIN", "MINIMIZE", "MINIMISE"):
            raise InvalidInput(f"{where}: OBJSENSE is {short(words[0])}; expected MIN or MAX")
        self.maximise = word.startswith("MAX")

    def _row(self, where: str, words: list[str]) -> None:
        if len(words) != 2 or words[0].upper() not in SENSES:
            raise InvalidInput(f"{where}: expected a kind of row ({', '.join(SENSES)}) and a name without blanks")
        sense, name = words[0].upper(), words[1]
        if name in self.rows:
            raise InvalidInput(f"{where}: row {short(name)} stands twice")
        self.rows[name] = _Row(sense, name)
        if sense == "N" and not self.objective:
            self.objective = name

    def _column(self, where: str, words: list[str]) -> None:
        if len(words) == 3 and words[1].strip("'") == "MARKER":
            self.integral = words[2].strip("'") == "INTORG"
            return
        new = words[0] not in self.model.names
        place = self.model.variable(words[0], 0.0, 1.0 if self.integral else math.inf, self.integral)
        if new and self.integral:
            self.default.append(words[0])
        for name, value in self._pairs(where, words[1:]):
            row = self._named(where, name)
            if name == self.objective:
                self.model.linear[place] += value
            row.places.append(place)
            row.coefficients.append(value)

    def _side(self, where: str, words: list[str]) -> None:
        for name, value in self._pairs(where, words[len(words) % 2 :]):
            self._named(where, name).side = value

    def _span(self, where: str, words: list[str]) -> None:
        for name, value in self._pairs(where, words[len(words) % 2 :]):
            self._named(where, name).span = value

    def _bound(self, where: str, words: list[str]) -> None:
        kind = words[0].upper()
        if kind not in BOUND_KINDS:
            raise InvalidInput(
                f"{where}: bound {short(words[0])} is not known; expected one of {', '.join(BOUND_KINDS)}"
            )
        valued = BOUND_KINDS[kind]
        if not valued and len(words) == 4:
            words = words[:3]
        if len(words) not in ((3, 4) if valued else (2, 3)):
            raise InvalidInput(
                f"{where}: expected a kind of bound, the name of the set, a variable{' and a value' * valued}"
            )
        name = words[-2] if valued else words[-1]
        if name not in self.model.names:
            raise InvalidInput(f"{where}: there is no variable {short(name)}")
        place, lower, upper = self.model.names[name], self.model.lower, self.model.upper
        value = _infinite(real(where, words[-1])) if valued else 0.0
        if name in self.default:
            # bounds of its own: what the section leaves open is open again
            self.default.remove(name)
            upper[place] = math.inf
        if kind in ("LO", "LI", "FX"):
            lower[place] = value
        if kind in ("UP", "UI", "FX"):
            upper[place] = value
        if kind in ("BV", "UI", "LI"):
            self.model.whole[place] = True
        if kind == "BV":
            lower[place], upper[place] = 0.0, 1.0
        if kind in ("FR", "MI"):
            lower[place] = -math.inf

    def _triangle(self, where: str, words: list[str]) -> None:
        i, j, value = self._product(where, words)
        self.model.product(i, j, 0.5 * value if i == j else value)

    def _matrix(self, where: str, words: list[str]) -> None:
        i, j, value = self._product(where, words)
        self.model.product(i, j, 0.5 * value)

    def _product(self, where: str, words: list[str]) -> tuple[int, int, float]:
        if len(words) != 3:
            raise InvalidInput(f"{where}: expected two variables and a value, not {len(words)} words")
        for name in words[:2]:
            if name not in self.model.names:
                raise InvalidInput(f"{where}: there is no variable {short(name)}")
        return self.model.names[words[0]], self.model.names[words[1]], real(where, words[2])

    def _named(self, where: str, name: str) -> _Row:
        if name not in self.rows:
            raise InvalidInput(f"{where}: there is no row {short(name)}")
        return self.rows[name]

    def _pairs(self, where: str, words: list[str]) -> list[tuple[str, float]]:
        if not words or len(words) % 2:
            raise InvalidInput(f"{where}: expected names with a number each; names with blanks are not read")
        return [(name, real(where, value)) for name, value in zip(words[::2], words[1::2], strict=True)]


def _infinite(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= INFINITE else value


def _sides(row: _Row) -> tuple[float, float]:
    """least and most of a row by its sense, side and range."""
    side = _infinite(row.side)
    if math.isnan(row.span):
        return {"E": (side, side), "L": (-math.inf, side), "G": (side, math.inf)}[row.sense]
    wide = abs(row.span)
    if row.sense == "E":
        return (side, side + wide) if row.span >= 0.0 else (side - wide, side)
    return (side - wide, side) if row.sense == "L" else (side, side + wide)
