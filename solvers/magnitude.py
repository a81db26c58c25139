"""Keep the largest scores: the baseline that every other solver must beat.

Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, §2 (the score "obd"). The other scores
name their sources in prunebench.scores.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.scores import SCORES, score


@register
@dataclass(frozen=True, kw_only=True)
class Magnitude(Solver):
    """Rank the weights by one score and keep the top `keep`.

    Solves neither mode exactly. In refit mode the kept weights are re-optimised on their support.
    A start mask that is better than the ranking is returned unchanged. Cost: the score, and one
    or two evaluations.
    """

    name = "magnitude"
    preferred_mode = "select"
    baseline = True
    stochastic = True
    takes = frozenset({Count, Quota, Cost})
    whole_layers = True
    reference = "Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989"

    score: str = "magnitude"
    """One of prunebench.scores.SCORES; "random" draws from the seed."""

    def refuses(self, block: BlockProblem) -> str:
        """An unknown score, or one that the block's form cannot provide."""
        if self.score not in SCORES:
            return f"score {self.score!r} is unknown; choose one of {', '.join(SCORES)}"
        if self.score == "gradient" and not block.form.linear.any():
            return "score 'gradient' needs a linear term and the form's is zero; choose another score"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Rank the weights and keep the highest scores."""
        best.offer(best.block.top_mask(score(self.score, best.block.form, best.block.dense_weights, rng)), self.score)
        return Stop.finished("ranked all weights")
