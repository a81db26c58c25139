"""Compiled exact Optimal Brain Surgeon over the rows of a layer: each pruned fully, then the global choice.

Frantar, Singh, Alistarh: Optimal Brain Compression, NeurIPS 2022, algorithms 1 and 2.
"""

import heapq

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray


def layer_mask(matrix: FloatArray, slope: FloatArray, keep: int) -> BoolArray:
    """The mask of a whole layer: each step removes the weight whose removal is cheapest over all rows.

    matrix : float64 (c, c), H with unit diagonal, positive definite;  slope : float64 (r, c), q in its scale
    keep : how many weights the layer keeps  ->  bool (r, c). Cost r·c³.
    """
    inverse = np.linalg.inv(matrix)
    inverse = 0.5 * (inverse + inverse.T)
    rows, columns = slope.shape
    orders = np.empty((rows, columns), dtype=np.int64)
    costs = np.empty((rows, columns))
    for row in range(rows):
        orders[row], costs[row] = _trace(inverse.copy(), -inverse @ slope[row])
    counts = _dropped(costs, rows * columns - keep)
    mask = np.ones((rows, columns), dtype=np.bool_)
    np.put_along_axis(mask, orders, np.arange(columns) >= counts[:, None], axis=1)
    return mask


def _dropped(costs: FloatArray, total: int) -> IndexArray:
    """How many weights each row loses if always the row with the lowest next cost loses one. (r, c) -> (r,)"""
    counts = np.zeros(costs.shape[0], dtype=np.int64)
    waiting = [(float(cost), row) for row, cost in enumerate(costs[:, 0])]
    heapq.heapify(waiting)
    for _ in range(total):
        _, row = heapq.heappop(waiting)
        counts[row] += 1
        if counts[row] < costs.shape[1]:
            heapq.heappush(waiting, (float(costs[row, counts[row]]), row))
    return counts


@njit(cache=True, nogil=True)
def _trace(inverse: FloatArray, weights: FloatArray) -> tuple[IndexArray, FloatArray]:
    """The order in which a row's weights are removed, and the cost of each; overwrites both arguments."""
    size = weights.size
    order, costs = np.empty(size, dtype=np.int64), np.empty(size)
    left = np.arange(size)
    for step in range(size):
        best, place = np.inf, 0
        for k in range(size - step):
            i = left[k]
            cost = weights[i] * weights[i] / max(inverse[i, i], 1e-300)
            if cost < best:
                best, place = cost, k
        cheapest = left[place]
        left[place : size - step - 1] = left[place + 1 : size - step].copy()
        order[step], costs[step] = cheapest, 0.5 * best
        pivot = inverse[cheapest, cheapest]
        move = weights[cheapest] / pivot
        column = inverse[cheapest].copy()
        for k in range(size - step - 1):
            i = left[k]
            weights[i] -= move * column[i]
            share = column[i] / pivot
            for m in range(size - step - 1):
                inverse[i, left[m]] -= share * column[left[m]]
    return order, costs
