"""The best of many uniformly random masks: the baseline that every other solver must beat.

Uniform sampling of feasible masks is the baseline of the quantum and annealing literature, for
example Hadfield et al.: From the Quantum Approximate Optimization Algorithm to a Quantum
Alternating Operator Ansatz, Algorithms 2019.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.keeping import Count
from prunebench.core.solver import Incumbent, Solver, Stop, register

CHUNK_ELEMENTS = 1_000_000
"""Mask entries drawn between two looks at the clock."""


@register
@dataclass(frozen=True, kw_only=True)
class RandomSampling(Solver):
    """Draw masks with exactly `keep` ones, uniformly, and keep the best.

    With a budget, weights are kept in a random order as long as they fit.

    Solves mode select; in mode refit the best mask is refitted. Proves nothing. Cost 2np a mask. A start
    mask is returned if it is better; `details` also report the best of the samples.
    """

    name = "random"
    modes = frozenset({"select"})
    stochastic = True
    baseline = True
    whole_at_limit = True
    takes = frozenset({Count, Cost})
    reference = "Hadfield et al., Algorithms 2019 (uniform sampling of feasible states)"

    samples: int = 10_000
    """Masks that are drawn; 0: until the budget is used."""

    def refuses(self, block: BlockProblem) -> str:
        """A negative number of samples."""
        return f"samples is {self.samples}; choose 0 or more" if self.samples < 0 else ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Draw masks until there are enough; the first chunk is drawn whatever the budget."""
        block, budget = best.block, best.budget
        qubo = block.to_qubo()
        unlimited = self.samples == 0 and np.isinf(budget.seconds) and np.isinf(budget.evaluations)
        wanted = 10_000 if unlimited else self.samples or np.inf
        lowest, drawn, stop = np.inf, 0, None
        chunk = max(1, CHUNK_ELEMENTS // block.p)
        while drawn < wanted and not (drawn and (stop := best.stop(drawn))):
            count = int(min(chunk, wanted - drawn, max(1, budget.evaluations - drawn)))
            masks = _counted(block, count, rng) if block.budget is None else _filled(block.budget, count, rng)
            energies = qubo.energies(masks)
            drawn += count
            at = int(np.argmin(energies))
            if energies[at] < lowest:
                lowest = float(energies[at])
                best.offer(masks[at], "sample")
        best.details = {"samples": drawn, "best_sample": best.objectives["sample"]}
        return stop or Stop.finished(f"drew {wanted:g} masks")


def _counted(block: BlockProblem, count: int, rng: np.random.Generator) -> BoolArray:
    """`count` uniformly random masks with `keep` ones. bool (count, p)"""
    masks = np.zeros((count, block.p), dtype=np.bool_)
    if block.keep:
        kept = np.argpartition(rng.random((count, block.p)), block.keep - 1, axis=1)[:, : block.keep]
        np.put_along_axis(masks, kept, True, axis=1)
    return masks


def _filled(budget: Cost, count: int, rng: np.random.Generator) -> BoolArray:
    """`count` masks that keep weights in a random order as long as they fit. bool (count, p)

    Any mask, each as likely as the others, where no budget binds.
    """
    if not budget.binds:
        return np.asarray(rng.random((count, budget.p)) < 0.5)
    masks = np.zeros((count, budget.p), dtype=np.bool_)
    spent = np.zeros((count, budget.limits.size))
    rows = np.arange(count)
    for places in np.argsort(rng.random((count, budget.p)), axis=1).T:
        ahead = spent + budget.costs[:, places].T
        fits = (ahead <= budget.safe).all(axis=1)
        masks[rows[fits], places[fits]] = True
        spent[fits] = ahead[fits]
    return masks
