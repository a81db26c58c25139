"""Combinatorial Brain Surgeon: choose the pruned weights jointly by swaps, then re-optimise the rest.

Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon: Pruning Weights That Cancel One Another in
Neural Networks, ICML 2022 (CBS-S and CBS-U). All swaps are candidates, while the released program
restricts them to a window of two sorted lists, accepts only gains above 1e-4, and never restores a large
negative weight. The update CBS-U is the back-solve on the support, by the n×n dual.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class Cbs(Solver):
    """Swap descent on the select objective from the start; in mode refit its mask is then back-solved.

    As published, the mask is chosen for mode select. In mode refit solver `swap`, which uses the refitted
    objective, does better. Proves no bound; never worse than a given start.
    """

    name = "cbs"
    preferred_mode = "refit"
    baseline = True
    whole_at_limit = True
    takes = frozenset({Count, Quota})
    reference = "Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon, ICML 2022"

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the descent for the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block.in_mode("select"))

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The mask after swaps, in mode refit with its back-solve."""
        from prunebench.kernels.local_search.descent import swap_descent

        select = best.block.in_mode("select")
        # the descent minimises another objective, so it has its own incumbent
        descent = swap_descent(select, select.incumbent, Incumbent(select, best.budget))
        best.offer(descent.mask, "cbs")
        best.details = {"moves": descent.moves, "select_objective": select.evaluate(descent.mask)}
        return descent.stop
