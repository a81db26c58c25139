"""The report's figures for print, by matplotlib: `prunebench.plot.quality_against_time(frame)` and so on.

Each function takes what `prunebench.compare` returned, a run directory, or several, and returns a matplotlib
figure with one panel for each problem, density or block size that the data hold. `save` writes vector files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.report import anytime, contents, gather, model, runs, sizes, style, verdict
from prunebench.report.chart import banded, shows_bands
from prunebench.report.figure import Axis, Drawn, Figure, Series
from prunebench.report.style import Look, Looks

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Source = Union["pandas.DataFrame", "gather.Material", Path, str, Sequence["Path | str"], Mapping[str, "Path | str"]]
"""A comparison's table, gathered material, a directory, or several; runs by the names that figures are to show."""

MARKERS: dict[str, Any] = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "plus": "P", "x": "X",
    "star": "*", "pentagon": "p", "hexagon": "h", "hourglass": [(-1, -1), (1, -1), (-1, 1), (1, 1), (-1, -1)],
}  # fmt: skip
"""matplotlib's marker for each marker of report.style."""
DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.5)), "dashdot": (0, (5, 1.5, 1, 1.5)), "longdash": (0, (9, 2)),
}  # fmt: skip
"""matplotlib's line style for each dash of report.style."""
HATCHES = {"": "", "/": "///", "\\": "\\\\\\", "x": "xxx", "-": "---", ".": "...", "+": "+++"}
"""matplotlib's hatch for each hatch of report.style, tripled so that it shows in print."""

PANEL = (5.2, 3.6)
"""Width and height of a panel in inches."""

MOST_COLUMNS = 2
"""Panels side by side; a page of a paper is two columns wide."""


