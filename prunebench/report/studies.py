"""Studies in a report: their tables and plots as the report's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.report.figure import Axis, Figure, Series, linear_axis, log_axis
from prunebench.report.gather import Study
from prunebench.report.style import REFERENCE
from prunebench.report.tables import Cell, Table, count, number, percent


def heading(study: Study) -> str:
    """What a study is called among the sections of a page."""
    return f"Study {study.result['study']}: {study.result['problem']}"


def tables(result: Mapping[str, Any], prefix: str = "") -> list[Table]:
    """The tables of a study's result. prefix : put before their keys, to tell studies of one page apart"""
    return [
        Table(
            f"{prefix}{grid['key']}", grid["title"], grid["caption"], tuple(name for name, _ in grid["columns"]),
            tuple(
                tuple(_cell(value, kind) for value, (_, kind) in zip(row, grid["columns"], strict=True))
                for row in grid["rows"]
            ),
        )
        for grid in result["grids"]
    ]  # fmt: skip


def figures(study: Study, prefix: str) -> tuple[Figure, ...]:
    """The plots of a study. prefix : put before their keys"""
    return tuple(_figure(plot, study, prefix) for plot in study.result["plots"])


def _figure(plot: Mapping[str, Any], study: Study, prefix: str) -> Figure:
    series = tuple(_series(curve) for curve in plot["curves"])
    x, y = (_axis(plot[axis], [getattr(one, axis) for one in series]) for axis in "xy")
    words = f"{plot['title']} ({study.result['problem']})"
    return Figure(
        f"{prefix}{plot['key']}", plot["title"], plot["title"], words, plot["caption"], x, y, series,
    )  # fmt: skip


def _axis(said: tuple[str, str], values: list[FloatArray]) -> Axis:
    title, scale = said
    return log_axis(title, values) if scale == "log" else linear_axis(title, values)


def _series(curve: Mapping[str, Any]) -> Series:
    x, y, lower, upper = (
        np.array([np.nan if value is None else value for value in curve.get(part, ())], dtype=np.float64)
        for part in ("x", "y", "lower", "upper")
    )
    banded = lower.size == upper.size == x.size > 0
    key = REFERENCE if curve["kind"] == "rule" else curve["name"]
    return Series(
        curve["name"], key, curve["kind"], x, y, lower if banded else None, upper if banded else None,
        tuple(curve.get("text", ())),
    )  # fmt: skip


def _cell(value: Any, kind: str) -> Cell:
    if kind == "text":
        return Cell("" if value is None else str(value))
    if kind == "interval":
        middle, low, high = value
        shown = number(middle, 3)
        return shown if low is None or high is None else Cell(f"{shown.text} [{low:.2g}, {high:.2g}]", shown.value)
    if value is None:
        return number(None)
    return count(value) if kind == "count" else percent(value) if kind == "percent" else number(value)
