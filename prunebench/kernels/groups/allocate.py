"""How many groups each layer keeps: one point of every layer's error curve within a budget, exactly.

The multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger: Knapsack Problems, Springer 2004, ch. 11), solved
by dynamic programming over whole costs, after costs are divided by their common divisor.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray, numeric, require_finite
from prunebench.core.errors import InvalidInput

MOST_CELLS = 50_000_000
"""Largest table of choices, curves times units of the budget: at four bytes each 200 MB, some ten seconds."""


class Allocation(NamedTuple):
    """One choice of each curve.

    choice : int64 (L,)   the chosen point of each curve
    value : float         the sum of the chosen values;  cost : int   the sum of the chosen costs
    """

    choice: IndexArray
    value: float
    cost: int


def allocate(values: Sequence[npt.ArrayLike], costs: Sequence[npt.ArrayLike], budget: int) -> Allocation:
    """Choose one point of each curve so that the values' sum is least and the costs' sum at most the budget.

    Parameters
    ----------
    values : L curves, float (n_l,) each    such as f at every keep count; they need not be monotone or convex
    costs : L curves, whole numbers (n_l,) each, not negative   such as MACs at every keep count
    budget : the largest sum of costs

    Among equal sums of values the cheapest choice wins. Exact up to the rounding of the sums.

    Raises
    ------
    InvalidInput   curves that do not fit each other, a budget below the least possible cost, or one with so many
                   units that the table does not fit in memory

    Cost: O(Σ n_l · budget / common divisor of the costs).
    """
    curves = [_checked(number, pair) for number, pair in enumerate(zip(values, costs, strict=True))]
    if not curves:
        return Allocation(np.empty(0, dtype=np.int64), 0.0, 0)
    least = sum(int(cost.min()) for _, cost in curves)
    if budget < least:
        raise InvalidInput(f"the budget is {budget} but the cheapest choice of every curve costs {least}; raise it")
    # each curve's least cost is paid by any choice, so only what is above it is planned
    above = [cost - cost.min() for _, cost in curves]
    unit = math.gcd(*(int(number) for extra in above for number in extra)) or 1
    room = min(budget - least, sum(int(extra.max()) for extra in above)) // unit
    if (room + 1) * len(curves) > MOST_CELLS:
        raise InvalidInput(
            f"the budget has {room:,} units of the costs' common divisor {unit:,}, too many for {len(curves)} curves; "
            "round the costs up to a coarser unit"
        )
    steps = [extra // unit for extra in above]
    choice = _planned([value for value, _ in curves], steps, room)
    total = sum(int(cost[point]) for (_, cost), point in zip(curves, choice, strict=True))
    return Allocation(choice, math.fsum(value[point] for (value, _), point in zip(curves, choice, strict=True)), total)


def _planned(values: list[FloatArray], steps: list[IndexArray], room: int) -> IndexArray:
    """The best point of each curve with at most `room` steps in all."""
    best = np.zeros(room + 1)
    taken: list[npt.NDArray[np.int32]] = []
    for value, step in zip(values, steps, strict=True):
        following = np.full(room + 1, np.inf)
        chosen = np.zeros(room + 1, dtype=np.int32)
        for point in np.argsort(step, kind="stable"):
            if step[point] > room:
                break
            reached = np.full(room + 1, np.inf)
            reached[step[point] :] = best[: room + 1 - step[point]] + value[point]
            better = reached < following
            following[better], chosen[better] = reached[better], point
        best = following
        taken.append(chosen)
    left = int(np.argmin(best))
    choice = np.empty(len(values), dtype=np.int64)
    for number in range(len(values) - 1, -1, -1):
        choice[number] = taken[number][left]
        left -= int(steps[number][choice[number]])
    return choice


def _checked(number: int, pair: tuple[npt.ArrayLike, npt.ArrayLike]) -> tuple[FloatArray, IndexArray]:
    value, cost = numeric(f"the values of curve {number}", pair[0]), numeric(f"the costs of curve {number}", pair[1])
    if value.ndim != 1 or value.size < 1 or cost.shape != value.shape:
        raise InvalidInput(f"curve {number} has {value.shape} values and {cost.shape} costs; expected one cost a value")
    require_finite(f"the values of curve {number}", value)
    if cost.dtype.kind not in "iu" or int(cost.min()) < 0:
        raise InvalidInput(f"the costs of curve {number} must be whole numbers of 0 or more")
    return value.astype(np.float64), cost.astype(np.int64)
