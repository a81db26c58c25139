"""CHITA-BSO: one thresholding step from the dense weights, then the back-solve on its support.

Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 5. Without a linear term that step stays where it
is, so this is magnitude pruning with a back-solve.
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
class ChitaBso:
    """The back-solve of the first thresholding step: most of what the published method gains, in one solve.

    Proves no bound; never worse than magnitude pruning with its back-solve. Cost n²·keep.
    """

    name: ClassVar[str] = "chita-bso"
    modes: ClassVar[frozenset[str]] = frozenset({"refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Benbaki et al.: Fast as CHITA, ICML 2023"

    def refuses(self, block: BlockProblem) -> str:
        """Nothing."""
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The back-solved support, or the start where that is better."""
        best = Candidates(block, Recorder(budget, progress))
        moved = bool(block.form.linear.any()) or not np.array_equal(block.form.centre, block.dense_weights)
        if moved and not settled(block) and not best.expired():
            from prunebench.solvers.chita import thresholding

            best.offer(thresholding.first_support(block.form, block.dense_weights, block.keeping), "first step")
        return best.solution("back-solved")
