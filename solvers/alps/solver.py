"""ALPS on a whole layer at once: ADMM with one eigendecomposition of the Gram matrix, finished by exact swaps.

Meng, Behdin, Wang, Mazumder: ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
Language Models, NeurIPS 2024. Beyond the paper: it starts from the minimiser (which differs from the dense
weights if earlier layers were pruned), the last refit runs until it has converged, and in small layers swaps within
each row follow.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.kernels.linear_algebra.layer_view import LayerView, refusal

SWAP_WORK = 2e7
"""rows·c³, the operations of the rows' tableaus, up to which swaps follow by default: they are then a small part of
the search. A layer of 512 rows of 512 weights has 7e10."""
ONE_ROW = 1024
"""Most weights of a block of one row in which swaps follow by default: of 1,024 they took .1 s, the search .3."""


@register
@dataclass(frozen=True, kw_only=True)
class Alps(Solver):
    """Search a layer's support by ADMM from several penalties, refit each, swap within the rows of the best.

    Takes a whole layer (rows that share one Hessian) or any block as a layer of one row, with any
    quota. Proves no bound; never worse than the refitted start. Cost 9c³ for the spectrum,
    2·rows·c² to 4·rows·c² a step of the search or of the refit, rows·c³ for the swaps.
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
    """Whether swaps within the rows follow; none: in layers so small that they cost little (rows·c³ up to 2e7), and in
    blocks of one row of up to 1,024 weights."""

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
            mask, start, made = search.run(penalty, self.steps, best.stop_after(best.evaluations))
            best.evaluations += made
            steps.append(made)
            best.offer(mask, f"alps {penalty:g}", search.refitted(mask, start))
            if stop := best.stop(best.evaluations):
                return stop
        best.details["steps"] = steps
        rows, columns = view.shape
        small = rows * float(columns) ** 3 <= SWAP_WORK or (rows == 1 and columns <= ONE_ROW)
        swap = small if self.swaps is None else self.swaps
        if swap:
            mask, made = layer.swap_rows(block, view, best.mask, best.stop_after(best.evaluations))
            best.details["swaps"] = made
            if made:
                best.offer(mask, "swaps")
        searched = f"support searched from {len(self.penalties)} penalties{', then swapped' if swap else ''}"
        return best.stop(best.evaluations) or Stop.finished(searched)
