"""Keep the largest scores: the baseline that every other solver must beat.

Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, §2 (the score "obd"). The other scores
name their sources in prunebench.scores.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register
from prunebench.scores import SCORES, score


@register
@dataclass(frozen=True, kw_only=True)
class Magnitude:
    """Rank the weights by one score and keep the top `keep`.

    Solves neither mode exactly. In refit mode the kept weights are re-optimised on their support.
    A start mask that is better than the ranking is given back unchanged. Cost: the score, and one
    or two evaluations.
    """

    name: ClassVar[str] = "magnitude"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "select"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    quotas: ClassVar[bool] = True
    whole_layers: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989"

    score: str = "magnitude"
    """One of prunebench.scores.SCORES; "random" draws from the seed."""

    def refuses(self, block: BlockProblem) -> str:
        """An unknown score, or one that the block's form cannot give."""
        if self.score not in SCORES:
            return f"score {self.score!r} is unknown; choose one of {', '.join(SCORES)}"
        if self.score == "gradient" and not block.form.linear.any():
            return "score 'gradient' needs a linear term and the form's is zero; choose another score"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The ranked mask, or the start mask where that is better."""
        recorder = Recorder(budget, progress)
        mask = block.top_mask(score(self.score, block.form, block.dense_weights, rng))
        reason = "ranked all weights"
        if block.start_mask is not None:
            start = block.evaluate(block.start_mask)
            recorder.record(start)
            if block.evaluate(mask) > start:
                mask, reason = block.start_mask, "ranked all weights; the start mask was better"
        return Solution.from_mask(block, mask, status=Status.FEASIBLE, stop_reason=reason, recorder=recorder)
