"""Local search by swaps: exchange one kept for one pruned weight while that improves, from several starts.

The search of Combinatorial Brain Surgeon (Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain
Surgeon, ICML 2022; CBS-S, and CBS-U for mode refit). Its published code restricts partners to a
window of sorted lists, accepts only gains above an absolute 1e-4, leaves the ridge out of the
objective, and never lets a large negative weight back in; none of that is taken over. Every step
takes the best of all swaps, and in mode refit the change is that of the refitted objective.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Counted
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register
from prunebench.kernels.local_search.descent import DescentResult, SwapDescent
from prunebench.scores import SCORES, score

MANY_RESTARTS, MANY_RESTARTS_SIZE = 10, 256
FEW_RESTARTS, FEW_RESTARTS_SIZE = 3, 1024
PERTURBED_SHARE = 0.2
"""Share of the exchangeable weights that a perturbation exchanges."""
ALTERNATIVES = 16


@register
@dataclass(frozen=True, kw_only=True)
class Swap:
    """Best-improvement swap descent from the incumbent, the best scores, and random restarts.

    Proves no bound; the answer is 1-swap optimal where `details["locally_optimal"]` says so. Starts
    are the incumbent, magnitude and the best other score, then in turn a perturbation of the best
    mask so far and a random mask. A step costs O(k(p−k)) up to p = 1024; beyond, working
    sets on the factor, and nothing of size p² from p = 2048 on.
    """

    name: ClassVar[str] = "swap"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon, ICML 2022"

    restarts: int | None = None
    """Descents, at least one; none: 10 up to p = 256, 3 up to p = 1024, 1 beyond."""

    def warm_up(self, block: BlockProblem) -> None:
        """The descent that fits the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """A number of restarts below one."""
        if self.restarts is not None and self.restarts < 1:
            return f"restarts is {self.restarts}; choose at least 1"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best local optimum found; the others are the solution's alternatives."""
        recorder = Recorder(budget, progress)
        search = _Search(block, recorder)
        reason = recorder.expired()
        try:
            if not reason:
                reason = search.go(self.restarts or _restarts(block.p), rng)
        except KeyboardInterrupt:
            return search.solution(Status.INTERRUPTED, "interrupted")
        if reason:
            return search.solution(Status.TIME_LIMIT, reason)
        return search.solution(Status.FEASIBLE, f"descents finished: {search.descents}")


@dataclass(frozen=True)
class _Optimum:
    """Where a descent ended, and whether that is proved 1-swap optimal."""

    objective: float
    mask: BoolArray
    proved: bool


class _Search:
    """One solve: the incumbent, the distinct ends of descents, and the counters."""

    def __init__(self, block: BlockProblem, recorder: Recorder) -> None:
        self._block, self._recorder = block, recorder
        self.descents, self.moves, self.evaluations = 0, 0, 0.0
        self._start = _Optimum(block.evaluate(block.incumbent), block.incumbent, False)
        self._found: dict[bytes, _Optimum] = {}
        recorder.record(self._start.objective)

    def go(self, restarts: int, rng: np.random.Generator) -> str:
        """Make that many descents. -> why it was cut short, or "" """
        size = self._block.p
        if self._block.settled:
            return ""
        starts = self._ranked_starts(min(restarts, 3))
        descent = SwapDescent(self._block)
        for number in range(restarts):
            if number < len(starts):
                mask = starts[number]
            elif (number - len(starts)) % 2 == 0:
                mask = _perturbed(self._best().mask, self._block.keeping, rng)
            else:
                mask = self._block.top_mask(rng.random(size))
            self._add(descent.run(mask, self._recorder, self.evaluations))
            if reason := self._recorder.expired(self.evaluations):
                return reason
        return ""

    def solution(self, status: Status, reason: str) -> Solution:
        """The best mask as a solution."""
        best = self._best()
        others = [end.mask for end in sorted(self._found.values(), key=_objective) if end is not best]
        return Solution.from_mask(
            self._block,
            best.mask,
            status=status,
            stop_reason=reason,
            recorder=self._recorder,
            details={
                "descents": self.descents,
                "moves": self.moves,
                "evaluations": self.evaluations,
                "locally_optimal": best.proved,
            },
            alternatives=np.array(others[:ALTERNATIVES]) if others else None,
        )

    def _ranked_starts(self, count: int) -> list[BoolArray]:
        """`count` of incumbent, magnitude and the best other score; with a count of one, the best of all."""
        block = self._block
        masks = {block.incumbent.tobytes(): _Optimum(self._start.objective, block.incumbent, False)}
        for name in SCORES:
            if name == "random" or (name == "gradient" and not block.form.linear.any()):
                continue
            mask = block.top_mask(score(name, block.form, block.dense_weights))
            if mask.tobytes() not in masks and not self._recorder.expired():
                masks[mask.tobytes()] = _Optimum(block.evaluate(mask), mask, False)
        ranked = sorted(masks.values(), key=_objective)
        if count == 1:
            return [ranked[0].mask]
        # magnitude comes first among the scores, so it is the second entry where it differs from the incumbent
        first = {end.mask.tobytes(): end.mask for end in (*list(masks.values())[:2], *ranked)}
        return list(first.values())[:count]

    def _add(self, result: DescentResult) -> None:
        self.descents += 1
        self.moves += result.moves
        self.evaluations += result.evaluations
        key = result.mask.tobytes()
        held = self._found.get(key)
        objective = held.objective if held else self._block.evaluate(result.mask)
        proved = result.locally_optimal or (held is not None and held.proved)
        self._found[key] = _Optimum(objective, result.mask, proved)
        self._recorder.record(objective)

    def _best(self) -> _Optimum:
        # the start comes last: where it ties with the end of a descent, the end carries the proof
        return min((*self._found.values(), self._start), key=_objective)


def _objective(end: _Optimum) -> float:
    return end.objective


def _restarts(size: int) -> int:
    if size <= MANY_RESTARTS_SIZE:
        return MANY_RESTARTS
    return FEW_RESTARTS if size <= FEW_RESTARTS_SIZE else 1


def _perturbed(mask: BoolArray, keeping: Counted, rng: np.random.Generator) -> BoolArray:
    """`mask` with a share of its exchangeable weights exchanged at random, within groups where there is a quota."""
    out = mask.copy()
    if keeping.one_count:
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        exchanges = max(1, round(PERTURBED_SHARE * min(kept.size, pruned.size)))
        leaving, entering = rng.choice(kept, exchanges, replace=False), rng.choice(pruned, exchanges, replace=False)
    else:
        kept, pruned = keeping.exchanges(mask, rng.random(mask.size), rng.random(mask.size))
        pairs = rng.choice(kept.size, max(1, round(PERTURBED_SHARE * kept.size)), replace=False)
        leaving, entering = kept[pairs], pruned[pairs]
    out[leaving] = False
    out[entering] = True
    return out
