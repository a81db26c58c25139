"""What a comparison measures, each measure defined once: docs, tables, plots and reports take it from here.

`GLOSSARY` holds the definitions for readers; the functions compute them, the gap by the core's own formula. Arrays are
float64.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.gap import gap as gap

TARGET = 1e-3
"""The gap to the best known objective at which a solve counts as a success, unless another is asked for."""

CONFIDENCE = 0.99
"""The confidence of the time to solution, as the annealing literature has it."""

GLOSSARY: Mapping[str, str] = {
    "gap": "(objective − reference)/(random mean − reference): 0 is the reference, 1 is what a random mask gives. The "
    "reference is the best lower bound that any solver proved; where no useful one is known, the best objective that "
    "any solver found, and then the gap is marked with an asterisk.",
    "gap to best": "The same with the best objective known of the block as reference, whether proved or not. "
    "Curves over time, time to target and success are measured by it.",
    "relative gap": "(objective − best lower bound)/|objective|: what MIP solvers print. It depends on the constant "
    "in the objective.",
    "random mean": "The mean objective over uniformly random masks with the block's keep count, in closed form.",
    "approximation ratio": "(worst − objective)/(worst − best) over all feasible masks: 1 is the optimum, 0 the worst "
    "mask. Given where all masks of the block were enumerated.",
    "anytime curve": "The gap to best of the incumbent at each moment, averaged over blocks and seeds; before the "
    "first incumbent it is 1.",
    "primal integral": "The mean over the time limit of the incumbent's gap to best, capped at 1 (after Berthold, "
    "Operations Research Letters 2013, with the random mean as scale): small is fast and good.",
    "time to target": "Seconds until the incumbent's gap to best reached the target; infinite if it never did.",
    "success probability": "The share of runs (seeds) that reached the target, with its 95 % Wilson interval.",
    "time to solution": "TTS = t·ln(1 − 0.99)/ln(1 − P): the expected time of repeated runs until one has succeeded "
    "with probability 0.99, P the success probability on a block and t the mean seconds of its runs, each of which "
    "counts until it reaches the target; t itself where P ≥ 0.99, infinite where P = 0 (Rønnow et al., Science 2014).",
    "feasibility rate": "The share of a sampler's raw samples that keep exactly as many weights as asked, "
    "before repair.",
    "model change": "The objective minus the incumbent's (magnitude pruning): what the quadratic model promises.",
    "true change": "The same for the network's own mean loss on validation samples, the rest of the network dense.",
    "performance profile": "ρ(τ): the share of instances on which a solver's time to target is within a factor τ of "
    "the fastest solver's (Dolan and Moré, Mathematical Programming 2002).",
    "confidence interval": "95 %. For means and medians over blocks by bootstrap: blocks are drawn with replacement, "
    "each with all its seeds, so what a block's seeds share does not count twice. Wilson's for shares of runs, "
    "Student's t for means over the seeds of pruning runs. Fewer than 3 blocks give no interval, and from a handful it "
    "is on the short side.",
}
"""Every measure with its definition, as the docs, tables and reports print it."""


FEWEST_BLOCKS = 3
"""Fewer blocks than this say nothing of how blocks differ, so no interval is drawn from them."""

RESAMPLES = 2000
"""Draws of the bootstrap: the ends of a 95 % interval then vary by some hundredths of its length from seed to seed."""

BOOTSTRAP_SEED = 20260
"""The bootstrap's draws are the same in every report."""


@dataclass(frozen=True)
class Interval:
    """A mean or share with its confidence interval; NaN bounds where one value gives none."""

    value: float
    lower: float
    upper: float


def relative_gap(objective: float, lower_bound: float) -> float:
    """(objective − lower bound)/|objective|; 0 where both are 0, inf without a bound."""
    if not math.isfinite(lower_bound):
        return math.inf
    excess = max(objective - lower_bound, 0.0)
    return excess / abs(objective) if objective else (0.0 if excess == 0.0 else math.inf)


def approximation_ratio(objective: float, best: float, worst: float) -> float:
    """(worst − objective)/(worst − best); 1 where all masks are alike, NaN where the worst is not known."""
    if not math.isfinite(worst):
        return math.nan
    return (worst - objective) / (worst - best) if worst > best else 1.0


