"""Masks with exact counts: ties, keep counts of layers, rounding of densities."""

import math
from collections.abc import Sequence

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput


def top_mask(scores: FloatArray, keep: int) -> BoolArray:
    """True at the `keep` highest scores; among equal scores the lower position wins. (p,) -> (p,)

    O(p): a partition finds the threshold; only ties at the threshold are decided by position.
    """
    scores = np.asarray(scores, dtype=np.float64)
    count = scores.size
    mask = np.zeros(count, dtype=np.bool_)
    if keep <= 0:
        return mask
    if keep >= count:
        mask[:] = True
        return mask
    threshold = np.partition(scores, count - keep)[count - keep]
    mask[scores > threshold] = True
    ties = np.flatnonzero(scores == threshold)
    mask[ties[: keep - int(mask.sum())]] = True
    return mask


def keep_count(density: float, total: int, what: str = "the network") -> int:
    """round(density·total), the exact number of kept weights.

    Raises
    ------
    InvalidInput   density is not in (0, 1], or nothing would be kept
    """
    if not (isinstance(density, (int, float)) and math.isfinite(density) and 0.0 < density <= 1.0):
        raise InvalidInput(f"density is {density}; choose a number above 0 and at most 1 (0.1 keeps a tenth of {what})")
    keep = round(density * total)
    if keep == 0:
        raise InvalidInput(f"density {density} keeps none of {what}'s {total} weights; choose at least {1 / total:.3g}")
    return keep


def keep_per_layer(density: float, sizes: Sequence[int]) -> IndexArray:
    """Keep counts with the same density in every layer and the exact total round(density·Σ sizes).

    Largest remainder: round down, then add one for the layers that lost most, earlier layers first.
    """
    total = keep_count(density, sum(sizes))
    exact = np.asarray(sizes, dtype=np.float64) * density
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    missing = total - int(counts.sum())
    counts[order[:missing]] += 1
    return counts
