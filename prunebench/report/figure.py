"""A figure as data: what is drawn, free of any plotting library. The page's script and matplotlib both read it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from prunebench.core.arrays import FloatArray

Kind = Literal["line", "step", "points", "bar", "rule"]
"""line, step and points are drawn at (x, y), bars along the axis that has no categories; a rule has no markers."""

LEAST, MOST = 1e-150, 1e150
"""Ends of a logarithmic axis, whatever is to be shown: beyond, the ratio of two values is no float64."""

NARROWEST = 1.05
"""A logarithmic axis about a single value spans this factor to both sides."""

MOST_TICKS = 7
"""Steps between the ticks of a linear axis, at most."""

SPREAD = 8.0
"""A linear axis hides most points where the largest value is further than this from the median one."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
"""Digits and minus sign as superscripts, for exponents of axis labels."""


@dataclass(frozen=True)
class Axis:
    """An axis: title, scale, range, and, where they are given, all its ticks as (position, label).

    limits and ticks are data values, also on a logarithmic axis. "category" takes series' x as positions 0, 1, …
    whose names are the ticks. `exact` says whether points stand at their values, or some at a floor or aside of it;
    then only a series' text tells the value.
    """

    title: str
    scale: Literal["linear", "log", "category"] = "linear"
    limits: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Series:
    """One named curve, cloud or group of bars.

    name : as the legend shows it;  key : what its colour, marker and dash belong to, the same in all figures
    x, y : float (m,);  lower, upper : float (m,) or None, a band about a line, error bars about points
    text : (m,) what hovering over a point tells beside its values, or ()
    labels : (m,) what is written beside bars, or ()
    variant : tells series of the same key within one figure apart (0, 1, …)
    marked : indices of a line's points that carry a marker, None for all
    """

    name: str
    key: str
    kind: Kind
    x: FloatArray
    y: FloatArray
    lower: FloatArray | None = None
    upper: FloatArray | None = None
    text: tuple[str, ...] = ()
    variant: int = 0
    marked: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the words that go with it.

    section : the heading it belongs under;  subtitle : which of the section's figures it is;
    caption : what is plotted and how to read it;  note : what is to be said of this one's data, or "";
    terms : names in the glossary that the caption links to
    """

    id: str
    section: str
    title: str
    subtitle: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    terms: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A figure that the data cannot fill, and the command that would fill it."""

    section: str
    title: str
    reason: str
    command: str


@dataclass(frozen=True)
class Drawn:
    """All figures of one kind: those that the data fill, or the reason why there is none."""

    figures: tuple[Figure, ...] = ()
    absent: Absent | None = None
    notes: tuple[str, ...] = field(default=())


def thinned(curve: Series) -> Series:
    """A step curve without the points at which nothing changes; both ends and marked points stay. It looks the same."""
    drawn = np.array([held for held in (curve.y, curve.lower, curve.upper) if held is not None])
    changed = (np.nan_to_num(np.diff(drawn, axis=1)) != 0.0).any(axis=0)
    kept = np.flatnonzero(np.concatenate([[True], changed]))
    marks = np.array(curve.marked or (), dtype=np.int64)
    kept = np.union1d(kept, np.append(marks, curve.x.size - 1))
    lower, upper = (held if held is None else held[kept] for held in (curve.lower, curve.upper))
    return replace(
        curve, x=curve.x[kept], y=curve.y[kept], lower=lower, upper=upper,
        text=tuple(curve.text[place] for place in kept) if curve.text else (),
        marked=None if curve.marked is None else tuple(int(place) for place in np.searchsorted(kept, marks)),
    )  # fmt: skip


def power(value: float) -> str:
    """A power of ten in words: 1, 0.1, 10⁻³."""
    exponent = round(math.log10(value))
    if -2 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(SUPERSCRIPTS)


def seconds_label(value: float) -> str:
    """Seconds in a unit that reads well: 10 µs, 1 ms, 0.1 s, 10 s, 1,000 s."""
    if value < 0.9e-3:
        return f"{value * 1e6:g} µs"
    if value < 0.09:
        return f"{value * 1e3:g} ms"
    return f"{value:,g} s"


