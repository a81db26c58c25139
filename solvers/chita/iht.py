"""Iterative hard thresholding with an exact line search, coordinate descent and back-solve.

Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao, Mazumder: Fast as CHITA: Neural Network Pruning with
Combinatorial Optimization, ICML 2023 (algorithms 2 to 5); Foucart: Hard thresholding pursuit, SIAM J.
Numer. Anal. 2011 (back-solves between the steps). In mode select, projected gradient on masks.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.solution import Budget, Progress, Recorder, Solution
from prunebench.core.solver import register
from prunebench.kernels.local_search.candidates import Candidates, settled


@register
@dataclass(frozen=True, kw_only=True)
class Iht:
    """Gradient steps followed by a hard threshold, each by an exact search along its piecewise parabola.

    Rounds of: steps on an active set, coordinate descent on the support, back-solve; a round begins
    where the last one ended and the search ends when a round does not improve. Monotone, and never
    worse than the start (magnitude pruning) with its back-solve. Proves no bound. Cost of a step 2np,
    of a round one back-solve; nothing of size p².
    """

    name: ClassVar[str] = "iht"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Benbaki et al.: Fast as CHITA, ICML 2023"

    steps: int = 30
    """Most steps of a round."""

    rounds: int = 10
    """Most rounds; one is the published method."""

    active: float = 1.5
    """Size of the first active set in units of `keep`; the steps touch only its columns."""

    sweeps: int = 1
    """Passes of coordinate descent after a round's steps; 0 for none."""

    def refuses(self, block: BlockProblem) -> str:
        """Counts that make no sense."""
        for option, least in (("steps", 1), ("rounds", 1), ("active", 1.0), ("sweeps", 0)):
            if not getattr(self, option) >= least:
                return f"{option} is {getattr(self, option)}; choose {least} or more"
        if block.mode == "select" and block.form.is_indefinite:
            return "the Hessian is indefinite, and its steps need a convex form; choose solver 'swap' or 'anneal'"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best support found, with its back-solve in mode refit."""
        recorder = Recorder(budget, progress)
        best = Candidates(block, recorder)
        if settled(block):
            return best.solution("there is one feasible mask")
        if reason := best.expired():
            return best.solution(reason)
        try:
            details = self._select(best) if block.mode == "select" else self._refit(best)
        except KeyboardInterrupt:
            return best.solution("interrupted", interrupted=True)
        return best.solution("no step improves", details=details)

    def _select(self, best: Candidates) -> dict[str, object]:
        from prunebench.solvers.chita.projected_masks import MaskDescent

        def stop(made: int) -> str:
            return best.recorder.expired(best.evaluations + made)

        mask, made = MaskDescent(best.block).run(best.mask, self.steps * self.rounds, stop)
        best.offer(mask, "projected gradient")
        return {"steps": made}

    def _refit(self, best: Candidates) -> dict[str, object]:
        from prunebench.solvers.chita import thresholding

        form, keep = best.block.form, best.block.keeping
        whole = thresholding.Descent(form, keep)
        weights: FloatArray = np.where(best.mask, best.block.dense_weights, 0.0)
        taken: list[int] = []

        def stop(made: int) -> str:
            return best.recorder.expired(best.evaluations + made)

        for number in range(self.rounds):
            start = whole.at(weights, best.mask)
            point, made = thresholding.with_active_set(form, start, keep, self.steps, self.active, stop)
            best.evaluations += made
            taken.append(made)
            mask = point.mask
            if self.sweeps and not best.expired():
                from prunebench.solvers.chita import coordinate_descent

                swept = whole.at(coordinate_descent.descend(form, point.weights, mask, self.sweeps), mask)
                following = whole.step(swept, whole.gradient(swept))
                mask = following.mask if following is not None else mask
            better = best.offer(mask, f"round {number + 1}")
            # the first round starts from the dense weights and may only just not pay
            if best.expired() or not (better or number == 0):
                break
            weights = best.weights
        return {"steps": taken}
