"""CHITA as published, repaired: active-set IHT from the magnitude support, then the back-solve.

Benbaki et al.: Fast as CHITA: Neural Network Pruning with Combinatorial Optimization, ICML 2023,
algorithms 2 and 4. A baseline: `iht` and `admm` go further on the same problem. Not taken over: the
Lipschitz constants by SVD that the line search never uses, a support test by the wrong extreme, and
an all-zero result where no trial improves.
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
class Chita:
    """Twenty steps of IHT with line search on an active set, then the back-solve.

    Proves no bound; with the back-solve never worse than the start. Cost 2np a step.
    """

    name: ClassVar[str] = "chita"
    modes: ClassVar[frozenset[str]] = frozenset({"refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Benbaki et al.: Fast as CHITA, ICML 2023"

    steps: int = 20
    """Most steps."""

    active: float = 1.5
    """Size of the first active set in units of `keep`."""

    back_solve: bool = True
    """End with the back-solve; without it the weights are those of the last step, as released."""

    def refuses(self, block: BlockProblem) -> str:
        """Counts that make no sense."""
        if self.steps < 1 or not 1.0 <= self.active < float("inf"):
            return f"steps is {self.steps} and active {self.active}; choose 1 or more for both, and a finite number"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The support of the last step, or the start where that is better."""
        recorder = Recorder(budget, progress)
        best = Candidates(block, recorder, published=not self.back_solve)
        if settled(block) or best.expired():
            if not best.source:
                best.offer(block.incumbent, "start")
            return best.solution("there was nothing to search")
        from prunebench.solvers.chita import thresholding

        form = block.form
        mask = block.incumbent
        if block.start_mask is None:
            mask = thresholding.first_support(form, block.dense_weights, block.keeping)
        start = thresholding.Descent(form, block.keeping).at(np.where(mask, block.dense_weights, 0.0), mask)
        try:
            point, made = thresholding.with_active_set(
                form, start, block.keeping, self.steps, self.active, recorder.expired
            )
            best.offer(point.mask, "iht", None if self.back_solve else point.weights)
        except KeyboardInterrupt:
            if not best.source:
                best.offer(block.incumbent, "start")
            return best.solution("interrupted", interrupted=True)
        return best.solution("finished the steps", details={"steps": made})
