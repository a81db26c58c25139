"""CHITA, repaired: active-set IHT from the magnitude support, then the back-solve; exchanges of weights after that.

Benbaki et al.: Fast as CHITA: Neural Network Pruning with Combinatorial Optimization, ICML 2023,
algorithms 2 and 4. The published method ends with the back-solve: `swaps=0`, as in recipe chita. Left out: the
Lipschitz constants by SVD, which the line search never uses, a support test with the wrong extreme, and the
all-zero result if no trial improves.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class Chita(Solver):
    """Twenty steps of IHT with line search on an active set, then the back-solve, then exchanges of weights.

    Proves no bound; with the back-solve never worse than the start. Cost 2np a step. The published method is that with
    `swaps=0`: its supports are often magnitude's.
    """

    name = "chita"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    reference = "Benbaki et al.: Fast as CHITA, ICML 2023"

    steps: int = 20
    """Most steps."""

    active: float = 1.5
    """Size of the first active set in units of `keep`."""

    back_solve: bool = True
    """Back-solve; without it the weights are those of the last step, as released, and nothing is exchanged."""

    swaps: int = 1
    """Rounds of exchanges among 512 weights at the end; 0 for none, as published."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the exchanges for the block's size."""
        if self.back_solve and self.swaps:
            from prunebench.kernels.local_search.descent import warm_up

            warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """Counts out of range."""
        if self.steps < 1 or not 1.0 <= self.active < float("inf"):
            return f"steps is {self.steps} and active {self.active}; choose 1 or more for both, and a finite number"
        if self.swaps < 0:
            return f"swaps is {self.swaps}; choose 0 or more"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The support of the last step and, with the back-solve, of the start, with exchanges on the better one."""
        from prunebench.solvers.chita import thresholding

        if self.back_solve:
            best.begin()
        block = best.block
        mask = block.incumbent
        gain = thresholding.COARSE_GAIN if self.swaps and self.back_solve else thresholding.RELATIVE_GAIN
        whole = thresholding.Descent(block.form, block.keeping, least_gain=gain)
        if block.start_mask is None:
            mask = thresholding.first_support(whole, block.dense_weights, block.keeping)
        start = whole.at(np.where(mask, block.dense_weights, 0.0), mask)
        point, made = thresholding.with_active_set(whole, start, block.keeping, self.steps, self.active, best.stop)
        best.offer(point.mask, "iht", None if self.back_solve else point.weights)
        best.details["steps"] = made
        if stop := best.stop(made):
            return stop
        if not self.back_solve or not self.swaps:
            return Stop.finished("finished the steps")
        from prunebench.kernels.local_search.working_sets import finish

        finish(best, self.swaps)
        return best.stop(made) or Stop.finished("finished the steps, then swapped")
