"""Masks with exact counts: ties, keep counts of layers, rounding of densities."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput

PAIRED = 8
"""Up to this many scores a row are ranked by comparing all pairs: for 4 of them many times faster than sorting rows."""


def top_mask(scores: RealArray, keep: int) -> BoolArray:
    """True at the `keep` highest scores; among equal scores the lower position wins. (p,) -> (p,)

    O(p): a partition finds the threshold; only ties at the threshold are decided by position.
    """
    scores = np.asarray(scores)
    count = scores.size
    if keep <= 0 or keep >= count:
        return np.full(count, keep > 0, dtype=np.bool_)
    held = scores.copy()
    held.partition(count - keep)
    threshold = held[count - keep]
    mask: BoolArray = scores >= threshold
    excess = np.count_nonzero(mask) - keep
    if excess > 0:
        mask[np.flatnonzero(scores == threshold)[-excess:]] = False
    return mask


def top_of_each(scores: npt.NDArray[Any], counts: npt.ArrayLike) -> BoolArray:
    """True at the highest scores of each row, as many as its count; among equal ones the first win.

    Finite scores of any float type, (g, m); int64 (g,) -> bool (g, m). O(m) a row: by comparing all pairs of a few, by
    a partition of more; only ties at a row's threshold are decided by position.
    """
    wanted = np.asarray(counts)
    size = scores.shape[1]
    if size <= PAIRED:
        return np.ascontiguousarray(_best_by_pairs(scores.T, wanted).T)
    out = np.empty(scores.shape, dtype=np.bool_)
    for count in np.unique(wanted).tolist():
        rows = slice(None) if (wanted == count).all() else np.flatnonzero(wanted == count)
        if count <= 0 or count >= size:
            out[rows] = count >= size
            continue
        part = scores[rows]
        threshold = np.partition(part, size - count, axis=1)[:, size - count, None]
        chosen = part >= threshold
        # no row has too few, so none has too many where the total is right
        tied = np.count_nonzero(chosen) != count * len(chosen)
        for row in np.flatnonzero(chosen.sum(axis=1) != count) if tied else ():
            ties = np.flatnonzero(part[row] == threshold[row])
            chosen[row, ties[count - int((part[row] > threshold[row]).sum()) :]] = False
        out[rows] = chosen
    return out


def _best_by_pairs(scores: npt.NDArray[Any], counts: IndexArray) -> BoolArray:
    """The same down the columns of a few rows: (m, g) -> bool (m, g)."""
    size = scores.shape[0]
    better = np.zeros(scores.shape, dtype=np.int8)
    for first in range(size):
        for second in range(first + 1, size):
            wins = scores[first] >= scores[second]
            better[second] += wins
            better[first] += ~wins
    return np.asarray(better < counts)


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


def mask_text(mask: BoolArray) -> str:
    """A mask as hexadecimal bits, first weight first. bool (p,)"""
    return np.packbits(mask).tobytes().hex()


def mask_from_text(text: str, p: int) -> BoolArray:
    """The reverse of `mask_text`.

    Raises
    ------
    InvalidInput   no hexadecimal text, or one of another length
    """
    try:
        packed = bytes.fromhex(text)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"a mask is written as hexadecimal bits: {error}") from error
    if len(packed) != (p + 7) // 8:
        raise InvalidInput(f"a mask of {p} weights takes {(p + 7) // 8} bytes, not {len(packed)}")
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if bits[p:].any():
        raise InvalidInput(f"the mask marks weights beyond the {p} that there are")
    return bits[:p].astype(np.bool_)
