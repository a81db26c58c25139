"""Wanda: prune by magnitude times input norm; the weights are not changed.

Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.scores import score


@register
@dataclass(frozen=True, kw_only=True)
class Wanda(Solver):
    """Keep the highest |w_ij|·‖X_j‖, as the published method does with one count per output row, or N:M.

    The block's quota says which weights are compared: those of one row in the paper. Takes a whole layer
    or a block. In mode refit the mask is chosen the same way and the kept weights are re-optimised,
    which is not Wanda. A better start mask is returned unchanged. Proves no bound.
    """

    name = "wanda"
    preferred_mode = "select"
    baseline = True
    takes = frozenset({Count, Quota})
    whole_layers = True
    reference = "Sun, Liu, Bair, Kolter: Wanda, ICLR 2024"

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Rank the weights and keep the highest scores."""
        best.offer(best.block.top_mask(score("wanda", best.block.form, best.block.dense_weights)), "wanda")
        return Stop.finished("ranked all weights")
