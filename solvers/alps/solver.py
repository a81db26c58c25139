"""ALPS on a whole layer at once: ADMM with one eigendecomposition of the Gram matrix, finished by exact swaps.

Meng, Behdin, Wang, Mazumder: ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
Language Models, NeurIPS 2024. Beyond the paper: it starts from the minimiser (which differs from the dense
weights if earlier layers were pruned), the last refit is exact, and swaps within each row follow.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.kernels.linear_algebra.layer_view import LayerView, refusal

SWAP_COLUMNS = 1024
"""Most weights in a row for which swaps follow by default."""


@register
@dataclass(frozen=True, kw_only=True)
class Alps(Solver):
    """Search a layer's support by ADMM from several penalties, refit each, swap within the rows of the best.

    Takes a whole layer (rows that share one Hessian) or any block as a layer of one row, with any
    quota. Proves no bound; never worse than the refitted start. Cost 9c³ for the spectrum,
    4·rows·c² a step, c² a swap.
    """

    name = "alps"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    takes = frozenset({Count, Quota})
    whole_layers = True
    reference = "Meng, Behdin, Wang, Mazumder: ALPS, NeurIPS 2024"

    penalties: tuple[float, ...] = (0.1,)
    """First penalties, one search each, in units of the Hessian's diagonal."""

    steps: int = 300
    """Most steps of a search."""

    swaps: bool | None = None
    """Whether swaps within the rows follow; none: up to 1,024 weights a row."""

    def refuses(self, block: BlockProblem) -> str:
        """Invalid options, or rows that share no Hessian."""
        if not self.penalties or not all(np.isfinite(value) and value > 0.0 for value in self.penalties):
            return f"penalties are {self.penalties!r}; give at least one, all positive"
        if self.steps < 1:
            return f"steps is {self.steps}; choose at least 1"
        return refusal(block)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best support found, refitted."""
        from prunebench.solvers.alps import layer

        block = best.block
        view = LayerView.of(block)
        search = layer.Search(block, view)
        steps: list[int] = []
        for penalty in self.penalties:
            mask, made = search.run(penalty, self.steps, best.stop_after(best.evaluations))
            best.evaluations += made
            steps.append(made)
            best.offer(mask, f"alps {penalty:g}")
            if stop := best.stop(best.evaluations):
                return stop
        best.details["steps"] = steps
        swap = self.swaps if self.swaps is not None else view.shape[1] <= SWAP_COLUMNS
        if swap:
            mask, best.details["swaps"] = layer.swap_rows(block, view, best.mask, best.stop_after(best.evaluations))
            best.offer(mask, "swaps")
        searched = f"support searched from {len(self.penalties)} penalties{', then swapped' if swap else ''}"
        return best.stop(best.evaluations) or Stop.finished(searched)
