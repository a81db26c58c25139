"""Optimal Brain Damage: keep the weights with the largest ½ w² H_ii, the Fisher-diagonal baseline.

Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, §2.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.cost import Cost
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.scores import score


@register
@dataclass(frozen=True, kw_only=True)
class Obd(Solver):
    """Rank the weights by the diagonal of the curvature alone; in mode refit the kept ones are then re-optimised.

    Exact for diagonal curvature; otherwise ignores how weights act together. Cost O(np).
    """

    name = "obd"
    preferred_mode = "select"
    baseline = True
    takes = frozenset({Count, Quota, Cost})
    reference = "Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989"

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Rank the weights and keep the highest scores."""
        best.offer(best.block.top_mask(score("obd", best.block.form, best.block.dense_weights)), "obd")
        return Stop.finished("ranked all weights")