def log_axis(
    title: str,
    values: Sequence[FloatArray],
    *,
    seconds: bool = False,
    percent: bool = False,
    floor: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Axis:
    """A logarithmic axis about the finite positive values, with at most about eight round ticks.

    floor : the value at which all that lie below it are drawn; its tick says so ("≤ 10⁻⁶").
    least, most : values that the axis must show
    """
    held = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in values] or [np.zeros(0)])
    held = np.clip(held[np.isfinite(held) & (held > 0.0)], LEAST, MOST)
    if held.size == 0:
        held = np.array([1.0])
    low, high = float(held.min()), float(held.max())
    low = min(low, least) if least is not None else low
    high = max(high, most) if most is not None else high
    if floor is not None:
        low = max(low, floor)
    # in logarithms: the ratio of two numbers that can be drawn may be too large for a float
    if math.log10(high) - math.log10(low) < math.log10(NARROWEST):
        low, high = low / NARROWEST, high * NARROWEST
    margin = 10.0 ** (0.04 * (math.log10(high) - math.log10(low)))
    low, high = low / margin, high * margin

    def words(value: float) -> str:
        if seconds:
            return seconds_label(value)
        if percent:
            return f"{100 * value:g} %"
        exponent = math.log10(value)
        return power(value) if abs(exponent - round(exponent)) < 1e-9 else f"{value:g}"

    ticks = [(value, words(value)) for value in _round_values(low, high)]
    if floor is not None and low < floor * (1 + 1e-9):
        ticks = [(floor, f"≤ {words(floor)}"), *((v, t) for v, t in ticks if v > floor * 2)]
    return Axis(title, "log", (low, high), tuple(ticks), exact=floor is None)


def linear_axis(title: str, values: Sequence[FloatArray], *, include: Sequence[float] = ()) -> Axis:
    """A linear axis about the finite values and `include`, with a margin."""
    held = np.concatenate([*(np.asarray(part, dtype=np.float64).ravel() for part in values), np.asarray(include)])
    held = held[np.isfinite(held)]
    low, high = (float(held.min()), float(held.max())) if held.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    return Axis(title, "linear", (low, high), tuple((value, f"{value:,.10g}") for value in _linear_values(low, high)))


def signed_scale(values: Sequence[FloatArray]) -> float | None:
    """Where a signed logarithmic scale is to turn linear, a power of ten; None where a linear scale shows all values.

    A linear scale does where the largest value is no more than SPREAD times the median one.
    """
    held = np.abs(np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in values]))
    held = held[np.isfinite(held) & (held > 0.0)]
    if held.size == 0 or held.max() <= SPREAD * np.median(held):
        return None
    return float(10.0 ** math.floor(math.log10(np.quantile(held, 0.25))))


def signed_log(values: FloatArray, unit: float) -> FloatArray:
    """Values of both signs with small and large ones to be seen: about v/unit near 0, decades of it far away."""
    out: FloatArray = np.sign(values) * np.log10(1.0 + np.abs(values) / unit)
    return out


def signed_axis(title: str, values: Sequence[FloatArray], unit: float) -> Axis:
    """The axis of values under `signed_log`: ticks at 0 and at powers of ten of both signs. values : as measured"""
    drawn = linear_axis(title, [signed_log(np.asarray(part), unit) for part in values], include=(0.0,))
    low, high = drawn.limits or (0.0, 1.0)
    decades = [unit * 10.0**exponent for exponent in range(math.ceil(max(-low, high)) + 1)]
    stride = max(1, len(decades) // 4)
    ticks = [(0.0, "0")]
    for value in decades[::stride]:
        at = float(signed_log(np.array(value), unit))
        ticks += [(sign * at, f"{'−' if sign < 0 else ''}{power(value)}") for sign in (1, -1)]
    return Axis(title, "linear", (low, high), tuple(sorted(t for t in ticks if low <= t[0] <= high)), exact=False)


def category_axis(title: str, names: Sequence[str]) -> Axis:
    """An axis with one place for each name."""
    return Axis(title, "category", (-0.6, len(names) - 0.4), tuple((float(i), name) for i, name in enumerate(names)))


def _linear_values(low: float, high: float) -> list[float]:
    """About five round values in a range: multiples of 1, 2 or 5 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if (high - low) / (factor * unit) <= MOST_TICKS)
    return [float(f"{i * step:.12g}") + 0.0 for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_values(low: float, high: float) -> list[float]:
    decades = math.log10(high) - math.log10(low)
    if decades < 0.5:
        step = 10.0 ** math.floor(math.log10((high - low) / 3))
        step *= next(factor for factor in (5.0, 2.0, 1.0) if factor * step <= (high - low) / 3)
        return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    steps: tuple[float, ...] = (1.0,)
    if decades < 1.2:
        steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades < 0.7 else (1.0, 2.0, 3.0, 5.0)
    elif decades < 2.2:
        steps = (1.0, 2.0, 5.0)
    stride = max(1, math.ceil(decades / 8))
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    exponents = [e for e in range(first, last + 1) if stride == 1 or e % stride == 0]
    values = [step * 10.0**e for e in exponents for step in steps]
    return [value for value in values if low <= value <= high]
