"""Local search by swaps: exchange one kept and one pruned weight while that improves, from several starts.

A small block in mode refit gets a tabu search instead: walks that go on past local optima, from several starts.

The search of Combinatorial Brain Surgeon (Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain
Surgeon, ICML 2022; CBS-S, and CBS-U for mode refit). Unlike its published code, which restricts partners
to a window of sorted lists, accepts only gains above an absolute 1e-4, omits the ridge, and never
restores a large negative weight, every step takes the best of all swaps, by the refitted objective in
mode refit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.keeping import Count, Keeping, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.kernels.local_search.descent import DescentResult, SwapDescent, search, searchable
from prunebench.scores import SCORES, score

MANY_RESTARTS = 10
"""Default descents up to MANY_RESTARTS_SIZE weights."""
MANY_RESTARTS_SIZE = 256
"""Most weights in a block that is small enough for many descents."""
FEW_RESTARTS = 3
"""Default descents up to FEW_RESTARTS_SIZE weights."""
FEW_RESTARTS_SIZE = 1024
"""Most weights for which descents run on dense couplings."""
PERTURBED_SHARE = 0.2
"""Share of the exchangeable weights that a perturbation exchanges."""
BUDGET_SHARES = (0.02, 0.2)
"""Least and largest share of the kept weights that a perturbation drops within a budget: small ones did best on gates
of whole networks, large ones on dense couplings."""
ALTERNATIVES = 16
"""Most other local optima in a solution."""


@register
@dataclass(frozen=True, kw_only=True)
class Swap(Solver):
    """Best-improvement swap descent from the incumbent, the best scores, and random restarts.

    Proves no bound; the answer is 1-swap optimal if `details["locally_optimal"]` says so. Starts are
    the incumbent, magnitude and the best other score, then alternately a perturbation of the best mask
    so far and a random mask. In mode refit, up to p = 1024, tabu walks from the best start and random masks, until
    sixteen end at the best value or a fixed amount of work is done: about a second at most, two where hundreds of
    weights are kept. A step costs
    O(k(p−k)) up to p = 1024; above, working sets on the factor are used, and nothing of size p² is formed from
    p = 2048 on. Within a budget a move drops a weight, adds one
    that fits, or exchanges two, and later starts are perturbations; p up to 8,192, in mode refit 1,024.
    """

    name = "swap"
    stochastic = True
    takes = frozenset({Count, Quota, Cost})
    reference = "Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon, ICML 2022"

    restarts: int | None = None
    """Descents, at least one; none: in mode refit a search up to p = 1024, else 10 up to p = 256, 3 up to p = 1024, 1
    beyond."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the descent for the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """A number of restarts below one, or more weights with a budget than are taken."""
        from prunebench.kernels.local_search.budget_descent import too_large

        if self.restarts is not None and self.restarts < 1:
            return f"restarts is {self.restarts}; choose at least 1"
        if most := too_large(block):
            return f"with a budget it takes at most {most:,} weights in mode {block.mode}; choose solver 'obd'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best local optimum found; the others are the solution's alternatives."""
        ends = _Ends(best)
        try:
            if self.restarts is None and searchable(best.block):
                return _search(ends, rng)
            return _descend(ends, self.restarts or _restarts(best.block.p), rng)
        finally:
            ends.tell()


def _search(ends: "_Ends", rng: np.random.Generator) -> Stop:
    """Walk from mask to mask until the walks agree, or the work or the budget ends."""
    best = ends.best
    start = _ranked_starts(best, 1)[0]
    for end in search(best.block, start, best, rng):
        ends.add(end)
        if stop := best.stop(ends.evaluations):
            return stop
    return Stop.finished(f"walks finished: {ends.descents}")


