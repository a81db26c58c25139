"""Solvers against block size: the gap, success probability, time to solution, feasibility before repair."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prunebench import measures
from prunebench.core.arrays import FloatArray
from prunebench.report.anytime import COMPARE, GAP_FLOOR, by_solver, groups, with_marks
from prunebench.report.figure import Absent, Axis, Drawn, Figure, Series, linear_axis, log_axis, power
from prunebench.report.gather import Comparison

if TYPE_CHECKING:
    import pandas

GAP = "Gap against block size"
"""Title of the figure of gaps."""
SUCCESS = "Success probability"
"""Title of the figure of success probabilities."""
SOLUTION = "Time to solution"
"""Title of the figure of times to solution."""
FEASIBLE = "Feasibility before repair"
"""Title of the figure of feasible shares."""
ASIDE = 0.2
"""At each block size the solvers' points are spread over this part of a factor e, so that none hides another."""


def gap_against_size(comparisons: tuple[Comparison, ...]) -> Drawn:
    """The mean gap of the final answers with its 95 % interval, for each block size."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density"))):
            figures.append(_gaps(f"gap-{number}-{index}", words, part))
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(GAP, "Gap of the answers against block size", "there is no comparison", COMPARE))


def _gaps(name: str, words: str, part: "pandas.DataFrame") -> Figure:
    series = []
    solvers = list(by_solver(part))
    for place, (solver, rows) in enumerate(solvers):
        sizes, intervals, text = [], [], []
        for p, same in rows.groupby("p", sort=True):
            held = measures.mean_interval(same["gap"])
            if not np.isfinite(held.value):
                continue
            mark = "to the best bound" if (same["gap_to"] == "bound").all() else "* to the best known, no useful bound"
            proved = int((same["status"] == "optimal").sum())
            ended = int((same["status"] == "time_limit").sum())
            sizes.append(float(str(p)))
            intervals.append(held)
            text.append(
                f"p = {p}, gap {held.value:.3g} {mark}, {len(same)} runs, {proved} proved optimal, "
                f"{ended} ended at the time limit"
            )
        if not sizes:
            continue
        y = np.array([held.value for held in intervals])
        low = np.array([held.lower for held in intervals])
        high = np.array([held.upper for held in intervals])
        series.append(
            Series(
                with_marks(solver, rows), solver, "line", aside(sizes, place, len(solvers)), np.maximum(y, GAP_FLOOR),
                np.maximum(low, GAP_FLOOR), np.maximum(high, GAP_FLOOR), tuple(text),
            )
        )  # fmt: skip
    to_best = sorted({int(p) for p in part.loc[part["gap_to"] == "best", "p"]})
    sizes_said = ", ".join(map(str, to_best))
    return Figure(
        name, GAP, "Gap against block size", words,
        "The gap of the final answers to the best proven lower bound (0 is proved optimal, 1 what a random mask "
        "gives): mean over blocks and seeds with the 95 % interval. Lower is better. "
        f"Gaps below {power(GAP_FLOOR)} are drawn at {power(GAP_FLOOR)}; points stand a little aside of each other.",
        size_axis(part, series),
        log_axis("gap", [s.y for s in series] + [s.upper for s in series if s.upper is not None],
                 floor=GAP_FLOOR, least=GAP_FLOOR, most=1.0),
        tuple(series), ("gap", "confidence interval"),
        " ".join(
            [f"* at p = {sizes_said} gaps are to the best answer known, for want of a useful bound."] * bool(to_best)
            + ["† some runs ended at the time limit."] * bool((part["status"] == "time_limit").any())
        ),
    )  # fmt: skip


def aside(sizes: list[float], place: int, count: int) -> FloatArray:
    """Block sizes on a logarithmic axis, moved by the solver's place among `count`."""
    shift = ASIDE * (place / (count - 1) - 0.5) if count > 1 else 0.0
    return np.array([size * math.exp(shift) for size in sizes])


def success_probability(comparisons: tuple[Comparison, ...]) -> Drawn:
    """The share of a stochastic solver's runs that reach the target, with Wilson's interval, for each block size."""
    figures = []
    for number, comparison in enumerate(comparisons):
        target = float(comparison.source.request.get("target", measures.TARGET))
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density"))):
            random = part[part["stochastic"].astype(bool)]
            if len(random):
                figures.append(_success(f"success-{number}-{index}", words, random, target))
    if figures:
        return Drawn(tuple(figures))
    reason = "no stochastic solver has been compared"
    command = "prunebench compare digits-mlp --solver anneal --size 16 32 64 --seeds 10 --out DIR"
    return Drawn(absent=Absent(SUCCESS, "Success probability of stochastic solvers", reason, command))


def _success(name: str, words: str, part: "pandas.DataFrame", target: float) -> Figure:
    series = []
    solvers = list(by_solver(part))
    for place, (solver, rows) in enumerate(solvers):
        sizes, held, text = [], [], []
        for p, same in rows.groupby("p", sort=True):
            share = measures.share_interval(int(same["success"].sum()), len(same))
            sizes.append(float(str(p)))
            held.append((share.value, share.lower, share.upper))
            text.append(f"p = {p}, {int(same['success'].sum())} of {len(same)} runs")
        y, low, high = 100 * np.array(held).T
        series.append(Series(solver, solver, "line", aside(sizes, place, len(solvers)), y, low, high, tuple(text)))
    return Figure(
        name, SUCCESS, "Success probability", words,
        "The share of a stochastic solver's runs whose answer comes within the target gap to best, over blocks and "
        "seeds, with the 95 % interval. Higher is better; points stand a little aside of each other.",
        size_axis(part, series), linear_axis("runs that succeed (%)", [], include=(0.0, 100.0)), tuple(series),
        ("success probability", "gap to best", "confidence interval"), f"Target gap {target:g}.",
    )  # fmt: skip


