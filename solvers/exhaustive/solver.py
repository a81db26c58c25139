"""Enumerate all C(p, keep) masks: the proof against which other solvers are measured.

Enumeration of combinations: Knuth, The Art of Computer Programming 4A, §7.2.1.3 (lexicographic
order, the last two positions in closed form).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.keeping import Count, Quota
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import is_proved
from prunebench.core.solver import Incumbent, Solver, Stop, register

if TYPE_CHECKING:
    from prunebench.kernels.enumeration.rounding import Doubt
    from prunebench.solvers.exhaustive.enumeration import Collected, Ranges, RefitEnumeration, SelectEnumeration

    _Made = tuple[SelectEnumeration | RefitEnumeration, Doubt]

MASK_LIMIT = {"select": 500_000_000, "refit": 200_000_000}
"""Most masks, by mode; these are enumerated in a few seconds."""
BUDGET_SIZE = {"select": 28, "refit": 22}
"""Most weights of a block with a budget, by mode: up to 2^p masks, some ten seconds."""
CHUNK = 5_000_000
"""Masks between two looks at the clock: less than a tenth of a second."""
MOST_CANDIDATES = 4096
"""Most masks that are bounded one by one because of rounding, at some tenth of a millisecond each."""


@register
@dataclass(frozen=True, kw_only=True)
class Exhaustive(Solver):
    """Evaluate every feasible mask: all with `keep` ones, the product of a quota's combinations, or all in a budget.

    Solves both modes exactly; time grows as C(p, keep), O(1) per mask. If fewer weights are pruned than
    kept, the pruned sets are enumerated. The lower bound is the best value minus a bound on rounding; if that
    is too weak, the masks that may be better are bounded one by one. If there are too many of them, or
    rounding still leaves a gap, the answer is "feasible" and says so.
    """

    name = "exhaustive"
    exact = True
    takes = frozenset({Count, Quota, Cost})
    max_size = 2048
    reference = "Knuth, The Art of Computer Programming 4A, 7.2.1.3"

    def refuses(self, block: BlockProblem) -> str:
        """More weights or masks than can be enumerated."""
        if self.max_size is not None and block.p > self.max_size:
            return f"it takes at most {self.max_size} weights; choose a smaller block or solver 'swap'"
        if block.budget is not None:
            most = BUDGET_SIZE[block.mode]
            return "" if block.p <= most else (
                f"with a budget mode {block.mode} takes at most {most} weights; choose a smaller block, or solver "
                "'branch-and-bound' or 'swap'"
            )  # fmt: skip
        count, limit = block.mask_count, MASK_LIMIT[block.mode]
        if count > limit:
            return (
                f"there are {_rounded(count)} masks and mode {block.mode} takes at most {limit:.3g}; "
                "choose a smaller block, a keep count nearer 0 or p, or solver 'swap'"
            )
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """All masks, with a proof, or as many as the budget allows."""
        return _Run(best).search()

    def settle(self, best: Incumbent) -> Stop:
        """Enumerate the only mask like any other."""
        return _Run(best).search()


class _Run:
    """One solve: enumerates all masks, then bounds those that may be better because of rounding."""

    def __init__(self, best: Incumbent) -> None:
        self.best, self.block, self.done, self.through = best, best.block, 0, False
        best.bound(self.block.form.lower_bound())

    def search(self) -> Stop:
        """Run to the end, or until the budget or Ctrl-C stops it."""
        total = self.block.mask_count if self.block.budget is None else 2**self.block.p
        try:
            stop = self._walk()
        finally:
            if self.through and self.block.budget is not None:
                # how many masks a budget leaves is known once all were seen
                total = self.done
            self.best.details = {"masks": self.done, "masks_in_all": total}
        if self.done < total:
            return replace(stop, text=f"{stop.text} after {self.done} of {total} masks")
        through = f"went through all {total} masks"
        proved = is_proved(self.best.objective, self.best.lower_bound)
        return Stop.finished(through if proved else f"{through}, but {stop.text}")

    def _walk(self) -> Stop:
        """Enumerate all masks. -> why there is no proof yet, if there is none"""
        walk = _enumeration(self.block)
        if not walk.doubt.ready and self.block.budget is None and self.block.mask_count <= MOST_CANDIDATES:
            return self._one_by_one(_all_masks(self.block))
        finished = False
        while not finished:
            most = int(min(CHUNK, self.best.budget.evaluations - self.done))
            found, value, self.done, finished = walk.advance(most)
            self._offer(found)
            if not finished and (stop := self.best.stop(self.done)):
                return stop
        self.through = True
        self.best.bound(walk.doubt.least(value))
        if is_proved(self.best.objective, self.best.lower_bound):
            return Stop.finished("")
        masks = _in_doubt(walk.doubt.limit(self.best.objective), self.best)
        if masks is None:
            return Stop.finished("rounding leaves too many masks in doubt")
        return self._one_by_one(masks)

    def _one_by_one(self, masks: Iterable[BoolArray]) -> Stop:
        """Bound each of these masks by itself."""
        least, before = self.best.objective, self.done
        for number, mask in enumerate(masks, 1):
            self._offer(mask)
            least = min(least, mask_bound(self.block, mask))
            self.done = max(before, number)
            if not self.through and (stop := self.best.stop(self.done)) and self.done < self.block.mask_count:
                return stop
        if not self.through:
            self.done = self.block.mask_count
        self.best.bound(least)
        return Stop.finished("rounding leaves this gap")

    def _offer(self, mask: BoolArray) -> None:
        if not np.array_equal(mask, self.best.mask):
            self.best.offer(mask, "enumeration")


def _in_doubt(limit: float, best: Incumbent) -> list[BoolArray] | None:
    """The masks with a computed value below `limit`; None if there are too many, or no time to find them."""
    from prunebench.solvers.exhaustive.enumeration import Collected

    if not math.isfinite(limit):
        return None
    walk = _enumeration(best.block, Collected(limit, MOST_CANDIDATES))
    finished = False
    while not finished:
        *_, finished = walk.advance(CHUNK)
        if walk.found > MOST_CANDIDATES or best.stop():
            return None
    return walk.collected()


def _enumeration(block: BlockProblem, collected: "Collected | None" = None) -> "_Enumeration | _BudgetEnumeration":
    if block.budget is not None:
        return _BudgetEnumeration(block, block.budget, collected)
    return _Enumeration(block, collected)


class _BudgetEnumeration:
    """The enumeration of all sets within the budgets, with the interface of `_Enumeration`."""

    def __init__(self, block: BlockProblem, budget: Cost, collected: "Collected | None" = None) -> None:
        from prunebench.kernels.enumeration.rounding import kept_doubt, select_doubt
        from prunebench.solvers.exhaustive.within_budget import BudgetWalk

        self._block, self._budget = block, budget
        if block.mode == "select":
            qubo = block.to_qubo()
            matrix, vector, self.doubt = qubo.couplings, qubo.linear, select_doubt(block, qubo.constant)
        else:
            matrix, vector, scale = _scaled(block)
            self.doubt = kept_doubt(block, scale)
        self._walk: BudgetWalk = BudgetWalk(matrix, vector, budget, block.mode == "refit", collected)

    def advance(self, masks: int) -> tuple[BoolArray, float, int, bool]:
        """Enumerate at least `masks` more. -> best mask, the lowest value, masks enumerated, whether these were all"""
        self._walk.advance(masks)
        # a set in doubt may be feasible, so the bound has to hold for it
        lowest = min(self._walk.lowest, self._walk.lowest_in_doubt)
        return self._mask(self._walk.best), lowest, self._walk.done, self._walk.finished

    @property
    def found(self) -> int:
        """How many sets were collected, or would have been with enough space."""
        return self._walk.found

    def collected(self) -> list[BoolArray]:
        """The feasible masks among the collected sets."""
        masks = (self._mask(subset) for subset in self._walk.held)
        return [mask for mask in masks if self._budget.feasible(mask)]

    def _mask(self, subset: IndexArray) -> BoolArray:
        mask = np.zeros(self._block.p, dtype=np.bool_)
        mask[subset] = True
        return mask


class _Enumeration:
    """The enumeration of the kept sets, or of the pruned sets if those are smaller.

    `doubt` turns a value in the enumeration's units into a bound on the mask's cost.
    """

    def __init__(self, block: BlockProblem, collected: "Collected | None" = None) -> None:
        self._kept = block.keep * 2 <= block.p
        self._size = block.p
        self._order = block.keeping.order
        make = _select if block.mode == "select" else _refit
        try:
            self._walk, self.doubt = make(block, self._kept, self._order, collected)
        except np.linalg.LinAlgError:
            # the Hessian has no inverse in floating point, which only the pruned sets need
            self._kept = True
            self._walk, self.doubt = make(block, self._kept, self._order, collected)

    def advance(self, masks: int) -> tuple[BoolArray, float, int, bool]:
        """Enumerate at least `masks` more. -> best mask, its value in the enumeration's units, masks enumerated,
        whether these were all
        """
        try:
            at = self._walk.advance(masks)
        except ZeroDivisionError as error:
            raise np.linalg.LinAlgError("the Hessian is singular to rounding for some masks") from error
        return self._mask(at.best_subset), at.lowest, at.done, at.finished

    @property
    def found(self) -> int:
        """How many sets were collected, or would have been with enough space."""
        return self._walk.advance(0).found

    def collected(self) -> list[BoolArray]:
        """The masks of the collected sets."""
        return [self._mask(subset) for subset in self._walk.advance(0).held[: self.found]]

    def _mask(self, subset: IndexArray) -> BoolArray:
        mask = np.full(self._size, not self._kept)
        mask[self._order[subset]] = self._kept
        return mask


def _select(block: BlockProblem, kept: bool, order: IndexArray, collected: "Collected | None") -> "_Made":
    from prunebench.kernels.enumeration.rounding import select_doubt
    from prunebench.solvers.exhaustive.enumeration import SelectEnumeration

    qubo = block.to_qubo()
    linear, base = np.array(qubo.linear), qubo.constant
    if not kept:
        # from the dense point, where the gradient is known without cancellation
        form, dense = block.form, block.dense_weights
        linear, base = 0.5 * dense**2 * form.diagonal() - dense * form.gradient(dense), form.value(dense)
    walk = SelectEnumeration(qubo.couplings[np.ix_(order, order)], linear[order], *_levels(block, kept), collected)
    return walk, select_doubt(block, base)


def _refit(block: BlockProblem, kept: bool, order: IndexArray, collected: "Collected | None") -> "_Made":
    from prunebench.kernels.enumeration.rounding import kept_doubt, pruned_doubt
    from prunebench.solvers.exhaustive.enumeration import RefitEnumeration

    matrix, slope, scale = _scaled(block)
    if kept:
        sign, doubt = -1.0, kept_doubt(block, scale)
    else:
        # removing the set R from the full refit costs w_R' (P_RR)⁻¹ w_R / 2, P being the inverse of the matrix
        inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        if not (inverse.diagonal() > 0.0).all():
            raise np.linalg.LinAlgError("the inverse of the Hessian has no digits left")
        sign, doubt = 1.0, pruned_doubt(block, matrix, slope, scale, inverse)
        matrix, slope = 0.5 * (inverse + inverse.T), inverse @ slope
    matrix, slope = matrix[np.ix_(order, order)], slope[order]
    chosen, ranges = _levels(block, kept)
    return RefitEnumeration(matrix, slope, chosen, sign, ranges, collected), doubt


def _all_masks(block: BlockProblem) -> Iterator[BoolArray]:
    """Every feasible mask, group by group."""
    for kept in product(*(combinations(members.tolist(), count) for members, count in block.keeping.groups())):
        mask = np.zeros(block.p, dtype=np.bool_)
        mask[[i for part in kept for i in part]] = True
        yield mask


def _levels(block: BlockProblem, kept: bool) -> "tuple[int, Ranges | None]":
    """How many positions are chosen, and with a quota the range of each level."""
    from prunebench.solvers.exhaustive.enumeration import Ranges

    keeping = block.keeping
    counts = keeping.counts if kept else keeping.sizes - keeping.counts
    return int(counts.sum()), None if keeping.one_count else Ranges(keeping.sizes, counts)


def _rounded(count: int) -> str:
    """A count to three digits, even if too large for a float."""
    return f"{count:.3g}" if count < 10**300 else f"about 1e{round(count.bit_length() * math.log10(2.0))}"


def _scaled(block: BlockProblem) -> tuple[FloatArray, FloatArray, FloatArray]:
    """H at unit diagonal, the gradient at w = 0 in the same scale, and the scale."""
    form = block.form
    matrix = form.gram(np.arange(block.p))
    if not block.keep:
        # keep is 0: nothing is refitted, so curvature and ridge may be zero, and such weights have no scale
        matrix[np.diag_indices(block.p)] = np.where(matrix.diagonal() > 0.0, matrix.diagonal(), 1.0)
    scale = 1.0 / np.sqrt(matrix.diagonal())
    return matrix * scale[:, None] * scale, scale * (form.linear - form.product(form.centre)), scale
