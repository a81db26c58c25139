"""Compiled Optimal Brain Surgeon: weights are removed one by one, with exact updates of inverse and weights.

Frantar, Singh, Alistarh: Optimal Brain Compression, NeurIPS 2022, algorithm 1.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.keeping import Counted


def drop_one_by_one(matrix: FloatArray, slope: FloatArray, keeping: Counted, most: int) -> tuple[BoolArray, int]:
    """Prune p − keep weights of the quadratic ½w'Hw + q'w, the cheapest first, from its minimiser.

    Parameters
    ----------
    matrix : float64 (p, p)   H, positive definite, scaled to unit diagonal
    slope : float64 (p,)      q, in the same scale
    keeping : how many stay, in total or per group; no group goes below its count
    most : how many are removed one by one at most; the cheapest of the rest are then removed at once

    Returns
    -------
    bool (p,) with `keep` ones, and how many were removed one by one. Cost p² per weight.
    """
    inverse = np.linalg.inv(matrix)
    inverse = 0.5 * (inverse + inverse.T)
    weights = -inverse @ slope
    mask = np.ones(slope.size, dtype=np.bool_)
    steps = min(slope.size - keeping.keep, most)
    costs = _drop(inverse, weights, mask, steps, np.array(keeping.group), keeping.sizes - keeping.counts)
    if not keeping.one_count:
        return keeping.top_mask(np.where(mask, costs, -np.inf)), steps
    left = int(mask.sum()) - keeping.keep
    if left > 0:
        order: IndexArray = np.argsort(costs, kind="stable")
        mask[order[mask[order]][:left]] = False
    return mask, steps


@njit(cache=True, nogil=True)
def _drop(
    inverse: FloatArray, weights: FloatArray, mask: BoolArray, steps: int, group: IndexArray, spare: IndexArray
) -> FloatArray:
    size = mask.size
    costs = np.empty(size)
    for _ in range(steps):
        cheapest = -1
        for i in range(size):
            if mask[i]:
                costs[i] = weights[i] * weights[i] / max(inverse[i, i], 1e-300)
                if (cheapest < 0 or costs[i] < costs[cheapest]) and spare[group[i]] > 0:
                    cheapest = i
        pivot = inverse[cheapest, cheapest]
        column = inverse[cheapest].copy()
        move = weights[cheapest] / pivot
        for i in range(size):
            if mask[i]:
                weights[i] -= move * column[i]
                share = column[i] / pivot
                for j in range(size):
                    inverse[i, j] -= share * column[j]
        mask[cheapest] = False
        spare[group[cheapest]] -= 1
        weights[cheapest] = 0.0
    for i in range(size):
        costs[i] = weights[i] * weights[i] / max(inverse[i, i], 1e-300) if mask[i] else np.inf
    return costs