def feasibility(comparisons: tuple[Comparison, ...]) -> Drawn:
    """The share of samples that keep the right number of weights before they are repaired."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density"))):
            known = part[part["feasible_before_repair"].notna()]
            if len(known):
                figures.append(_feasible(f"feasible-{number}-{index}", words, known))
    if figures:
        return Drawn(tuple(figures))
    reason = "no solver that reports raw samples has been compared"
    command = "prunebench compare digits-mlp --solver neal --solver tabu --size 16 32 64 --out DIR"
    return Drawn(absent=Absent(FEASIBLE, "Samples that are feasible before repair", reason, command))


def _feasible(name: str, words: str, part: "pandas.DataFrame") -> Figure:
    series = []
    solvers = list(by_solver(part))
    for place, (solver, rows) in enumerate(solvers):
        means = rows.groupby("p", sort=True)["feasible_before_repair"].mean()
        text = tuple(f"p = {p}, {100 * share:.3g} % of the samples" for p, share in means.items())
        sizes = [float(p) for p in means.index]
        y = 100 * means.to_numpy(dtype=np.float64)
        series.append(Series(solver, solver, "line", aside(sizes, place, len(solvers)), y, text=text))
    return Figure(
        name, FEASIBLE, "Feasibility before repair", words,
        "The share of a sampler's raw samples that keep exactly as many weights as asked, mean over blocks and "
        "seeds. The others are repaired before they are judged. Points stand a little aside of each other.",
        size_axis(part, series), linear_axis("feasible samples (%)", [], include=(0.0, 100.0)), tuple(series),
        ("feasibility rate",),
    )  # fmt: skip


def time_to_solution(comparisons: tuple[Comparison, ...]) -> Drawn:
    """The time to solution of the stochastic solvers against block size; "never" has a line of its own."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density"))):
            random = part[part["stochastic"].astype(bool)]
            if len(random):
                figures.append(_solution_times(f"tts-{number}-{index}", words, random))
    if figures:
        return Drawn(tuple(figures))
    reason = "no stochastic solver has been compared"
    command = "prunebench compare digits-mlp --solver anneal --size 16 32 64 --seeds 10 --out DIR"
    return Drawn(absent=Absent(SOLUTION, "Time to solution of stochastic solvers", reason, command))


def _solution_times(name: str, words: str, part: "pandas.DataFrame") -> Figure:
    from prunebench.comparison import table

    found: list[tuple[str, list[float], list[float]]] = []
    for solver, rows in by_solver(table.summary(part).sort_values("p", kind="stable")):
        found.append((solver, [float(p) for p in rows["p"]], [float(value) for value in rows["time_to_solution"]]))
    finite = np.array([value for _, _, times in found for value in times if np.isfinite(value)])
    held = finite if finite.size else np.array([1.0])
    never = 10.0 ** np.ceil(np.log10(held.max()) + 0.7)
    series = []
    for place, (solver, sizes, times) in enumerate(found):
        y = np.array([value if np.isfinite(value) else never for value in times])
        words_of = (f"{value:.3g} s" if np.isfinite(value) else "never reached the target" for value in times)
        text = tuple(f"p = {p:g}, {said}" for p, said in zip(sizes, words_of, strict=True))
        series.append(Series(solver, solver, "line", aside(sizes, place, len(found)), y, text=text))
    y_axis = log_axis("TTS at 99 %", [held], seconds=True, most=float(never))
    if any(not np.isfinite(value) for _, _, times in found for value in times):
        ticks = tuple(tick for tick in y_axis.ticks if tick[0] < never / 3)
        y_axis = Axis(y_axis.title, "log", y_axis.limits, (*ticks, (float(never), "never")), exact=False)
    seeds = part["seed"].nunique()
    return Figure(
        name, SOLUTION, "Time to solution", words,
        "Seconds of repeated runs until one of them has reached the target with 99 % probability, the median over "
        "the blocks of a size. Lower is better; “never” means that in half of the blocks or more no seed reached "
        "it. Points stand a little aside of each other.",
        size_axis(part, series), y_axis, tuple(series), ("time to solution", "success probability"),
        f"Estimated from {seeds} seeds a block.",
    )  # fmt: skip


def size_axis(part: "pandas.DataFrame", series: Sequence[Series] = ()) -> Axis:
    """A logarithmic axis of block sizes with a tick at each that occurs, thinned where they would touch."""
    sizes = sorted({int(p) for p in part["p"]})
    axis = log_axis("weights in the block (p)", [np.array(sizes, np.float64), *(s.x for s in series)])
    ticks: list[tuple[float, str]] = []
    span = np.log(axis.limits[1] / axis.limits[0]) if axis.limits else 1.0
    for size in sizes:
        if not ticks or np.log(size / ticks[-1][0]) > 0.08 * span:
            ticks.append((float(size), f"{size:,}"))
    return Axis(axis.title, "log", axis.limits, tuple(ticks), exact=False)