def curve(seconds: npt.ArrayLike, objectives: npt.ArrayLike, at: npt.ArrayLike, before: float = math.nan) -> FloatArray:
    """The incumbent's value at the moments `at` (a step function); `before` where there was none yet.

    seconds, objectives : float (r,), the trace, seconds rising;  at : float (t,)  ->  float64 (t,)
    """
    times, values = np.asarray(seconds, dtype=np.float64), np.asarray(objectives, dtype=np.float64)
    if times.shape != values.shape or times.ndim != 1:
        raise InvalidInput(f"seconds have shape {times.shape} and objectives {values.shape}; expected the same (r,)")
    held = np.searchsorted(times, np.asarray(at, dtype=np.float64), side="right") - 1
    if times.size == 0:
        return np.full(held.shape, before)
    return np.where(held >= 0, values[np.maximum(held, 0)], before)


def primal_integral(seconds: npt.ArrayLike, gaps: npt.ArrayLike, time_limit: float) -> float:
    """The mean over [0, time_limit] of the incumbent's gap capped at 1, which it is before the first incumbent.

    seconds, gaps : float (r,), the trace. What happened after the limit is left out.
    """
    if not time_limit > 0.0 or math.isinf(time_limit):
        raise InvalidInput(f"time limit is {time_limit}; a primal integral needs a finite one above 0")
    times = np.clip(np.asarray(seconds, dtype=np.float64), 0.0, time_limit)
    values = np.minimum(np.asarray(gaps, dtype=np.float64), 1.0)
    edges = np.concatenate([[0.0], times, [time_limit]])
    return float(np.diff(edges) @ np.concatenate([[1.0], values]) / time_limit)


def time_to_target(seconds: npt.ArrayLike, gaps: npt.ArrayLike, target: float = TARGET) -> float:
    """Seconds at which the gap was first at most `target`; inf if it never was."""
    reached = np.flatnonzero(np.asarray(gaps, dtype=np.float64) <= target)
    return float(np.asarray(seconds, dtype=np.float64)[reached[0]]) if reached.size else math.inf


def time_to_solution(mean_seconds: float, success: float, confidence: float = CONFIDENCE) -> float:
    """t·ln(1 − confidence)/ln(1 − P); t where P reaches the confidence, inf where P is 0."""
    if not 0.0 <= success <= 1.0:
        raise InvalidInput(f"success probability is {success}; expected 0 to 1")
    if success <= 0.0:
        return math.inf
    if success >= confidence:
        return mean_seconds
    return mean_seconds * math.log(1.0 - confidence) / math.log(1.0 - success)


def mean_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The mean with Student's t interval; finite values only are taken."""
    from scipy.stats import t

    held = np.asarray(values, dtype=np.float64)
    held = held[np.isfinite(held)]
    if held.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(held.mean())
    if held.size == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(t.ppf(0.5 + level / 2.0, held.size - 1) * held.std(ddof=1) / math.sqrt(held.size))
    return Interval(mean, mean - half, mean + half)


def resampled(blocks: int) -> npt.NDArray[np.int64]:
    """Blocks drawn with replacement, a row a draw, the same in every call. -> int64 (RESAMPLES, blocks)"""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(blocks, size=(RESAMPLES, blocks))


@functools.lru_cache(maxsize=8)
def block_weights(blocks: int) -> FloatArray:
    """What each block weighs in each draw; times the blocks' values these are the draws' means.

    -> float64 (RESAMPLES, blocks), rows of sum 1; read-only
    """
    draws = resampled(blocks)
    weights = np.array([np.bincount(draw, minlength=blocks) for draw in draws]) / blocks
    weights.flags.writeable = False
    return weights


def by_block(values: npt.ArrayLike, blocks: Sequence[object]) -> FloatArray:
    """The mean of each block's values over its seeds, in the order in which blocks first occur.

    values : float (runs,) or (runs, t);  blocks : (runs,), what tells each run's block  ->  float64 (b,) or (b, t)
    """
    held = np.asarray(values, dtype=np.float64)
    places: dict[object, list[int]] = {}
    for place, block in enumerate(blocks):
        places.setdefault(block, []).append(place)
    return np.array([held[rows].mean(axis=0) for rows in places.values()])


