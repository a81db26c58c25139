"""What a page of pruning runs opens with: which way of pruning keeps most at each density, by how much, how sure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.measures import Interval
from prunebench.report.gather import Run
from prunebench.report.runs import Quality, by_density, labels, quality_of, settings
from prunebench.report.tables import interval

FEWEST_SEEDS = 3
"""Fewer seeds than this say nothing of how seeds differ, so no interval is drawn from them."""


@dataclass(frozen=True)
class Way:
    """The finished runs that differ in their seed alone. reached : float64 (seeds,), in the quality's own unit"""

    name: str
    reached: FloatArray


def sentences(runs: Sequence[Run]) -> list[str]:
    """One for each problem and density at which there are at least two ways of pruning."""
    out = []
    for problem, density, same in by_density(run for run in runs if not run.of_groups):
        quality = quality_of(same)
        ways = _ways(same, quality)
        if len(ways) > 1:
            dense = next((held for run in same if (held := (run.result or {}).get(f"dense_{quality.key}"))), None)
            out.append(f"{problem}, density {density:g}: {_sentence(ways, quality, dense)}")
    return out


def _ways(runs: list[Run], quality: Quality) -> list[Way]:
    """The ways of pruning, best first."""
    held: dict[str, list[Run]] = {}
    for run in runs:
        if run.source.finished and (run.result or {}).get(quality.key) is not None:
            held.setdefault(settings(run), []).append(run)
    names = labels([members[0] for members in held.values()], ("density", "seed"))
    ways = [
        Way(names[members[0]][0], quality.factor * np.array([float((r.result or {})[quality.key]) for r in members]))
        for members in held.values()
    ]
    return sorted(ways, key=lambda way: float(way.reached.mean()) * (-1.0 if quality.higher_is_better else 1.0))


def _sentence(ways: list[Way], quality: Quality, dense: float | None) -> str:
    best, after = ways[0], ways[1]
    unit = " points" if quality.key == "accuracy" else ""
    what = quality.title.split(" (")[0]
    behind = difference(after, best) if quality.higher_is_better else difference(best, after)
    whole = f" (dense: {quality.words(dense)})" if dense is not None else ""
    text = f"{best.name} is best, {what} {quality.words(float(best.reached.mean()) / quality.factor)}{whole}"
    text += f"; next is {after.name}, {interval(behind).text}{unit} behind"
    fewest = min(best.reached.size, after.reached.size)
    if fewest < FEWEST_SEEDS:
        seeds = "one seed" if fewest == 1 else f"{fewest} seeds"
        return f"{text} ({seeds}: too few to say how sure)."
    return f"{text} ({'told apart' if behind.lower > 0.0 else 'the seeds do not tell them apart'})."


def difference(low: Way, high: Way) -> Interval:
    """The mean of `high` less that of `low`, with Welch's 95 % interval from FEWEST_SEEDS seeds of each on."""
    from scipy.stats import ttest_ind

    value = float(high.reached.mean() - low.reached.mean())
    if min(low.reached.size, high.reached.size) < FEWEST_SEEDS:
        return Interval(value, np.nan, np.nan)
    if np.ptp(low.reached) == 0.0 and np.ptp(high.reached) == 0.0:
        return Interval(value, value, value)
    found = ttest_ind(high.reached, low.reached, equal_var=False).confidence_interval(0.95)
    return Interval(value, float(found.low), float(found.high))
