"""ADMM on the whole network in its n×n dual, then exact swaps: the strongest support search for mode refit here.

Meng, Behdin, Wang, Mazumder: ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
Language Models, NeurIPS 2024 (ADMM with penalty continuation on the Gram matrix of one layer); the
n×n form of the weight update solves the problem of Benbaki et al.: Fast as CHITA, ICML 2023. The swaps
are those of Zhu et al.: A polynomial algorithm for best-subset selection, PNAS 2020, decided by the
exact refitted objective.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.row_products import as_wide
from prunebench.core.solution import Budget
from prunebench.core.solver import Incumbent, Solver, Stop, register

if TYPE_CHECKING:
    from prunebench.solvers.admm.candidates import Narrow

SWAP_SIZE = 2048
"""Up to this p, swaps continue until none improves; above, there are `swaps` rounds of exact working sets."""
SWAPS = 1
"""Default rounds of exact working sets on a large block that keeps few weights."""
SPECTRUM = "spectrum/cpu"
"""Where a form keeps the decomposition of all its weights."""
FEW = 0.25
"""Density up to which a block counts as keeping few weights."""


@register
@dataclass(frozen=True, kw_only=True)
class Admm(Solver):
    """Search the support by ADMM from several penalties, back-solve each, finish the best by swaps.

    Proves no bound, but is never worse than the refitted start. Cost: n²p for the Gram matrix of the rows
    and 9n³ for its spectrum, once for all penalties and, for blocks that share their factor, all ridges;
    4np a step; one refit per start. Of a large block that keeps few weights, only candidates' columns are
    decomposed, read and swapped. A form with a Hessian (layer-wise pruning) is decomposed
    itself, O(p³).
    """

    name = "admm"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    takes = frozenset({Count, Quota})
    reference = "Meng, Behdin, Wang, Mazumder: ALPS, NeurIPS 2024"

    penalties: tuple[float, ...] = (1.0,)
    """First penalties, one start each, in units of the ridge (at least 1e-3 of the curvature's mean diagonal)."""

    steps: int = 60
    """Most steps of a start; its penalty rises faster after half of them."""

    swaps: int | None = None
    """Rounds of exact swaps among 512 weights at the end; 0 for none; none: 1 if at most a quarter is kept."""

    device: str = "cpu"
    """Where the products with the factor are computed: cpu, or a torch device such as cuda."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the descent for the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """Invalid options, or a device that does not exist."""
        if not self.penalties or not all(np.isfinite(value) and value > 0.0 for value in self.penalties):
            return f"penalties are {self.penalties!r}; give at least one, all positive"
        if self.steps < 1 or (self.swaps or 0) < 0:
            return f"steps is {self.steps} and swaps {self.swaps}; choose at least 1 step and no fewer than 0 rounds"
        if self.device != "cpu":
            from prunebench.devices import refusal

            return refusal(self.device)
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best support found, refitted."""
        from prunebench.solvers.admm import exchanges
        from prunebench.solvers.admm.candidates import narrowed
        from prunebench.solvers.admm.spectrum import spectrum

        clock = best.seconds
        narrow = None
        # a decomposition of all weights that another solve has left costs nothing
        if self.device == "cpu" and SPECTRUM not in best.block.form.derived:
            narrow = narrowed(best.block, best.mask, as_wide(best.weights))
        block = best.block if narrow is None else narrow.block
        decomposed = spectrum(block.form, self.device)
        if narrow is not None:
            # penalties are in units of all weights' curvature, and candidates have more of it
            decomposed = replace(decomposed, mean_diagonal=float(best.block.form.curvature_diagonal().mean()))
        best.timings["spectrum"] = best.seconds - clock
        steps: list[int] = []
        for penalty in self.penalties:
            if stop := best.stop(best.evaluations):
                return stop
            check = best.stop_after(best.evaluations)
            start = best.mask if narrow is None else best.mask[narrow.chosen]
            rest = None if narrow is None else narrow.residual
            mask, made, _ = exchanges.search(block, decomposed, start, penalty, self.steps, check, rest)
            mask = mask if narrow is None else narrow.widened(mask, best.block.p)
            best.evaluations += made
            steps.append(made)
            best.offer(mask, f"admm {penalty:g}")
        best.details["steps"] = steps
        best.timings["admm"] = best.seconds - clock - best.timings["spectrum"]
        clock = best.seconds
        self._swap(best, narrow)
        best.timings["swaps"] = best.seconds - clock
        searched = f"support searched from {len(self.penalties)} penalties, then swapped"
        return best.stop(best.evaluations) or Stop.finished(searched)

    def _swap(self, best: Incumbent, narrow: "Narrow | None") -> None:
        # with many kept weights, refits cost most and swaps gain least
        few = best.block.density <= FEW or best.block.p <= SWAP_SIZE
        rounds = self.swaps if self.swaps is not None else SWAPS if few else 0
        if not rounds or best.stop(best.evaluations):
            return
        weights: FloatArray | None = None
        if best.block.p <= SWAP_SIZE:
            from prunebench.kernels.local_search.descent import swap_descent

            mask = swap_descent(best.block, best.mask, best).mask
        else:
            from prunebench.kernels.local_search.working_sets import improve

            if narrow is None:
                mask, weights = improve(best, rounds)
            else:
                inside = Incumbent(narrow.exact(best.mask), Budget(seconds=best.remaining, cpu=best.budget.cpu))
                mask = narrow.widened(improve(inside, rounds)[0], best.block.p)
        if not np.array_equal(mask, best.mask):
            best.offer(mask, "swaps", weights)
