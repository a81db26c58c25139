"""Compiled depth-first enumeration of all masks within budgets.

Kept sets grow by ascending positions, and a position whose cost does not fit ends its branch, since costs are never
negative. As in the enumeration by size, the effect of what is kept on later positions is updated level by level.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.cost import Cost
from prunebench.kernels.compiled import compiled
from prunebench.solvers.exhaustive.enumeration import Collected, eliminate


class BudgetPlace(NamedTuple):
    """The state of a walk, in arrays that the compiled loops change.

    level : int64 (1,)              how many positions are kept; −1: the walk is finished
    following : int64 (levels,)     the next position to try at each level
    subset : int64 (levels,)        the kept positions
    values : float64 (levels,)      the value of what is kept above each level
    spent : float64 (levels, k)     what that costs
    best : float64 (2,)             the lowest value of a feasible set, and of one that rounding leaves in doubt
    best_subset, best_size : int64 (levels,), (1,)   the former's set
    limit : float                   sets with a value below it are collected
    held, sizes : int64 (most, levels), (most,)      the first of these;  found : int64 (1,), how many there are
    """

    level: IndexArray
    following: IndexArray
    subset: IndexArray
    values: FloatArray
    spent: FloatArray
    best: FloatArray
    best_subset: IndexArray
    best_size: IndexArray
    limit: float
    held: npt.NDArray[np.int64]
    sizes: IndexArray
    found: IndexArray


class BudgetWalk:
    """min over sets S within the budgets of a value that grows position by position; the empty set's is 0.

    matrices : float64 (levels, p, p) in mode refit, (1, p, p) the couplings in mode select
    vectors : float64 (levels, p), the fields (select) or right-hand sides (refit) at each level
    """

    def __init__(
        self, matrix: FloatArray, vector: FloatArray, budget: Cost, refit: bool, collected: Collected | None
    ) -> None:
        collected = collected or Collected(-np.inf, 0)
        p, budgets, levels = vector.size, budget.limits.size, budget.most + 1
        self._refit, self._costs, self._safe, self._unsafe = refit, budget.costs, budget.safe, budget.unsafe
        self._matrices = np.zeros((levels if refit else 1, p, p))
        self._vectors = np.zeros((levels, p))
        self._matrices[0], self._vectors[0] = matrix, vector
        below = collected.limit > 0.0
        held = np.zeros((max(1, collected.most), levels), np.int64)
        self._place = BudgetPlace(
            np.zeros(1, np.int64), np.zeros(levels, np.int64), np.zeros(levels, np.int64), np.zeros(levels),
            np.zeros((levels, budgets)), np.array([0.0, np.inf]), np.zeros(levels, np.int64), np.zeros(1, np.int64),
            collected.limit, held, np.zeros(held.shape[0], np.int64), np.array([int(below)], dtype=np.int64),
        )  # fmt: skip
        self.most = collected.most
        self.done = 1

    def advance(self, masks: int) -> None:
        """Enumerate at least `masks` more, or up to the end."""
        if not self.finished and masks > 0:
            self.done += int(
                advance(
                    self._matrices,
                    self._vectors,
                    self._refit,
                    self._costs,
                    self._safe,
                    self._unsafe,
                    self._place,
                    masks,
                )
            )

    @property
    def finished(self) -> bool:
        """Whether all sets were enumerated."""
        return bool(self._place.level[0] < 0)

    @property
    def lowest(self) -> float:
        """The lowest value of a set that is surely within the budgets."""
        return float(self._place.best[0])

    @property
    def lowest_in_doubt(self) -> float:
        """The lowest value of a set of which rounding leaves open whether it is; inf if there is none."""
        return float(self._place.best[1])

    @property
    def best(self) -> IndexArray:
        """The positions of the best set."""
        return self._place.best_subset[: int(self._place.best_size[0])]

    @property
    def found(self) -> int:
        """How many sets were collected, or would have been with enough space."""
        return int(self._place.found[0])

    @property
    def held(self) -> list[IndexArray]:
        """The collected sets."""
        place = self._place
        return [place.held[row, : int(place.sizes[row])] for row in range(min(self.found, self.most))]


@compiled()
def advance(
    matrices: FloatArray,
    vectors: FloatArray,
    refit: bool,
    costs: FloatArray,
    safe: FloatArray,
    unsafe: FloatArray,
    place: BudgetPlace,
    masks: int,
) -> int:
    """Continue for `masks` or a few more. Returns how many."""
    p, budgets, depth, done = vectors.shape[1], safe.size, place.level[0], 0
    following, values, spent = place.following, place.values, place.spent
    while depth >= 0 and done < masks:
        at = following[depth]
        if at >= p:
            depth -= 1
            continue
        following[depth] = at + 1
        possible, sure = True, True
        for k in range(budgets):
            ahead = spent[depth, k] + costs[k, at]
            possible = possible and ahead <= unsafe[k]
            sure = sure and ahead <= safe[k]
        if not possible:
            continue
        done += 1
        vector = vectors[depth]
        value = values[depth] + vector[at]
        if refit:
            value = values[depth] - vector[at] * vector[at] / matrices[depth, at, at]
        place.subset[depth] = at
        note(place, depth + 1, value, sure)
        if at + 1 < p and depth + 1 < values.size:
            values[depth + 1], following[depth + 1] = value, at + 1
            for k in range(budgets):
                spent[depth + 1, k] = spent[depth, k] + costs[k, at]
            if refit:
                eliminate(matrices[depth], vector, at, matrices[depth + 1], vectors[depth + 1])
            else:
                for j in range(at + 1, p):
                    vectors[depth + 1, j] = vector[j] + matrices[0, at, j]
            depth += 1
    place.level[0] = depth
    return done


@compiled(inner=True)
def note(place: BudgetPlace, size: int, value: float, sure: bool) -> None:
    """Update the best sets, and the collected ones, by the present set of `size` positions."""
    if sure and value < place.best[0]:
        place.best[0], place.best_size[0] = value, size
        for i in range(size):
            place.best_subset[i] = place.subset[i]
    elif not sure and value < place.best[1]:
        place.best[1] = value
    if value < place.limit:
        row = place.found[0]
        if row < place.held.shape[0]:
            place.sizes[row] = size
            for i in range(size):
                place.held[row, i] = place.subset[i]
        place.found[0] += 1