def block_band(means: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Ends of the bootstrap interval of the mean over blocks, for each column; NaN for fewer than FEWEST_BLOCKS.

    means : float (b, t), a row a block  ->  two of float64 (t,). A mean of draws never leaves the range of what was
    measured, so the ends are values that can be.
    """
    if means.shape[0] < FEWEST_BLOCKS:
        unknown = np.full(means.shape[1], np.nan)
        return unknown, unknown.copy()
    tail = (1.0 - level) / 2.0
    lower, upper = np.quantile(block_weights(means.shape[0]) @ means, [tail, 1.0 - tail], axis=0)
    return lower, upper


def block_interval(values: npt.ArrayLike, blocks: Sequence[object], level: float = 0.95) -> Interval:
    """The mean over blocks of each block's mean over seeds, with its bootstrap interval.

    values : float (runs,), rows that are not finite are left out;  blocks : (runs,), what tells each run's block
    """
    held = np.asarray(values, dtype=np.float64)
    known = np.isfinite(held)
    if not known.any():
        return Interval(math.nan, math.nan, math.nan)
    means = by_block(held[known], [block for block, there in zip(blocks, known, strict=True) if there])
    lower, upper = block_band(means[:, None], level)
    return Interval(float(means.mean()), float(lower[0]), float(upper[0]))


def median_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """The median over blocks with its bootstrap interval; values may be infinite. values : float (b,), one a block"""
    held = np.asarray(values, dtype=np.float64)
    if held.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    middle = _median(held[None, :])[0]
    if held.size < FEWEST_BLOCKS:
        return Interval(float(middle), math.nan, math.nan)
    medians = np.sort(_median(held[resampled(held.size)]))
    tail = round((1.0 - level) / 2.0 * medians.size)
    return Interval(float(middle), float(medians[tail]), float(medians[-1 - tail]))


def _median(rows: FloatArray) -> FloatArray:
    """The median of each row, of values that may be +inf: half way to infinity is infinite."""
    ordered, size = np.sort(rows, axis=1), rows.shape[1]
    middle: FloatArray = (ordered[:, (size - 1) // 2] + ordered[:, size // 2]) / 2.0
    return middle


def share_interval(successes: int, runs: int, level: float = 0.95) -> Interval:
    """A share with Wilson's score interval."""
    from scipy.stats import norm

    if runs < 1 or not 0 <= successes <= runs:
        raise InvalidInput(f"{successes} successes of {runs} runs; expected 0 to the number of runs, at least one run")
    z = float(norm.ppf(0.5 + level / 2.0))
    share = successes / runs
    centre = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def performance_profile(
    costs: Mapping[str, npt.ArrayLike], factors: npt.ArrayLike | None = None
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Dolan and Moré's profile: for each solver the share of instances solved within a factor of the fastest.

    Parameters
    ----------
    costs : by solver, the cost on each instance, float (i,), positive; inf or NaN where it failed
    factors : float (t,), the factors τ ≥ 1; by default every ratio that occurs

    Returns
    -------
    factors float64 (t,), and by solver the shares float64 (t,). Instances that nobody solved count as failures.

    Raises
    ------
    InvalidInput   different numbers of instances, or none
    """
    names = list(costs)
    table = np.array([np.asarray(costs[name], dtype=np.float64) for name in names], ndmin=2)
    if not names or table.dtype == object or table.ndim != 2 or table.shape[1] == 0:
        raise InvalidInput("a performance profile needs at least one solver and one instance, the same for all")
    table = np.where(np.isnan(table), np.inf, table)
    best = table.min(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(np.isfinite(table), table / np.where(best > 0, best, 1.0), np.inf)
        ratios = np.where(np.isfinite(table) & (best <= 0), np.where(table <= 0, 1.0, np.inf), ratios)
    if factors is None:
        at = np.unique(np.concatenate([[1.0], ratios[np.isfinite(ratios)]]))
    else:
        at = np.asarray(factors, dtype=np.float64)
    return at, {name: (ratios[i][:, None] <= at).mean(axis=0) for i, name in enumerate(names)}


def time_grid(traces: Sequence[npt.ArrayLike], points: int = 200, floor: float = 1e-4) -> FloatArray:
    """Moments on a logarithmic scale that cover all traces. -> float64 (points,)"""
    last = max((float(np.max(np.asarray(trace))) for trace in traces if np.asarray(trace).size), default=1.0)
    return np.geomspace(floor, max(last, 10 * floor), points)
