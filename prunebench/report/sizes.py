"""Solvers against block size: the gap, success probability, time to solution, feasibility before repair."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunebench import measures
from prunebench.comparison.table import times_to_solution
from prunebench.comparison.table import words as chosen_among
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
FEWEST_SIZES = 3
"""A growth with the block size is fitted to at least so many sizes: a line through two says nothing."""
SHIFTED = "Points of one block size are drawn side by side, so that none hides another."
"""What captions say of it."""


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
            held = measures.block_interval(same["gap"], list(same["block_hash"]))
            if not np.isfinite(held.value):
                continue
            mark = "to the best bound" if (same["gap_to"] == "bound").all() else "* to the best known"
            proved = int((same["status"] == "optimal").sum())
            ended = int((same["status"] == "time_limit").sum())
            sizes.append(float(str(p)))
            intervals.append(held)
            text.append(
                f"p = {p}, gap {held.value:.3g} {mark}, {len(same)} runs on {same['block_hash'].nunique()} blocks, "
                f"{proved} proved optimal, "
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
        "gives): mean over blocks and seeds with the 95 % interval over blocks, from 3 blocks on. Lower is better. "
        f"Gaps below {power(GAP_FLOOR)} are drawn at {power(GAP_FLOOR)}. {SHIFTED}",
        size_axis(part, series),
        log_axis("gap", [s.y for s in series] + [s.upper for s in series if s.upper is not None],
                 floor=GAP_FLOOR, least=GAP_FLOOR, most=1.0),
        tuple(series), ("gap", "confidence interval"),
        " ".join(
            [f"* at p = {sizes_said} the gap is to the best answer known: no solver proved a bound that says more."]
            * bool(to_best)
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
            few = same["block_hash"].nunique() < measures.FEWEST_BLOCKS
            sizes.append(float(str(p)))
            held.append((share.value, *((math.nan, math.nan) if few else (share.lower, share.upper))))
            text.append(f"p = {p}, {int(same['success'].sum())} of {len(same)} runs")
        y, low, high = 100 * np.array(held).T
        series.append(Series(solver, solver, "line", aside(sizes, place, len(solvers)), y, low, high, tuple(text)))
    return Figure(
        name, SUCCESS, "Success probability", words,
        "The share of a stochastic solver's runs whose answer comes within the target gap to best, over blocks and "
        f"seeds, with the 95 % interval from 3 blocks on. Higher is better. {SHIFTED}",
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
        "The share of a sampler's raw samples that keep exactly as many as asked, mean over blocks and "
        f"seeds. The others are repaired before they are judged. {SHIFTED}",
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
    found: list[tuple[str, dict[float, FloatArray]]] = []
    for solver, rows in by_solver(part):
        by_size = {float(str(p)): times_to_solution(same) for p, same in rows.groupby("p", sort=True)}
        found.append((solver, by_size))
    held = {solver: [measures.median_interval(times) for times in by_size.values()] for solver, by_size in found}
    known = [end for all_ in held.values() for one in all_ for end in (one.value, one.lower, one.upper)]
    finite = np.array([value for value in known if np.isfinite(value)] or [1.0])
    never = float(10.0 ** np.ceil(np.log10(finite.max()) + 0.7))
    series, fits, notes = [], [], []
    for place, (solver, by_size) in enumerate(found):
        intervals = held[solver]
        text = tuple(
            f"p = {p:g}, {_solution_words(one)}, {times.size} blocks"
            for (p, times), one in zip(by_size.items(), intervals, strict=True)
        )
        y, low, high = (
            np.array([never if np.isinf(value) else value for value in values])
            for values in zip(*((one.value, one.lower, one.upper) for one in intervals), strict=True)
        )
        series.append(Series(solver, solver, "line", aside(list(by_size), place, len(found)), y, low, high, text))
        fit = scaling(by_size)
        if fit is not None:
            notes.append(f"{solver} {fit.words}")
            fits.append(Series(f"{solver}, fitted", solver, "rule", fit.sizes, fit.times, variant=1))
    series += [fit for fit in fits if (fit.y < never).all()]
    y_axis = log_axis("TTS at 99 %", [finite], seconds=True, most=never)
    if any(np.isinf(value) for value in known):
        ticks = tuple(tick for tick in y_axis.ticks if tick[0] < never / 3)
        y_axis = Axis(y_axis.title, "log", y_axis.limits, (*ticks, (never, "never")), exact=False)
    seeds = part["seed"].nunique()
    return Figure(
        name, SOLUTION, "Time to solution", words,
        "Seconds of repeated runs until one of them has reached the target with 99 % probability, the median over "
        "the blocks of a size with its 95 % interval, from 3 blocks on. Lower is better; “never” means that in half of "
        f"the blocks or more no seed reached it. {SHIFTED} Lines without markers are fits over at least "
        f"{FEWEST_SIZES} sizes.",
        size_axis(part, series), y_axis, tuple(series), ("time to solution", "success probability"),
        f"Estimated from {seeds} seeds a block." + (f" Growth with p: {'; '.join(notes)}." if notes else ""),
    )  # fmt: skip


def _solution_words(held: measures.Interval) -> str:
    def said(value: float) -> str:
        return f"{value:.3g} s" if np.isfinite(value) else "never"

    if np.isinf(held.value):
        return "never reached the target"
    return said(held.value) + ("" if math.isnan(held.lower) else f" [{said(held.lower)}, {said(held.upper)}]")


@dataclass(frozen=True)
class Scaling:
    """How a time grows with the block size. words : for people;  sizes, times : float64 (m,), points of the fit"""

    words: str
    sizes: FloatArray
    times: FloatArray


def scaling(by_size: Mapping[float, FloatArray]) -> Scaling | None:
    """A power law or an exponential through the median times, whichever leaves less in logarithms; None for few sizes.

    by_size : by block size the times on its blocks, float (b,). Sizes whose median is infinite are left out.
    """
    medians = {p: measures.median_interval(times).value for p, times in by_size.items()}
    sizes = np.array([p for p, value in medians.items() if np.isfinite(value) and value > 0.0])
    if sizes.size < FEWEST_SIZES:
        return None
    logs = np.log([medians[float(p)] for p in sizes])
    (power_law, power_left), (growth, growth_left) = _line(np.log(sizes), logs), _line(sizes, logs)
    by_power = power_left <= growth_left
    line = power_law if by_power else growth
    # the slope under a fresh draw of each size's blocks
    slopes = _slopes(np.log(sizes) if by_power else sizes, [by_size[float(p)] for p in sizes])
    ends = "" if slopes is None else f" [{slopes[0]:.2g}, {slopes[1]:.2g}]"
    kind = "p to the power " if by_power else "e to the power p times "
    at = np.geomspace(sizes.min(), sizes.max(), 20)
    times = np.exp(line[0] * (np.log(at) if by_power else at) + line[1])
    other = "an exponential" if by_power else "a power law"
    left = "" if sizes.size == len(by_size) else f", over p = {sizes.min():g} to {sizes.max():g} alone"
    return Scaling(f"as {kind}{line[0]:.2g}{ends}{left} ({other} fits worse)", at, times)


def _line(x: FloatArray, y: FloatArray) -> tuple[FloatArray, float]:
    """The line of least squares and the sum of squares that it leaves."""
    line = np.polyfit(x, y, 1)
    return line, float(((np.polyval(line, x) - y) ** 2).sum())


def _slopes(x: FloatArray, times: Sequence[FloatArray]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the slope; None for too few blocks, or where a draw's median is infinite."""
    if any(held.size < measures.FEWEST_BLOCKS for held in times):
        return None
    rng = np.random.default_rng(measures.BOOTSTRAP_SEED)
    drawn = [np.median(held[rng.integers(held.size, size=(measures.RESAMPLES, held.size))], axis=1) for held in times]
    logs = np.log(np.array(drawn))
    if not np.isfinite(logs).all():
        return None
    centred = x - x.mean()
    low, high = np.quantile(centred @ logs / (centred @ centred), [0.025, 0.975])
    return float(low), float(high)


def size_axis(part: "pandas.DataFrame", series: Sequence[Series] = ()) -> Axis:
    """A logarithmic axis of block sizes with a tick at each that occurs, thinned where they would touch."""
    sizes = sorted({int(p) for p in part["p"]})
    axis = log_axis(f"{chosen_among(part)} in the block (p)", [np.array(sizes, np.float64), *(s.x for s in series)])
    ticks: list[tuple[float, str]] = []
    span = np.log(axis.limits[1] / axis.limits[0]) if axis.limits else 1.0
    for size in sizes:
        if not ticks or np.log(size / ticks[-1][0]) > 0.08 * span:
            ticks.append((float(size), f"{size:,}"))
    return Axis(axis.title, "log", axis.limits, tuple(ticks), exact=False)
