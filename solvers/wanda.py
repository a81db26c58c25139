"""Wanda: prune by magnitude times the norm of the input, the weights left as they are.

Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register
from prunebench.scores import score


@register
@dataclass(frozen=True, kw_only=True)
class Wanda:
    """Keep the highest |w_ij|·‖X_j‖, as the published method does with one count an output row, or N:M.

    Which weights are compared is the block's quota: the same row's in the paper. Takes a whole layer
    or a block. In mode refit the mask is chosen the same way and the kept weights are re-optimised,
    which is not Wanda. A start mask that is better is given back unchanged. Proves no bound.
    """

    name: ClassVar[str] = "wanda"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "select"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    whole_layers: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Sun, Liu, Bair, Kolter: Wanda, ICLR 2024"

    def refuses(self, block: BlockProblem) -> str:
        """Nothing."""
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The ranked mask, or the start mask where that is better."""
        recorder = Recorder(budget, progress)
        mask = block.top_mask(score("wanda", block.form, block.dense_weights))
        reason = "ranked all weights"
        if block.start_mask is not None:
            start = block.evaluate(block.start_mask)
            recorder.record(start)
            if block.evaluate(mask) > start:
                mask, reason = block.start_mask, "ranked all weights; the start mask was better"
        return Solution.from_mask(block, mask, status=Status.FEASIBLE, stop_reason=reason, recorder=recorder)
