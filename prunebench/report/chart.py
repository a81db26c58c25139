"""A figure as the page's own script (chart.js) draws it: plain JSON."""

import json
import os.path
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.report.figure import Axis, Figure, Series
from prunebench.report.style import Looks
from prunebench.report.swatch import outline

MOST_BARS = 20
"""Lines of more points than this have a band about them, others error bars; a step curve always has a band."""

MOST_BANDS = 3
"""With more series than this, bands are hidden until they are asked for."""

DIGITS = 5
"""Significant digits of what is drawn: more than a screen or a printer can show."""


def plot_json(figure: Figure, looks: Looks) -> str:
    """The figure as JSON: x, y (axes), series and whether bands are shown at first."""
    held = {
        "x": _axis(figure.x),
        "y": _axis(figure.y),
        "bands": shows_bands(figure),
        "series": [_series(series, looks) for series in figure.series],
    }
    return json.dumps(held, separators=(",", ":"), ensure_ascii=False)


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "title": axis.title,
        "scale": axis.scale,
        "limits": axis.limits,
        "ticks": axis.ticks,
        # hovering tells values only where points stand at them
        "exact": axis.exact and axis.scale != "category",
    }


def _series(series: Series, looks: Looks) -> dict[str, Any]:
    look = looks.of(series.key, series.variant)
    held: dict[str, Any] = {
        "name": series.name,
        "kind": series.kind,
        "x": _numbers(series.x),
        "y": _numbers(series.y),
        "colour": look.colour,
        "dark": look.on_dark,
        "dash": look.dash,
        "hatch": look.hatch,
        "filled": look.filled,
        "marker": outline(look.marker),
    }
    if series.text:
        # what all say is sent once
        held["before"] = os.path.commonprefix(series.text)  # noqa: RUF071 (letters are meant)
        held["text"] = [text.removeprefix(held["before"]) for text in series.text]
    if series.labels:
        held["labels"] = series.labels
    if series.marked is not None:
        held["marked"] = series.marked
    if series.lower is not None and series.upper is not None and np.isfinite(series.lower).any():
        held |= {"lower": _numbers(series.lower), "upper": _numbers(series.upper), "band": banded(series)}
    return held


def _numbers(values: FloatArray) -> list[float | None]:
    """Numbers for JSON, which has no NaN and no infinity: null stands for what is not drawn."""
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]


def banded(series: Series) -> bool:
    """Whether its intervals are drawn as a band, and not as a bar at each point."""
    return series.kind == "step" or series.x.size > MOST_BARS


def has_bands(figure: Figure) -> bool:
    """Whether there are intervals that are drawn as bands."""
    return any(s.lower is not None and banded(s) and bool(np.isfinite(s.lower).any()) for s in figure.series)


def shows_bands(figure: Figure) -> bool:
    """Whether the bands are seen at first: many would hide each other and the curves."""
    return len(figure.series) <= MOST_BANDS
