"""What a study found: values, tables and curves that a file holds and a report shows. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.solution_file import plain

Kind = Literal["text", "number", "percent", "count", "interval"]
"""What a column holds. A percentage is a fraction of 1; an interval is (value, low, high)."""

Scale = Literal["linear", "log"]
"""How an axis is divided."""


@dataclass(frozen=True)
class Grid:
    """A table.

    key : names it among those of the study;  caption : what is in it and how to read it
    columns : a name and a kind each;  rows : a value for each column, None where there is none
    """

    key: str
    title: str
    caption: str
    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Curve:
    """One named line, cloud of points, or straight rule of a plot.

    x, y : (m,);  lower, upper : (m,), a band about it, or empty;  text : (m,), what a point tells, or ()
    """

    name: str
    kind: Literal["line", "points", "rule"]
    x: tuple[float, ...]
    y: tuple[float, ...]
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """Curves over two axes, each with a title and a scale; the words are as in `Grid`."""

    key: str
    title: str
    caption: str
    x: tuple[str, Scale]
    y: tuple[str, Scale]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Findings:
    """All that a study found.

    values : JSON-able, by name, in full precision;  notes : what was left out, or is to be known of the numbers
    """

    values: Mapping[str, Any]
    grids: tuple[Grid, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """As JSON-able values; what is no finite number becomes None."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def values_of(array: FloatArray | Sequence[float]) -> tuple[float, ...]:
    """Numbers of an array, as a plot takes them."""
    return tuple(float(value) for value in np.asarray(array).ravel())


def epochs_in_words(epochs: int) -> str:
    """A length of training for people."""
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"