def _descend(ends: "_Ends", restarts: int, rng: np.random.Generator) -> Stop:
    """Make `restarts` descents, or as many as the budget allows."""
    best = ends.best
    block = best.block
    starts = _ranked_starts(best, min(restarts, 3))
    descent = SwapDescent(block)
    for number in range(restarts):
        if number < len(starts):
            mask = starts[number]
        elif block.budget is not None or (number - len(starts)) % 2 == 0:
            mask = _perturbed(best.mask, block.constraint, rng)
        else:
            mask = block.top_mask(rng.random(block.p))
        ends.add(descent.run(mask, best, ends.evaluations))
        if stop := best.stop(ends.evaluations):
            return stop
    return Stop.finished(f"descents finished: {ends.descents}")


def _ranked_starts(best: Incumbent, count: int) -> list[BoolArray]:
    """`count` of incumbent, magnitude and the best other score; if `count` is one, the best of all."""
    block = best.block
    masks = {block.incumbent.tobytes(): _Start(best.objective, block.incumbent)}
    for name in SCORES:
        if name == "random" or (name == "gradient" and not block.form.linear.any()):
            continue
        mask = block.top_mask(score(name, block.form, block.dense_weights))
        if mask.tobytes() not in masks and not best.stop():
            masks[mask.tobytes()] = _Start(block.evaluate(mask), mask)
    ranked = sorted(masks.values(), key=lambda start: start.objective)
    if count == 1:
        return [ranked[0].mask]
    # magnitude is the first score, so it is the second entry if it differs from the incumbent
    first = {start.mask.tobytes(): start.mask for start in (*list(masks.values())[:2], *ranked)}
    return list(first.values())[:count]


class _Start(NamedTuple):
    objective: float
    mask: BoolArray


class _End(NamedTuple):
    """The end of a descent, and whether it was proved 1-swap optimal."""

    objective: float
    mask: BoolArray
    proved: bool


class _Ends:
    """The distinct ends of the descents of one solve, and counters."""

    def __init__(self, best: Incumbent) -> None:
        self.best = best
        self.descents, self.moves, self.evaluations = 0, 0, 0.0
        self._held: dict[bytes, _End] = {}

    def add(self, result: DescentResult) -> None:
        """Take the end of a descent."""
        self.descents += 1
        self.moves += result.moves
        self.evaluations += result.evaluations
        key = result.mask.tobytes()
        held = self._held.get(key)
        if held is None:
            self.best.offer(result.mask, "descent")
            held = _End(self.best.objectives["descent"], result.mask, False)
        self._held[key] = held._replace(proved=held.proved or result.locally_optimal)

    def tell(self) -> None:
        """Write the counters and the other ends into the answer."""
        key = self.best.mask.tobytes()
        found = self._held.get(key)
        self.best.details = {
            "descents": self.descents,
            "moves": self.moves,
            "evaluations": self.evaluations,
            "locally_optimal": found is not None and found.proved,
        }
        ranked = sorted(self._held.values(), key=lambda end: end.objective)
        others = [end.mask for end in ranked if end.mask.tobytes() != key]
        self.best.alternatives = np.array(others[:ALTERNATIVES]) if others else None


def _restarts(size: int) -> int:
    if size <= MANY_RESTARTS_SIZE:
        return MANY_RESTARTS
    return FEW_RESTARTS if size <= FEW_RESTARTS_SIZE else 1


def _perturbed(mask: BoolArray, keeping: Keeping, rng: np.random.Generator) -> BoolArray:
    """`mask` with a share of its exchangeable weights exchanged at random, within groups if there is a quota.

    Within a budget, a drawn share of the kept weights is dropped, and others are added in a random order as they fit.
    """
    out = mask.copy()
    if isinstance(keeping, Cost):
        kept = np.flatnonzero(mask)
        share = float(np.exp(rng.uniform(*np.log(BUDGET_SHARES))))
        out[rng.choice(kept, min(kept.size, max(1, round(share * kept.size))), replace=False)] = False
        return keeping.filled(rng.permutation(mask.size), out)
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