def ranking(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Solvers on blocks, best first: bars of the mean gap to best at the time limit, with 95 % intervals."""
    return _draw(source, "comparisons", verdict.ranking, ax)


def quality_against_time(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Anytime curves of solvers on blocks: the mean gap to best against seconds, with 95 % bands."""
    return _draw(source, "comparisons", anytime.quality_against_time, ax)


def performance_profile(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Dolan and Moré's profile of the time to target."""
    return _draw(source, "comparisons", anytime.performance_profile, ax)


def time_to_solution(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The stochastic solvers' time to solution at 99 % against block size."""
    return _draw(source, "comparisons", sizes.time_to_solution, ax)


def gap_against_size(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The gap of the final answers against block size, with 95 % intervals."""
    return _draw(source, "comparisons", sizes.gap_against_size, ax)


def success_probability(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The stochastic solvers' success probability against block size, with Wilson's intervals."""
    return _draw(source, "comparisons", sizes.success_probability, ax)


def feasibility(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The share of samples that are feasible before repair against block size."""
    return _draw(source, "comparisons", sizes.feasibility, ax)


def model_against_true(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Each answer's change of the quadratic model against that of the network's own loss."""
    return _draw(source, "comparisons", model.answers, ax)


def steps_against_true(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Each iCBS step's predicted change of the loss against the true one."""
    return _draw(source, "runs", model.steps, ax)


def accuracy_against_time(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """Accuracy of the best network so far against seconds; one-shot baselines are points at their own times."""
    return _draw(source, "runs", runs.quality_against_time, ax)


def loss_against_time(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The acceptance loss of iCBS against seconds."""
    return _draw(source, "runs", runs.loss_against_time, ax)


def accuracy_against_density(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The final accuracy against density."""
    return _draw(source, "runs", runs.accuracy_against_density, ax)


def density_per_layer(source: Source, ax: "Axes | None" = None) -> "Drawing":
    """The share of each layer's weights that is kept."""
    return _draw(source, "runs", runs.density_per_layer, ax)


def colour(solver: str) -> str:
    """The colour that a built-in solver has in every figure and page, as "#RRGGBB". solver : with or without options

    Raises
    ------
    UnknownName   no built-in solver has the name; the message names the nearest
    """
    return style.colour(solver)


def save(drawing: "Drawing", file: Path | str) -> Path:
    """Write a figure; the ending says how: .svg and .pdf keep text as text and lines as lines, .png has 200 dpi.

    Raises
    ------
    InvalidInput   the folder does not exist, or matplotlib does not know the ending
    """
    import matplotlib

    path = Path(file)
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: the folder {path.parent} does not exist; create it first")
    known = drawing.canvas.get_supported_filetypes()
    ending = path.suffix.removeprefix(".").lower()
    if ending not in known:
        raise InvalidInput(f"{path}: {path.suffix or 'no ending'} is not known; use .svg, .pdf or .png")
    # Without a date and with a fixed salt the same figure gives the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "prunebench", "pdf.fonttype": 42}):
        drawing.savefig(path, dpi=200, metadata=undated, bbox_inches="tight")
    return path


def save_all(material: "gather.Material", folder: Path | str, ending: str = "svg") -> list[Path]:
    """Write every figure that the material fills into a folder, one file a panel, and return the files.

    Raises
    ------
    InvalidInput   the folder cannot be made
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be made: {error.strerror}; choose another --figures") from error
    looks = Looks(material.solvers)
    return [
        save(_panels([figure], looks, None), path / f"{figure.id}.{ending}")
        for figure in contents.every_figure(material)
    ]


def _draw(source: Source, part: str, make: Any, ax: "Axes | None") -> "Drawing":
    material = _material(source)
    drawn: Drawn = make(getattr(material, part))
    if drawn.absent is not None:
        raise InvalidInput(f"{drawn.absent.title}: {drawn.absent.reason}; to fill it: {drawn.absent.command}")
    if ax is not None and len(drawn.figures) > 1:
        which = "; ".join(figure.subtitle for figure in drawn.figures)
        raise InvalidInput(
            f"one axes is given and the data fill {len(drawn.figures)} panels ({which}); select rows first"
        )
    return _panels(drawn.figures, Looks(material.solvers), ax)


def _material(source: Source) -> "gather.Material":
    import pandas

    if isinstance(source, gather.Material):
        return source
    if isinstance(source, pandas.DataFrame):
        return gather.of_frame(source)
    if isinstance(source, Mapping):
        held = {name: gather.gather([directory]) for name, directory in source.items()}
        runs_ = tuple(replace(run, name=name) for name, material in held.items() for run in material.runs)
        comparisons = tuple(one for material in held.values() for one in material.comparisons)
        return gather.Material(comparisons, runs_, directories=tuple(Path(d) for d in source.values()))
    return gather.gather([source] if isinstance(source, (str, Path)) else list(source))


def _panels(figures: Sequence[Figure], looks: Looks, ax: "Axes | None") -> "Drawing":
    """The figures side by side with one legend below; or one figure in the axes given, its legend beside it."""
    if ax is not None:
        handles = _panel(ax, figures[0], looks)
        ax.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
        drawing = ax.get_figure(root=True)
        assert drawing is not None
        return drawing
    # Not pyplot: nothing is kept alive, and no window opens.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(MOST_COLUMNS, len(figures))
    rows = -(-len(figures) // columns)
    names = list(dict.fromkeys(series.name for figure in figures for series in figure.series))
    # A name of 9 points takes about 0.075 inches a letter, beside a handle of 0.6.
    per_row = max(1, min(len(names), int(PANEL[0] * columns / (0.6 + 0.075 * max(map(len, names))))))
    legend = 0.25 * -(-len(names) // per_row)
    drawing = Canvas(figsize=(PANEL[0] * columns, PANEL[1] * rows + legend), layout="constrained")
    FigureCanvasAgg(drawing)
    grid = drawing.subplots(rows, columns, squeeze=False)
    held: dict[str, Any] = {}
    for place, figure in enumerate(figures):
        for name, handle in _panel(grid[place // columns][place % columns], figure, looks).items():
            held.setdefault(name, handle)
    for place in range(len(figures), rows * columns):
        grid[place // columns][place % columns].set_axis_off()
    drawing.legend(
        held.values(), held.keys(), loc="outside lower center", ncols=per_row, frameon=False, fontsize=9, handlelength=3
    )
    return drawing


def _panel(ax: "Axes", figure: Figure, looks: Looks) -> dict[str, Any]:
    """Draw one figure into axes; the handles of its legend by name."""
    bars = [series for series in figure.series if series.kind == "bar"]
    handles: dict[str, Any] = {}
    for series in figure.series:
        look = looks.of(series.key, series.variant)
        if series.kind == "bar" and figure.y.scale == "category":
            handles[series.name] = _lying_bars(ax, series, look)
        elif series.kind == "bar":
            handles[series.name] = _bars(ax, series, look, bars.index(series), len(bars))
        else:
            handles[series.name] = _curve(ax, series, look, shows_bands(figure))
    _shape(ax, figure.x, "x")
    _shape(ax, figure.y, "y")
    # names on the left leave less room for what stands above
    ax.set_title(_wrapped(figure.subtitle, 44 if figure.y.scale == "category" else 60), fontsize=10)
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return handles


def _curve(ax: "Axes", series: Series, look: Look, shown: bool) -> Any:
    line = "none" if series.kind == "points" else DASHES[look.dash]
    marker = None if series.kind == "rule" else MARKERS[look.marker]
    style = "steps-post" if series.kind == "step" else "default"
    handle, = ax.plot(
        series.x, series.y, color=look.colour, linestyle=line, linewidth=1.6, drawstyle=style, marker=marker,
        markersize=6, markerfacecolor=look.colour if look.filled else "white", label=series.name,
        markevery=None if series.marked is None else list(series.marked), clip_on=True,
    )  # fmt: skip
    if series.lower is None or series.upper is None or not np.isfinite(series.lower).any():
        return handle
    if banded(series):
        if shown:
            step: Literal["post"] | None = "post" if series.kind == "step" else None
            ax.fill_between(series.x, series.lower, series.upper, step=step, color=look.colour, alpha=0.15, linewidth=0)
    else:
        spread = np.nan_to_num(np.maximum([series.y - series.lower, series.upper - series.y], 0.0))
        ax.errorbar(series.x, series.y, yerr=spread, fmt="none", ecolor=look.colour, elinewidth=1.0, capsize=2.5)
    return handle


def _bars(ax: "Axes", series: Series, look: Look, place: int, count: int) -> Any:
    width = 0.8 / count
    x = series.x + (place - (count - 1) / 2) * width
    return ax.bar(
        x, series.y, width, color=look.colour, hatch=HATCHES[look.hatch], edgecolor="white", linewidth=0.3,
        label=series.name,
    )  # fmt: skip


def _lying_bars(ax: "Axes", series: Series, look: Look) -> Any:
    """Bars along a horizontal axis, with their intervals and what is written beside them."""
    handle = ax.barh(series.y, series.x, 0.62, color=look.colour, label=series.name)
    ends = series.x
    if series.lower is not None and series.upper is not None and np.isfinite(series.lower).all():
        spread = np.maximum([series.x - series.lower, series.upper - series.x], 0.0)
        ax.errorbar(series.x, series.y, xerr=spread, fmt="none", ecolor="#111111", elinewidth=1.0, capsize=2.5)
        ends = series.upper
    for end, y, words in zip(ends, series.y, series.labels, strict=False):
        ax.annotate(words, (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    return handle


def _shape(ax: "Axes", axis: Axis, which: str) -> None:
    """Title, scale, limits and ticks of one axis."""
    from matplotlib.ticker import NullFormatter, NullLocator

    held = ax.xaxis if which == "x" else ax.yaxis
    set_scale, set_limits, set_title = (
        (ax.set_xscale, ax.set_xlim, ax.set_xlabel) if which == "x" else (ax.set_yscale, ax.set_ylim, ax.set_ylabel)
    )
    set_title(axis.title)
    if axis.scale == "log":
        set_scale("log")
    if axis.limits is not None:
        set_limits(*axis.limits)
    if axis.ticks:
        long = which == "x" and axis.scale == "category" and sum(len(text) for _, text in axis.ticks) > 40
        held.set_ticks([value for value, _ in axis.ticks], labels=[text for _, text in axis.ticks])
        held.set_minor_locator(NullLocator())
        held.set_minor_formatter(NullFormatter())
        if long:
            for label in held.get_ticklabels():
                label.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")
    else:
        ax.locator_params(axis="x" if which == "x" else "y", nbins=6)


def _wrapped(text: str, letters: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, letters))
