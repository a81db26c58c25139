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
    follow are moved by −e·U_j. Then single levels are moved by one as long as that lowers f. A row with one scale takes
    the trial scale that is best after all that; of several, each takes the one whose e² add up to least over its
    group's columns, the moves come once all are chosen.

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
    space : (4, c)
    """
    found = space[3]
    for r in range(target.shape[0]):
        which = r % matrices.shape[1]
        size = 0
        while size < target.shape[1] and group[r, size] >= 0:
            size += 1
        rounds = trials.size if scales.shape[1] == 1 else 1
        best, scale = math.inf, scales[r, 0]
        for number in range(rounds):
            first, last = (number, number + 1) if rounds > 1 else (0, trials.size)
            _pass(
                target[r], kept[r], group[r], matrices[0, which], trials[first:last], limits, levels[r], scales[r],
                size, space,
            )  # fmt: skip
            value = _improve(
                target[r], kept[r], group[r], matrices[1, which], levels[r], scales[r], limits, size, space
            )
            if value < best:
                best, scale = value, scales[r, 0]
                for j in range(size):
                    found[j] = levels[r, j]
        scales[r, 0] = scale
        for j in range(size):
            levels[r, j] = int(found[j])


@merged
def _pass(
    target: FloatArray,
    kept: BoolArray,
    group: IndexArray,
    upper: FloatArray,
    trials: FloatArray,
    limits: IndexArray,
    levels: IndexArray,
    scales: FloatArray,
    size: int,
    space: FloatArray,
) -> None:
    """Put the weights of a row on levels one after another, group by group. space : (4, c)"""
    current, moved = space[0], space[1]
    largest = float(limits[0])
    for j in range(size):
        current[j] = target[j]
    first = 0
    while first < size:
        last, reach = first, 0.0
        while last < size and group[last] == group[first]:
            if kept[last]:
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
                    if kept[j]:
                        error -= min(max(float(round(moved[j] / trial)), -largest), largest) * trial
                    error /= upper[j, j]
                    cost += error * error
                    _move(moved, upper[j], error, j + 1, last)
                if cost < least:
                    scale, least = trial, cost
        if scale > 0.0:
            scales[group[first]] = scale
        for j in range(first, last):
            level = 0.0
            if kept[j] and scale > 0.0:
                level = min(max(float(round(current[j] / scale)), -largest), largest)
            levels[j] = int(level)
            _move(current, upper[j], (current[j] - level * scale) / upper[j, j], j + 1, size)
        first = last


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
) -> float:
    """Move the level by one that lowers f most, again and again, until none does. space : (4, c) -> f at the end

    f : without the constant, so that it is zero at the target
    """
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
    value = 0.0
    for j in range(size):
        value += 0.5 * slope[j] * (levels[j] * scales[group[j]] - target[j])
    return value
