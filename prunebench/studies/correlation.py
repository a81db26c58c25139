"""Kendall's rank correlation of what is known of masks with what becomes of them, and how sure it is.

Kendall: The Treatment of Ties in Ranking Problems, Biometrika 1945 (τ_b); Efron, Tibshirani: An Introduction to the
Bootstrap, 1993, ch. 13 (percentile intervals).
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray

DRAWS = 400
"""Samples of masks, drawn with replacement, from which an interval is taken: its ends then waver by a tenth of it."""

MOST_PAIRED = 1000
"""Masks up to which all pairs are held at once; beyond, there is no interval."""

LEVEL = 0.95
"""The part of the drawn values that lies within an interval."""


@dataclass(frozen=True)
class Tau:
    """Kendall's τ_b with its interval.

    value : −1 to 1; None where one side has the same value for all masks, so that nothing is ordered
    low, high : of the 95 % interval; None where there is none
    masks : how many were ordered
    """

    value: float | None
    low: float | None
    high: float | None
    masks: int

    @property
    def cell(self) -> tuple[float | None, float | None, float | None]:
        """Value and interval, as a table takes them."""
        return self.value, self.low, self.high


def tau(x: FloatArray, y: FloatArray, rng: np.random.Generator, draws: int = DRAWS) -> Tau:
    """τ_b of two orders of the same masks. Float (m,), (m,)

    A mask that is drawn several times is tied with itself on both sides and counts in neither sum.

    Parameters
    ----------
    rng : draws the masks of each sample;  draws : how many samples; 0: no interval
    """
    count = x.size
    if count < 2 or count > MOST_PAIRED:
        return Tau(_plain(x, y), None, None, count)
    rises, climbs = _signs(x), _signs(y)
    weights = np.vstack([np.ones((1, count)), rng.multinomial(count, np.full(count, 1.0 / count), size=draws)])
    agreeing, ordered_x, ordered_y = (
        ((weights @ pairs) * weights).sum(axis=1) for pairs in (rises * climbs, np.abs(rises), np.abs(climbs))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        found = agreeing / np.sqrt(ordered_x * ordered_y)
    value = float(found[0]) if np.isfinite(found[0]) else None
    known = found[1:][np.isfinite(found[1:])]
    if value is None or not known.size:
        return Tau(value, None, None, count)
    low, high = np.quantile(known, [0.5 - 0.5 * LEVEL, 0.5 + 0.5 * LEVEL])
    return Tau(value, float(low), float(high), count)


def thirds(values: FloatArray) -> tuple[IndexArray, IndexArray, IndexArray]:
    """The positions of the lowest third, the middle one and the highest. Float (m,) -> int64, three"""
    low, middle, high = np.array_split(np.argsort(values, kind="stable"), 3)
    return low, middle, high


def rank(values: FloatArray, position: int) -> int:
    """The place of one mask among all, from 1 for the lowest value; of equal ones all have the best of their places."""
    return int((values < values[position]).sum()) + 1


def _signs(values: FloatArray) -> FloatArray:
    """Of every pair, whether the second is higher (1), lower (−1) or equal. (m, m)"""
    return np.sign(values[None, :] - values[:, None])


def _plain(x: FloatArray, y: FloatArray) -> float | None:
    from scipy.stats import kendalltau

    found = float(kendalltau(x, y)[0]) if x.size > 1 else float("nan")
    return found if np.isfinite(found) else None
