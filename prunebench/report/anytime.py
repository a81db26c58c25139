"""Solvers over time: the anytime curve and the performance profile."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench import measures
from prunebench.core.arrays import FloatArray
from prunebench.report.figure import Absent, Drawn, Figure, Series, linear_axis, log_axis, power, thinned
from prunebench.report.gather import Comparison

if TYPE_CHECKING:
    import pandas

GAP_FLOOR = 1e-6
"""Gaps below this, 0 among them, are drawn here on logarithmic axes, and the tick says so."""

TRACED = ("trace_seconds", "trace_objective", "best_objective", "random_mean")
"""Columns that the gap over time is made of."""

MOMENTS = 120
"""Points of a curve over time: a screen shows no more steps."""

MARKS = 6
"""Markers on a curve, so that it can be told by shape."""

COMPARE = "prunebench compare digits-mlp --solver anneal --solver branch-and-bound --size 16 32 64 --out DIR"
"""A command that makes what the figure needs, for the note where there is nothing to draw."""
QUALITY = "Quality against time"
"""Title of the anytime curves."""
PROFILE = "Performance profile"
"""Title of the performance profile."""


def groups(comparison: Comparison, by: tuple[str, ...]) -> "Iterator[tuple[str, pandas.DataFrame]]":
    """The solved rows in groups of equal columns, each with words for what they have in common."""
    from prunebench.comparison import table

    frame = comparison.frame[comparison.frame["skipped"] == ""]
    if frame.empty:
        return
    for values, part in frame.groupby(list(by), sort=True):
        held = dict(zip(by, values, strict=True))
        words = [str(held.get("problem", "")) or "blocks"]
        if held.get("select"):
            words.append(f"{held['select']} blocks")
        if "p" in held:
            words.append(f"{held['p']} {table.words(part)}")
        if "density" in held:
            words.append(f"density {held['density']:g}")
        if "mode" in held:
            words.append(f"mode {held['mode']}")
        yield ", ".join(words), part


def by_solver(part: "pandas.DataFrame") -> "Iterator[tuple[str, pandas.DataFrame]]":
    """The rows of each solver, in the order in which they were asked for."""
    for solver, rows in part.groupby("solver", sort=False):
        yield str(solver), rows


def with_marks(solver: str, rows: "pandas.DataFrame") -> str:
    """The solver's name with † if some of its runs were ended by the time limit and * if a gap is to the best known."""
    late = "†" if (rows["status"] == "time_limit").any() else ""
    return f"{solver}{late}{'*' if (rows['gap_to'] == 'best').any() else ''}"


def late(solver: str, rows: "pandas.DataFrame") -> str:
    """The solver's name with † if some of its runs were ended by the time limit."""
    return solver + ("†" if (rows["status"] == "time_limit").any() else "")


