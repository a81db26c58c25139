"""The best mask so far: what a solver that proposes masks keeps, so that it never ends worse than its start."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, frozen
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Recorder, Solution, Status


class Candidates:
    """The incumbent of one solve and who proposed it.

    Begins with `block.incumbent` (magnitude pruning where no start is given), evaluated in the
    block's mode: in mode refit a mask stands for its back-solve. With `published` it begins empty
    unless a start is given, so that a baseline's own weights are what comes back.
    """

    def __init__(self, block: BlockProblem, recorder: Recorder, *, published: bool = False) -> None:
        self.block, self.recorder = block, recorder
        self.evaluations = 0.0
        self.source = ""
        self.objective = float("inf")
        self.objectives: dict[str, float] = {}
        """The objective of every proposal, by name."""
        if block.start_mask is not None or not published:
            self.offer(block.incumbent, "start")

    def offer(self, mask: BoolArray, source: str, weights: FloatArray | None = None) -> bool:
        """Evaluate a mask, with its back-solve or the weights given; True if it is the best so far."""
        if weights is None:
            weights = self.block.weights_of(mask)
        objective = self.block.evaluate(weights, mask)
        self.evaluations += 1.0
        self.objectives[source] = objective
        if self.source and not objective < self.objective:
            return False
        self.mask: BoolArray = np.array(mask, dtype=np.bool_)
        self.weights: FloatArray = weights
        self.objective, self.source = objective, source
        self.recorder.record(objective)
        return True

    def expired(self) -> str:
        """Why to stop now, or "" to go on."""
        return self.recorder.expired(self.evaluations)

    def solution(
        self,
        stop_reason: str,
        *,
        interrupted: bool = False,
        details: Mapping[str, Any] | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> Solution:
        """The best mask with its weights. The status is time_limit where the budget ran out."""
        status = Status.TIME_LIMIT if self.expired() else Status.FEASIBLE
        if interrupted:
            status = Status.INTERRUPTED
        return Solution(
            mask=frozen(self.mask),
            weights=frozen(self.weights),
            objective=self.objective,
            lower_bound=-np.inf,
            status=status,
            stop_reason=self.expired() or stop_reason,
            trace=frozen(self.recorder.table(self.objective, -np.inf)),
            timings={"build": self.recorder.built, "solve": self.recorder.seconds, **(timings or {})},
            details={"best_from": self.source, "objectives": self.objectives, **(details or {})},
        )


def settled(block: BlockProblem) -> bool:
    """Whether there is only one feasible mask."""
    return block.settled


def masked(values: npt.NDArray[Any], mask: BoolArray) -> npt.NDArray[Any]:
    """`values` where the mask is True and zero elsewhere, in their own precision."""
    return np.where(mask, values, values.dtype.type(0))
