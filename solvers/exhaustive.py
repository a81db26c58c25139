"""Go through all C(p, keep) masks: the proof against which other solvers are measured.

Enumeration of combinations: Knuth, The Art of Computer Programming 4A, §7.2.1.3 (lexicographic
order, the last two positions in closed form).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register

if TYPE_CHECKING:
    from prunebench.kernels.enumeration import Ranges, RefitEnumeration, SelectEnumeration

    _Made = tuple[SelectEnumeration | RefitEnumeration, float, float]

MASK_LIMIT = {"select": 500_000_000, "refit": 200_000_000}
"""Masks that are gone through in a few seconds."""
CHUNK = 5_000_000
"""Masks between two looks at the clock: less than a tenth of a second."""


@register
@dataclass(frozen=True, kw_only=True)
class Exhaustive:
    """Evaluate every feasible mask: all with `keep` ones, or the product of a quota's combinations.

    Solves both modes exactly; time grows as C(p, keep), O(1) a mask. Where fewer weights are pruned
    than kept the pruned sets are enumerated. The lower bound is the best value less what rounding
    can have hidden, so it lies a little below the objective.
    """

    name: ClassVar[str] = "exhaustive"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = 2048
    reference: ClassVar[str] = "Knuth, The Art of Computer Programming 4A, 7.2.1.3"

    def refuses(self, block: BlockProblem) -> str:
        """More weights or masks than can be gone through."""
        if self.max_size is not None and block.p > self.max_size:
            return f"it takes at most {self.max_size} weights; choose a smaller block or solver 'swap'"
        count, limit = block.mask_count, MASK_LIMIT[block.mode]
        if count > limit:
            return (
                f"there are {_rounded(count)} masks and mode {block.mode} takes at most {limit:.3g}; "
                "choose a smaller block, a keep count nearer 0 or p, or solver 'swap'"
            )
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The optimal mask with its proof, or the best mask so far when the budget runs out."""
        recorder = Recorder(budget, progress)
        best = block.incumbent
        bound = block.form.lower_bound()
        recorder.record(block.evaluate(best), bound)
        status, total, done = Status.OPTIMAL, block.mask_count, 0
        reason = recorder.expired()
        try:
            if not reason:
                enumeration = _Enumeration(block)
            while not reason:
                found, value, done, finished = enumeration.advance(int(min(CHUNK, budget.evaluations - done)))
                if not np.array_equal(found, best) and (objective := block.evaluate(found)) < recorder.objective:
                    best = found
                    recorder.record(objective)
                if finished:
                    bound = max(bound, min(value, recorder.objective) - _rounding(block))
                    recorder.record(lower_bound=min(bound, recorder.objective))
                    break
                reason = recorder.expired(done)
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, "interrupted"
        if reason and status is not Status.INTERRUPTED:
            status = Status.TIME_LIMIT
        return Solution.from_mask(
            block,
            best,
            status=status,
            stop_reason=f"{reason} after {done} of {total} masks" if reason else f"went through all {total} masks",
            recorder=recorder,
            lower_bound=bound,
            details={"masks": done, "masks_in_all": total},
        )


class _Enumeration:
    """The walk over the kept sets, or over the pruned sets where those are smaller.

    Value of a mask: base + factor · the enumeration's value of its set.
    """

    def __init__(self, block: BlockProblem) -> None:
        self._kept = block.keep * 2 <= block.p
        self._size = block.p
        self._order = np.arange(block.p) if block.quota is None else block.quota.order
        made = (_select if block.mode == "select" else _refit)(block, self._kept, self._order)
        self._walk, self._base, self._factor = made

    def advance(self, masks: int) -> tuple[BoolArray, float, int, bool]:
        """Go on for at least `masks`. -> best mask, its value, masks gone through, whether those were all"""
        at = self._walk.advance(masks)
        mask = np.full(self._size, not self._kept)
        mask[self._order[at.best_subset]] = self._kept
        return mask, self._base + self._factor * at.lowest, at.done, at.finished


def _select(block: BlockProblem, kept: bool, order: IndexArray) -> "_Made":
    from prunebench.kernels.enumeration import SelectEnumeration

    qubo = block.to_qubo()
    linear, base = np.array(qubo.linear), qubo.constant
    if not kept:
        # from the dense point, where the gradient is known without cancellation
        form, dense = block.form, block.dense_weights
        linear, base = 0.5 * dense**2 * form.diagonal() - dense * form.gradient(dense), form.value(dense)
    couplings = qubo.couplings if block.quota is None else qubo.couplings[np.ix_(order, order)]
    return SelectEnumeration(couplings, linear[order], *_levels(block, kept)), base, 1.0


def _refit(block: BlockProblem, kept: bool, order: IndexArray) -> "_Made":
    from prunebench.kernels.enumeration import RefitEnumeration

    matrix, slope = _scaled(block)
    matrix, slope = matrix[np.ix_(order, order)], slope[order]
    chosen, ranges = _levels(block, kept)
    if kept:
        return RefitEnumeration(matrix, slope, chosen, -1.0, ranges), block.form.value(np.zeros(block.p)), 0.5
    # dropping the set R from the full refit costs w_R' (P_RR)⁻¹ w_R / 2 with P the inverse of the matrix
    inverse = np.linalg.inv(matrix)
    everything = block.form.value(block.form.refit(np.ones(block.p, dtype=np.bool_)))
    return RefitEnumeration(0.5 * (inverse + inverse.T), inverse @ slope, chosen, 1.0, ranges), everything, 0.5


def _levels(block: BlockProblem, kept: bool) -> "tuple[int, Ranges | None]":
    """How many positions are chosen, and with a quota where each of them may lie."""
    from prunebench.kernels.enumeration import Ranges

    chosen, quota = block.keep if kept else block.p - block.keep, block.quota
    if quota is None:
        return chosen, None
    return chosen, Ranges(quota.sizes, quota.counts if kept else quota.sizes - quota.counts)


def _rounded(count: int) -> str:
    """A count to three digits, also where it is too large for a float."""
    return f"{count:.3g}" if count < 10**300 else f"about 1e{round(count.bit_length() * math.log10(2.0))}"


def _scaled(block: BlockProblem) -> tuple[FloatArray, FloatArray]:
    """H at unit diagonal, and the gradient at w = 0 in the same scale."""
    form = block.form
    matrix = form.gram(np.arange(block.p))
    scale = 1.0 / np.sqrt(matrix.diagonal())
    return matrix * scale[:, None] * scale, scale * (form.linear - form.product(form.centre))


def _rounding(block: BlockProblem) -> float:
    """What rounding may have hidden below the best value.

    Every term of f is bounded by its absolute value and weighed by the operations that touched it.
    In mode refit the matrix is as good as perturbed by p·eps of its unit diagonal, which moves the
    refitted objective by at most that, divided by the lowest eigenvalue, of what refitting gains.
    """
    form, eps = block.form, float(np.finfo(np.float64).eps)
    rows = form.factor.shape[0] if form.factor is not None else block.p
    reach = np.abs(block.dense_weights) + np.abs(form.centre)
    size = abs(form.constant) + float(np.abs(form.linear) @ reach) + float(np.sqrt(form.diagonal()) @ reach) ** 2
    margin = 4.0 * eps * (rows + block.p) * size
    if block.mode == "refit" and block.keep:
        matrix, slope = _scaled(block)
        lowest = max(float(np.linalg.eigvalsh(matrix)[0]), eps * block.p)
        gain = 0.5 * float(slope @ np.linalg.solve(matrix, slope))
        margin += 4.0 * eps * block.p**2 / lowest * abs(gain)
    return margin
