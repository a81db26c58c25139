"""The best of many uniformly random masks: what every other solver must beat.

Uniform sampling of feasible masks is the baseline of the quantum and annealing literature, for
example Hadfield et al.: From the Quantum Approximate Optimization Algorithm to a Quantum
Alternating Operator Ansatz, Algorithms 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register

CHUNK_ELEMENTS = 1_000_000
"""Mask entries drawn between two looks at the clock."""


@register
@dataclass(frozen=True, kw_only=True)
class RandomSampling:
    """Draw masks with exactly `keep` ones, uniformly, and keep the best.

    Solves mode select; in mode refit the best mask is refitted. Proves nothing. Cost 2np a mask. The
    incumbent that it starts from counts, so that a start mask is never lost; `details` say what
    the samples alone reached.
    """

    name: ClassVar[str] = "random"
    modes: ClassVar[frozenset[str]] = frozenset({"select"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Hadfield et al., Algorithms 2019 (uniform sampling of feasible states)"

    samples: int = 10_000
    """Masks that are drawn; 0: until the budget is used."""

    def refuses(self, block: BlockProblem) -> str:
        """A negative number of samples."""
        return f"samples is {self.samples}; choose 0 or more" if self.samples < 0 else ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best mask drawn, or the start mask where that is better."""
        recorder = Recorder(budget, progress)
        qubo = block.to_qubo()
        unlimited = self.samples == 0 and np.isinf(budget.seconds) and np.isinf(budget.evaluations)
        wanted = 10_000 if unlimited else self.samples or np.inf
        best_mask, best = None, np.inf
        start = None if block.start_mask is None else block.evaluate(block.start_mask)
        if start is not None:
            recorder.record(start)
        drawn, reason = 0, f"drew {wanted:g} masks"
        while drawn < wanted:
            stop = recorder.expired(drawn)
            if stop and drawn:
                reason = stop
                break
            count = int(min(max(1, CHUNK_ELEMENTS // block.p), wanted - drawn, max(1, budget.evaluations - drawn)))
            masks = np.zeros((count, block.p), dtype=np.bool_)
            if block.keep:
                kept = np.argpartition(rng.random((count, block.p)), block.keep - 1, axis=1)[:, : block.keep]
                np.put_along_axis(masks, kept, True, axis=1)
            energies = qubo.energies(masks)
            drawn += count
            at = int(np.argmin(energies))
            if energies[at] < best:
                best, best_mask = float(energies[at]), masks[at].copy()
                recorder.record(block.evaluate(best_mask))
        assert best_mask is not None
        own = block.evaluate(best_mask)
        better = start is not None and start < own
        return Solution.from_mask(
            block,
            block.incumbent if better else best_mask,
            status=Status.FEASIBLE,
            stop_reason=f"{reason}; the start mask was better" if better else reason,
            recorder=recorder,
            details={"samples": drawn, "best_sample": own},
        )
