"""Iterative hard thresholding with an exact line search and back-solve, then exchanges of weights.

Benbaki, Chen, Meng, Hazimeh, Ponomareva, Zhao, Mazumder: Fast as CHITA: Neural Network Pruning with
Combinatorial Optimization, ICML 2023 (algorithms 2 to 5); Foucart: Hard thresholding pursuit, SIAM J.
Numer. Anal. 2011 (back-solves between the steps); Zhu et al.: A polynomial algorithm for best-subset
selection, PNAS 2020 (splicing, the first of the exchanges). In mode select, projected gradient on masks.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.row_products import as_wide
from prunebench.core.solver import Incumbent, Solver, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class Iht(Solver):
    """Gradient steps followed by a hard threshold, each by an exact search along its piecewise parabola.

    A round makes steps on an active set, coordinate descent on the support, and a back-solve. Each round
    begins where the last one ended, and the rounds end when one does not improve. In mode refit, exchanges of weights
    follow, decided by the refitted objective: most of what it gains. Monotone, and never worse than the start
    (magnitude pruning) with its back-solve. Proves no bound. A step costs 2np, a round one back-solve; above 2,048
    weights nothing of size p² is formed.
    """

    name = "iht"
    preferred_mode = "refit"
    takes = frozenset({Count, Quota})
    reference = "Benbaki et al.: Fast as CHITA, ICML 2023"

    steps: int = 10
    """Most steps of a round."""

    rounds: int = 1
    """Most rounds."""

    active: float = 1.5
    """Size of the first active set in units of `keep`; the steps touch only its columns."""

    sweeps: int = 0
    """Passes of coordinate descent after a round's steps; 0 for none."""

    swaps: int = 1
    """Rounds of exchanges among 512 weights at the end, in mode refit; 0 for none, as published."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the exchanges for the block's size."""
        if block.mode == "refit" and self.swaps:
            from prunebench.kernels.local_search.descent import warm_up

            warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """Counts out of range."""
        for option, least in (("steps", 1), ("rounds", 1), ("active", 1.0), ("sweeps", 0), ("swaps", 0)):
            if not getattr(self, option) >= least:
                return f"{option} is {getattr(self, option)}; choose {least} or more"
        if block.mode == "select" and block.form.is_indefinite:
            return "the Hessian is indefinite, and its steps need a convex form; choose solver 'swap' or 'anneal'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best support found, with its back-solve in mode refit."""
        return self._select(best) if best.block.mode == "select" else self._refit(best)

    def _select(self, best: Incumbent) -> Stop:
        from prunebench.solvers.chita.projected_masks import MaskDescent

        check = best.stop_after(best.evaluations)
        mask, made = MaskDescent(best.block).run(best.mask, self.steps * self.rounds, check)
        best.offer(mask, "projected gradient")
        best.details["steps"] = made
        return check(made) or Stop.finished("no step improves")

    def _refit(self, best: Incumbent) -> Stop:
        from prunebench.solvers.chita import thresholding

        form, keep = best.block.form, best.block.keeping
        gain = thresholding.COARSE_GAIN if self.swaps else thresholding.RELATIVE_GAIN
        whole = thresholding.Descent(form, keep, least_gain=gain)
        weights: FloatArray = np.where(best.mask, best.block.dense_weights, 0.0)
        taken: list[int] = []
        best.details["steps"] = taken
        for number in range(self.rounds):
            start = whole.at(weights, best.mask)
            check = best.stop_after(best.evaluations)
            point, made = thresholding.with_active_set(whole, start, keep, self.steps, self.active, check)
            best.evaluations += made
            taken.append(made)
            mask = point.mask
            if self.sweeps and not best.stop(best.evaluations):
                from prunebench.solvers.chita import coordinate_descent

                swept = whole.at(coordinate_descent.descend(form, point.weights, mask, self.sweeps), mask)
                following = whole.step(swept, whole.gradient(swept))
                mask = following.mask if following is not None else mask
            better = best.offer(mask, f"round {number + 1}")
            if stop := best.stop(best.evaluations):
                return stop
            # the first round starts from the dense weights and may narrowly fail to improve
            if not better and number:
                break
            weights = as_wide(best.weights)
        if not self.swaps:
            return Stop.finished("no step improves")
        from prunebench.kernels.local_search.working_sets import finish

        finish(best, self.swaps)
        return best.stop(best.evaluations) or Stop.finished("finished the steps, then swapped")
