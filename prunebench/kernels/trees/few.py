"""Every mask of few kept weights in mode refit: all pairs at once that complete a set chosen so far.

With the weights S kept, f falls below f(0) by the gain ½ h_S'(H_SS)⁻¹h_S. Eliminating the chosen weights one by one
(Cholesky) leaves the matrix M and slope c of the others, and a pair {a, b} adds ½ c'M⁻¹c of its two entries. A gain
costs some ten operations and, with three to six kept weights, 3 to 5 ns; a bound of branch and bound, twenty thousand.
Furnival, Wilson: Regressions by leaps and bounds, Technometrics 16, 1974, without the bounds.
"""

from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.kernels.compiled import compiled


class Levels(NamedTuple):
    """The state of the enumeration: after `level` weights are chosen, what is left of the program.

    matrix : float64 (keep − 2, p, p), upper triangles;  slope, column : float64 (keep, p);  gain : float64 (keep,)
    chosen : int64 (keep,), ascending positions;  found : int64 (keep,), of the best mask, −1 if none
    """

    matrix: FloatArray
    slope: FloatArray
    column: FloatArray
    gain: FloatArray
    chosen: IndexArray
    found: IndexArray


def levels_of(hessian: FloatArray, slope: FloatArray, keep: int) -> Levels:
    """The state before anything is chosen, for at least three kept weights."""
    p = slope.size
    levels = Levels(
        np.zeros((keep - 2, p, p)), np.zeros((keep, p)), np.zeros((keep, p)), np.zeros(keep),
        np.zeros(keep, np.int64), np.full(keep, -1, np.int64),
    )  # fmt: skip
    levels.matrix[0], levels.slope[0] = hessian, slope
    return levels


@compiled(fast=True)
def best_from(levels: Levels, first: IndexArray, best: float) -> float:
    """The largest of `best` and the gains of all sets that begin with `first`; `found` receives a better one.

    first : int64 (f,), ascending positions, one to keep − 2 of them
    """
    matrices, slopes, columns, gains, chosen = levels[:5]
    keep, p, fixed = chosen.size, matrices.shape[1], first.size
    for at in range(fixed):
        chosen[at] = first[at]
    level = 0
    while True:
        i = chosen[level]
        if i > p - keep + level:
            # no room for the rest
            if level <= fixed:
                return best
            level -= 1
            chosen[level] += 1
            continue
        matrix, slope, column, below = matrices[level], slopes[level], columns[level], slopes[level + 1]
        unit = 1.0 / np.sqrt(matrix[i, i])
        push = slope[i] * unit
        gain = gains[level] + 0.5 * push * push
        for a in range(i + 1, p):
            column[a] = matrix[i, a] * unit
            below[a] = slope[a] - column[a] * push
        if level < keep - 3:
            rest = matrices[level + 1]
            for a in range(i + 1, p):
                for b in range(a, p):
                    rest[a, b] = matrix[a, b] - column[a] * column[b]
            level += 1
            gains[level] = gain
            if level >= fixed:
                chosen[level] = i + 1
            continue
        best = best_pair(levels, level, gain, best)
        if level < fixed:
            return best
        chosen[level] += 1


@compiled(fast=True, inner=True)
def best_pair(levels: Levels, level: int, gain: float, best: float) -> float:
    """The largest of `best` and the gains of the chosen weights, `gain`, with any two of the later ones.

    Scaled to unit diagonal, the pair adds ½ (r_a² + r_b² − 2ρ r_a r_b)/(1 − ρ²), which is divided only where it counts.
    """
    matrix, column = levels.matrix[level], levels.column[level]
    unit, scaled = levels.column[level + 1], levels.slope[level + 1]
    keep, p, i = levels.chosen.size, column.size, levels.chosen[level]
    for a in range(i + 1, p):
        unit[a] = 1.0 / np.sqrt(matrix[a, a] - column[a] * column[a])
        scaled[a] *= unit[a]
    need = 2.0 * (best - gain)
    for a in range(i + 1, p - 1):
        row, left, own, held = matrix[a], column[a], unit[a], scaled[a]
        square = held * held
        better = 0
        for b in range(a + 1, p):
            rho = (row[b] - left * column[b]) * own * unit[b]
            better += square + scaled[b] * (scaled[b] - 2.0 * rho * held) > need * (1.0 - rho * rho)
        if better == 0:
            continue
        for b in range(a + 1, p):
            rho = (row[b] - left * column[b]) * own * unit[b]
            pair = (square + scaled[b] * (scaled[b] - 2.0 * rho * held)) / (1.0 - rho * rho)
            if gain + 0.5 * pair > best:
                best = gain + 0.5 * pair
                levels.chosen[keep - 2], levels.chosen[keep - 1] = a, b
                for j in range(keep):
                    levels.found[j] = levels.chosen[j]
        need = 2.0 * (best - gain)
    return best
