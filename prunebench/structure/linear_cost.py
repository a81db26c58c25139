"""A network's cost as one linear row over its groups, for blocks with a budget in place of counts.

Costs are polynomials in the kept counts. Where every term touches one family, the cost is linear and the row exact, as
for channels inside of a block. Where two families meet in a layer, the row is the tangent at given counts; what it
misses is made up for by `within`, which judges by the exact cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core import cost as core
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.structure.budget import ROUNDING
from prunebench.structure.cost import Cost

WHOLE = 1e-6
"""Largest distance from a whole number, in its own units, of a cost that is one: shares of counts round."""


@dataclass(frozen=True)
class GateBudget:
    """What groups cost, for one block over all of them but the best of each family, which always stays.

    cost, limit : the exact cost, and how much of it may stay
    owner : int64 (G,), every group's family;  scores : float64 (G,), what the loss rises by if it goes alone
    unit : float64 (families,), cost of one group of each family
    exact : whether the row is the cost itself
    fixed : bool (G,), the best group of every family;  free : int64, the others, which the block chooses among
    """

    cost: Cost
    limit: float
    owner: IndexArray
    scores: FloatArray
    unit: FloatArray
    exact: bool
    fixed: BoolArray
    free: IndexArray

    @staticmethod
    def of(cost: Cost, limit: float, scores: Sequence[FloatArray], counts: Sequence[int]) -> "GateBudget":
        """The budget of a network whose families have these scores; tangents are taken at `counts`."""
        owner = np.repeat(np.arange(len(scores)), [part.size for part in scores])
        joined = np.concatenate(list(scores))
        fixed = np.zeros(joined.size, dtype=np.bool_)
        for number in range(len(scores)):
            members = np.flatnonzero(owner == number)
            fixed[members[np.argmax(joined[members])]] = True
        unit = np.array([_slope(cost, counts, number) for number in range(len(scores))])
        rounded = np.rint(unit)
        unit = np.where(np.abs(unit - rounded) <= WHOLE, rounded, unit)
        return GateBudget(cost, limit, owner, joined, unit, is_linear(cost), fixed, np.flatnonzero(~fixed))

    def row(self, counts: Sequence[int]) -> core.Cost:
        """The free groups' budget: the limit less what stays whatever is chosen. counts : where tangents are taken"""
        stays = self.cost.total(counts) - float(self.unit @ np.asarray(counts, dtype=np.float64))
        left = self.limit * (1.0 + ROUNDING) - stays - float(self.unit.sum())
        name = self.cost.unit if self.exact else f"{self.cost.unit}, linear near the greedy counts"
        return core.Cost(self.unit[self.owner[self.free]][None], np.array([max(left, 0.0)]), (name,))

    def within(self, chosen: BoolArray) -> BoolArray:
        """All groups' mask of a block's answer; where the row is a tangent, changed until the exact cost fits.

        Groups of the least score per cost go while the limit is exceeded, then those that fit come back, the most score
        per cost first. bool (free,) -> bool (G,)
        """
        mask = self.fixed.copy()
        mask[self.free] = chosen
        if self.exact:
            return mask
        while self._total(mask) > self.limit * (1.0 + ROUNDING):
            going = np.flatnonzero(mask & ~self.fixed)
            worth = self.scores[going] / np.maximum(self._marginal(mask)[self.owner[going]], 1e-300)
            mask[going[np.argmin(worth)]] = False
        coming = np.flatnonzero(~mask)
        worth = self.scores[coming] / np.maximum(self._marginal(mask)[self.owner[coming]], 1e-300)
        for place in coming[np.argsort(-worth, kind="stable")]:
            mask[place] = True
            mask[place] = self._total(mask) <= self.limit * (1.0 + ROUNDING)
        return mask

    def _counts(self, mask: BoolArray) -> list[int]:
        counts = np.bincount(self.owner[mask], minlength=self.unit.size)
        return [int(count) for count in counts]

    def _total(self, mask: BoolArray) -> float:
        return self.cost.total(self._counts(mask))

    def _marginal(self, mask: BoolArray) -> FloatArray:
        """What one group of each family costs beside what is kept. float64 (families,)"""
        counts = self._counts(mask)
        return np.array([_slope(self.cost, counts, number) for number in range(self.unit.size)])


def is_linear(cost: Cost) -> bool:
    """Whether every term counts the groups of one family, and those once."""
    return all(
        len(term.families) <= 1
        and len(term.dimensions) <= 1
        and all(len(families) <= 1 for dimension in term.dimensions for families, _ in dimension)
        for term in cost.terms
    )


def _slope(cost: Cost, counts: Sequence[int], number: int) -> float:
    """What one more group of a family costs; at its full size, what the last one does."""
    low, high = list(counts), list(counts)
    if counts[number] < cost.sizes[number]:
        high[number] += 1
    else:
        low[number] -= 1
    terms = cost.touching([number])
    return cost.part(terms, high) - cost.part(terms, low)
