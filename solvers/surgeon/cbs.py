"""Combinatorial Brain Surgeon: choose the pruned weights together by swaps, then re-optimise the rest.

Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon: Pruning Weights That Cancel One Another in
Neural Networks, ICML 2022 (CBS-S and CBS-U). Every swap is a candidate, where the released program
keeps to a window of two sorted lists, accepts only gains above 1e-4, and never lets a large negative
weight back in. The update CBS-U is the back-solve on the support, by the n×n dual.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.solution import Budget, Progress, Recorder, Solution
from prunebench.core.solver import register
from prunebench.kernels.local_search.candidates import Candidates, settled


@register
@dataclass(frozen=True, kw_only=True)
class Cbs:
    """Swap descent on the select objective from the start; in mode refit its mask is then back-solved.

    The mask is chosen for mode select, as published, so in mode refit solver `swap`, which looks at
    the refitted objective, does better. Proves no bound; never worse than a start that is given.
    """

    name: ClassVar[str] = "cbs"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Yu, Serra, Ramalingam, Zhe: The Combinatorial Brain Surgeon, ICML 2022"

    def warm_up(self, block: BlockProblem) -> None:
        """The descent that fits the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block.in_mode("select"))

    def refuses(self, block: BlockProblem) -> str:
        """Nothing."""
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The swapped mask, or the block's start mask where that is better."""
        from prunebench.kernels.local_search.descent import swap_descent

        recorder = Recorder(budget, progress)
        best = Candidates(block, recorder, published=True)
        if settled(block) or best.expired():
            best.offer(block.incumbent, "start")
            return best.solution("there is one feasible mask" if settled(block) else best.expired())
        select = block.in_mode("select")
        try:
            # its progress is that of another objective, so it keeps a record of its own
            descent = swap_descent(select, block.incumbent, Recorder(budget))
            best.offer(descent.mask, "cbs")
        except KeyboardInterrupt:
            best.offer(block.incumbent, "start")
            return best.solution("interrupted", interrupted=True)
        details = {"moves": descent.moves, "select_objective": select.evaluate(descent.mask)}
        return best.solution(descent.stop_reason, details=details)