def quality_against_time(comparisons: tuple[Comparison, ...]) -> Drawn:
    """The mean gap to best of the incumbent at each moment, a figure for each problem, size and density."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density", "p"))):
            figures.append(_anytime(f"quality-{number}-{index}", words, part))
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(QUALITY, "Quality of the answers against time", "there is no comparison", COMPARE))


def _anytime(name: str, words: str, part: "pandas.DataFrame") -> Figure:
    first = min((float(t[0]) for t in part["trace_seconds"] if len(t)), default=1e-4)
    floor = max(1e-6, min(1e-2, first / 2))
    grid = measures.time_grid([list(t) for t in part["trace_seconds"]], points=MOMENTS, floor=floor)
    series = []
    for place, (solver, rows) in enumerate(by_solver(part)):
        curves = np.array([_gap_curve(row, grid) for row in rows[list(TRACED)].to_dict("records")])
        means = measures.by_block(curves, list(rows["block_hash"]))
        mean, (lower, upper) = means.mean(axis=0), measures.block_band(means)
        runs, blocks = len(rows), means.shape[0]
        text = tuple(f"mean of {runs} runs on {blocks} blocks, gap {value:.3g}" for value in mean)
        curve = Series(
            late(solver, rows), solver, "step", grid, np.maximum(mean, GAP_FLOOR), np.maximum(lower, GAP_FLOOR),
            np.maximum(upper, GAP_FLOOR), text, marked=_marks(grid.size, place),
        )  # fmt: skip
        series.append(thinned(curve))
    limit = float(part["time_limit"].max())
    stopped = int((part["status"] == "time_limit").sum())
    return Figure(
        name, QUALITY, "Quality against time", words,
        "How far the best answer found so far is from the best answer known (gap to best; 0 is the best known, 1 what "
        "a random mask gives), averaged over blocks and seeds; the band is the 95 % interval over blocks, from 3 "
        f"blocks on. Lower and further left is better. Gaps below {power(GAP_FLOOR)} are drawn at {power(GAP_FLOOR)}.",
        log_axis("seconds of solving", [grid], seconds=True),
        log_axis("gap to best", [s.y for s in series], floor=GAP_FLOOR, least=GAP_FLOOR, most=1.0),
        tuple(series), ("anytime curve", "gap to best", "confidence interval"),
        f"{part['block_hash'].nunique()} blocks; each solve had {limit:g} s"
        + (f"; † {stopped} of {len(part)} ended at that limit." if stopped else "."),
    )  # fmt: skip


def _gap_curve(row: Mapping[Any, Any], grid: FloatArray) -> FloatArray:
    gaps = measures.gap(np.asarray(row["trace_objective"], np.float64), row["best_objective"], row["random_mean"])
    return measures.curve(np.asarray(row["trace_seconds"], np.float64), gaps, grid, before=1.0)


def _marks(size: int, place: int) -> tuple[int, ...]:
    stride = max(1, size // MARKS)
    return tuple(range((5 * place) % stride, size, stride))


def performance_profile(comparisons: tuple[Comparison, ...]) -> Drawn:
    """Dolan and Moré's profile of the time to target over all blocks and seeds of each comparison."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode"))):
            figures.append(_profile(f"profile-{number}-{index}", words, part, comparison))
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(PROFILE, "Who solves how many blocks how fast", "there is no comparison", COMPARE))


def instance_costs(part: "pandas.DataFrame") -> dict[str, FloatArray]:
    """By solver the time to target on each (block, seed); a solver without seeds has one time for all of a block's.

    A solver that was skipped on a block, or never reached the target, has cost inf there.
    """
    blocks = list(dict.fromkeys(part["block_hash"]))
    seeds = sorted(set(part["seed"]))
    costs = {}
    for solver, rows in by_solver(part):
        held = {(row["block_hash"], row["seed"]): float(row["time_to_target"]) for row in rows.to_dict("records")}
        fixed = not bool(rows["stochastic"].any())
        costs[solver] = np.array(
            [held.get((block, 0 if fixed else seed), np.inf) for block in blocks for seed in seeds], dtype=np.float64
        )
    return costs


def _profile(name: str, words: str, part: "pandas.DataFrame", comparison: Comparison) -> Figure:
    costs = instance_costs(part)
    factors, shares = measures.performance_profile(costs)
    factors = np.append(factors, factors[-1] * 1.3)
    target = float(comparison.source.request.get("target", measures.TARGET))
    series = []
    rows_of = dict(by_solver(part))
    for place, (solver, values) in enumerate(shares.items()):
        held = 100 * np.append(values, values[-1])
        text = tuple(
            f"{share:.0f} % within {factor:.3g}× of the fastest" for share, factor in zip(held, factors, strict=True)
        )
        marks = _marks(factors.size, place) if factors.size > 2 * MARKS else None
        curve = Series(late(solver, rows_of[solver]), solver, "step", factors, held, text=text, marked=marks)
        series.append(thinned(curve) if marks else curve)
    count = next(iter(costs.values())).size
    lost = int(np.all([~np.isfinite(c) for c in costs.values()], axis=0).sum())
    return Figure(
        name, PROFILE, "Performance profile", words,
        "The share of the instances (blocks × seeds) on which a solver came within the target gap to best no later "
        "than τ times the fastest solver's time. At the left: how often it is the fastest; at the right: how often it "
        "gets there at all. Higher is better.",
        log_axis("τ, time relative to the fastest solver", [factors]),
        linear_axis("instances solved (%)", [], include=(0.0, 100.0)),
        tuple(series), ("performance profile", "time to target", "gap to best"),
        f"{count} instances, target gap {target:g}."
        + (f" No solver solved {lost} of them." if lost else "")
        + (" † some runs ended at the time limit." if (part["status"] == "time_limit").any() else ""),
    )  # fmt: skip
