"""The loops that put weights on a grid: one column after another, errors made up for by the columns that follow."""

import math

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.kernels.compiled import compiled, merged

IMPROVES = 1e-9
"""By which part of the terms that make up its change a moved level must lower f: less may be rounding."""


@compiled(fast=True)
def fit_rows(
    target: FloatArray,
    kept: BoolArray,
    group: IndexArray,
    matrices: FloatArray,
    trials: FloatArray,
    limits: IndexArray,
    levels: IndexArray,
    scales: FloatArray,
    space: FloatArray,
) -> None:
    """Levels and scales of rows, each by itself.

    With H⁻¹ = U'U, putting weight j on a level costs e²/2 with e = (w_j − level·scale)/U_jj, once the weights that
    follow are moved by −e·U_j. A group of columns takes the trial scale whose e² add up to least over its columns.
    Then single levels are moved by one as long as that lowers f; scales stay.

    Parameters
    ----------
    target : (r, c)   the minimiser of f with all weights of a row free
    kept : (r, c)     which weights have levels; the others become zero
    group : (r, c)    the group of each weight along a row, rising from 0; −1 from where a row has ended
    matrices : (2, 1, c, c) or (2, r, c, c)   U and H, of all rows or of each
    trials : (t,)     scales that are tried, in parts of the one at which the largest weight has the largest level
    limits : (2,)     the largest level, and the most levels of a row that are moved
    levels : (r, c)   zero; written
    scales : (r, groups)   written where a group keeps a weight that is not zero
    space : (3, c)
    """
    current, moved = space[0], space[1]
    largest = limits[0]
    for r in range(target.shape[0]):
        which = r % matrices.shape[1]
        upper, row_levels, row_group, row_kept = matrices[0, which], levels[r], group[r], kept[r]
        size = 0
        while size < target.shape[1] and row_group[size] >= 0:
            current[size] = target[r, size]
            size += 1
        first = 0
        while first < size:
            last, reach = first, 0.0
            while last < size and row_group[last] == row_group[first]:
                if row_kept[last]:
                    reach = max(reach, abs(current[last]))
                last += 1
            scale, least = 0.0, math.inf
            for t in range(trials.size):
                # eight significant bits, as grids.rounded_scale
                part, exponent = math.frexp(reach / largest * trials[t])
                trial = math.ldexp(float(round(part * 256.0)), exponent - 8)
                if trial > 0.0:
                    cost = 0.0
                    for j in range(first, last):
                        moved[j] = current[j]
                    for j in range(first, last):
                        error = moved[j]
                        if row_kept[j]:
                            level = min(max(float(round(moved[j] / trial)), -float(largest)), float(largest))
                            error -= level * trial
                        error /= upper[j, j]
                        cost += error * error
                        _move(moved, upper[j], error, j + 1, last)
                    if cost < least:
                        scale, least = trial, cost
            if scale > 0.0:
                scales[r, row_group[first]] = scale
            for j in range(first, last):
                error = current[j]
                if row_kept[j] and scale > 0.0:
                    level = min(max(float(round(current[j] / scale)), -float(largest)), float(largest))
                    row_levels[j] = int(level)
                    error -= level * scale
                _move(current, upper[j], error / upper[j, j], j + 1, size)
            first = last
        _improve(target[r], row_kept, row_group, matrices[1, which], row_levels, scales[r], limits, size, space)


@compiled(fast=True, inner=True)
def _move(values: FloatArray, along: FloatArray, step: float, first: int, last: int) -> None:
    """Subtract a step along a row of U from some values."""
    for t in range(first, last):
        values[t] -= step * along[t]


@merged
def _improve(
    target: FloatArray,
    kept: BoolArray,
    group: IndexArray,
    matrix: FloatArray,
    levels: IndexArray,
    scales: FloatArray,
    limits: IndexArray,
    size: int,
    space: FloatArray,
) -> None:
    """Move the level by one that lowers f most, again and again, until none does. space : (3, c)"""
    slope, away = space[0], space[1]
    for j in range(size):
        away[j] = levels[j] * scales[group[j]] - target[j]
    for i in range(size):
        total = 0.0
        for j in range(size):
            total += matrix[i, j] * away[j]
        slope[i] = total
    for _ in range(limits[1]):
        best, where, which = 0.0, -1, 0
        for j in range(size):
            step = scales[group[j]]
            if kept[j] and step > 0.0:
                sign = -1 if slope[j] > 0.0 else 1
                bend = 0.5 * matrix[j, j] * step * step
                fall = abs(slope[j]) * step
                change = bend - fall
                if change < best and change < -IMPROVES * (bend + fall) and abs(levels[j] + sign) <= limits[0]:
                    best, where, which = change, j, sign
        if where < 0:
            break
        levels[where] += which
        _move(slope, matrix[where], -which * scales[group[where]], 0, size)
