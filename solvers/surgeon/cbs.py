"""Combinatorial Brain Surgeon: choose the pruned weights together by swaps, then re-optimise the rest.

Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon: Pruning Weights That Cancel One Another in
Neural Networks, ICML 2022 (CBS-S and CBS-U). Every swap is a candidate, where the released program
keeps to a window of two sorted lists, accepts only gains above 1e-4, and never lets a large negative
weight back in. The update CBS-U is the back-solve on the support, by the n×n dual.
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

    The mask is chosen for mode select, as published, so in mode refit solver `swap`, which looks at
    the refitted objective, does better. Proves no bound; never worse than a start that is given.
    """

    name = "cbs"
    preferred_mode = "refit"
    baseline = True
    whole_at_limit = True
    takes = frozenset({Count, Quota})
    reference = "Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon, ICML 2022"

    def warm_up(self, block: BlockProblem) -> None:
        """The descent that fits the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block.in_mode("select"))

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The swapped mask, with its back-solve in mode refit."""
        from prunebench.kernels.local_search.descent import swap_descent

        select = best.block.in_mode("select")
        # the descent's progress is that of another objective, so it has an incumbent of its own
        descent = swap_descent(select, select.incumbent, Incumbent(select, best.budget))
        best.offer(descent.mask, "cbs")
        best.details = {"moves": descent.moves, "select_objective": select.evaluate(descent.mask)}
        return descent.stop
