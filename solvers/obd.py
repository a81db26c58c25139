"""Optimal Brain Damage: keep the weights with the largest ½ w² H_ii, the Fisher-diagonal baseline.

Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989, §2.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.solution import Budget, Progress, Recorder, Solution
from prunebench.core.solver import register
from prunebench.kernels.local_search.candidates import Candidates
from prunebench.scores import score


@register
@dataclass(frozen=True, kw_only=True)
class Obd:
    """Rank the weights by the diagonal of the curvature alone; in mode refit the kept ones are then re-optimised.

    Exact where the curvature is diagonal, and otherwise blind to how weights act together. Cost O(np).
    """

    name: ClassVar[str] = "obd"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "select"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Le Cun, Denker, Solla: Optimal Brain Damage, NeurIPS 1989"

    def refuses(self, block: BlockProblem) -> str:
        """Nothing."""
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The ranked mask, or a given start where that is better."""
        best = Candidates(block, Recorder(budget, progress), published=True)
        best.offer(block.top_mask(score("obd", block.form, block.dense_weights)), "obd")
        return best.solution("ranked all weights")
