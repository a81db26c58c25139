"""A figure as plotly draws it: the JSON that the page hands to plotly.js."""

from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.report.figure import Axis, Figure, Series
from prunebench.report.style import Look, Looks

SYMBOLS = {
    "circle": "circle", "square": "square", "diamond": "diamond", "triangle-up": "triangle-up",
    "triangle-down": "triangle-down", "plus": "cross", "x": "x", "star": "star", "pentagon": "pentagon",
    "hexagon": "hexagon2", "hourglass": "hourglass",
}  # fmt: skip
"""plotly's symbol for each marker of report.style."""
TEXT_COLOUR, GRID_COLOUR = "#111111", "#dddddd"
MARKER_SIZE = 10
"""Pixels across."""
MOST_BARS = 20
"""Curves of more points than this have a band about them, others error bars."""

MOST_BANDS = 3
"""With more series than this, bands are hidden until they are asked for."""


def plot_json(figure: Figure, looks: Looks) -> str:
    """The figure as JSON with `data` and `layout`; every trace's meta.series is the series it belongs to."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for index, series in enumerate(figure.series):
        for trace in _traces(go, index, series, looks.of(series.key, series.variant), figure):
            drawn.add_trace(trace)
    drawn.update_layout(
        template="none",
        font={"color": TEXT_COLOUR, "family": "system-ui, sans-serif", "size": 14},
        margin={"l": 12, "r": 12, "t": 12, "b": 12},
        showlegend=False,
        hovermode="closest",
        hoverlabel={"namelength": -1},
        xaxis=_axis(figure.x),
        yaxis=_axis(figure.y),
        paper_bgcolor="white",
        plot_bgcolor="white",
        barmode="group",
        dragmode=False,
    )
    # plotly packs arrays as base64, which its script unpacks.
    text: str = drawn.to_json()
    return text


def _axis(axis: Axis) -> dict[str, Any]:
    held: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 8},
        "automargin": True,
        "gridcolor": GRID_COLOUR,
        "zerolinecolor": "#888888",
        "linecolor": "#666666",
        "showline": True,
        "ticks": "outside",
    }
    log = axis.scale == "log"
    held["type"] = "log" if log else "linear"
    if axis.limits is not None:
        held["range"] = [float(np.log10(limit)) if log else limit for limit in axis.limits]
    if axis.ticks:
        held["tickmode"] = "array"
        held["tickvals"] = [value for value, _ in axis.ticks]
        held["ticktext"] = [text for _, text in axis.ticks]
    else:
        held["nticks"] = 7
    if axis.scale == "category":
        held["showgrid"] = False
        held["zeroline"] = False
    return held


def _traces(go: Any, index: int, series: Series, look: Look, figure: Figure) -> list[Any]:
    meta = {"series": series.name, "index": index}
    group = {"legendgroup": f"s{index}", "name": series.name}
    if series.kind == "bar":
        pattern = {"shape": look.hatch, "bgcolor": look.colour, "fgcolor": "white", "solidity": 0.25}
        return [
            go.Bar(
                x=series.x, y=series.y, customdata=_text(series), meta=meta, hovertemplate=_hover(series, figure),
                marker={"color": look.colour, "pattern": pattern, "line": {"color": look.colour, "width": 1}}, **group,
            )
        ]  # fmt: skip
    if series.kind == "rule":
        line = {"color": look.colour, "dash": look.dash, "width": 2}
        return [go.Scatter(x=series.x, y=series.y, mode="lines", line=line, meta=meta, hoverinfo="name", **group)]
    shape = "hv" if series.kind == "step" else "linear"
    out: list[Any] = []
    # Few points have error bars, a curve of many has a band.
    dense = series.x.size > MOST_BARS
    if series.lower is not None and series.upper is not None and dense and np.isfinite(series.lower).any():
        upper_x, upper = _outline(series.x, series.upper, series.kind)
        lower_x, lower = _outline(series.x, series.lower, series.kind)
        x, y = np.concatenate([upper_x, lower_x[::-1]]), np.concatenate([upper, lower[::-1]])
        fill = {"fill": "toself", "fillcolor": _faint(look.colour), "line": {"width": 0}, "hoverinfo": "skip"}
        shown = shows_bands(figure)
        out.append(go.Scatter(x=x, y=y, mode="lines", meta={**meta, "band": True}, visible=shown, **fill, **group))
    symbol = SYMBOLS[look.marker] + ("" if look.filled else "-open")
    sizes: Any = MARKER_SIZE
    if series.marked is not None:
        sizes = np.zeros(series.x.size)
        sizes[list(series.marked)] = MARKER_SIZE
    bars = None
    if series.lower is not None and series.upper is not None and not dense:
        up, down = series.upper - series.y, series.y - series.lower
        bars = {"type": "data", "array": _known(up), "arrayminus": _known(down), "thickness": 1.5, "width": 4}
    out.append(
        go.Scatter(
            x=series.x, y=series.y, mode="markers" if series.kind == "points" else "lines+markers",
            line={"color": look.colour, "dash": look.dash, "width": 2.5, "shape": shape},
            marker={"color": look.colour, "symbol": symbol, "size": sizes, "opacity": 1,
                    "line": {"width": 1.5 if not look.filled else 0.5, "color": look.colour}},
            error_y=bars, customdata=_text(series), hovertemplate=_hover(series, figure), meta=meta, **group,
        )
    )  # fmt: skip
    return out


def _outline(x: FloatArray, y: FloatArray, kind: str) -> tuple[FloatArray, FloatArray]:
    """One edge of a band, with the corners of a step function; what is not known is left out."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    return (np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]) if kind == "step" else (x, y)


def has_bands(figure: Figure) -> bool:
    """Whether there are intervals that are drawn as bands."""
    return any(s.lower is not None and s.x.size > MOST_BARS and bool(np.isfinite(s.lower).any()) for s in figure.series)


def shows_bands(figure: Figure) -> bool:
    """Whether the bands are seen at first: many would hide each other and the curves."""
    return len(figure.series) <= MOST_BANDS


def _known(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)


def _text(series: Series) -> list[str] | None:
    return list(series.text) or None


def _hover(series: Series, figure: Figure) -> str:
    words = "%{customdata}<br>" if series.text else ""
    for axis, letter in ((figure.x, "x"), (figure.y, "y")):
        if axis.exact and axis.scale != "category":
            words += f"{axis.title}: %{{{letter}:.4~g}}<br>"
    return f"{words.removesuffix('<br>')}<extra>{_escape(series.name)}</extra>"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"
