"""CHITA-BSO: one thresholding step from the dense weights, then the back-solve on its support.

Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 5. Without a linear term that step does not move,
so this is magnitude pruning with a back-solve.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class ChitaBso(Solver):
    """The back-solve of the first thresholding step: most of what the published method gains, in one solve.

    Proves no bound; never worse than magnitude pruning with its back-solve. Cost n²·keep.
    """

    name = "chita-bso"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    takes = frozenset({Count, Quota})
    reference = "Benbaki et al.: Fast as CHITA, ICML 2023"

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The back-solved support of the first step, if that step moves."""
        block = best.block
        if block.form.linear.any() or not np.array_equal(block.form.centre, block.dense_weights):
            from prunebench.solvers.chita import thresholding

            descent = thresholding.Descent(block.form, block.keeping)
            best.offer(thresholding.first_support(descent, block.dense_weights, block.keeping), "first step")
        return Stop.finished("back-solved")
