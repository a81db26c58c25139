"""Optimal Brain Surgeon at any size: exact inverse diagonals, sequential for small blocks, then exact swaps.

Hassibi, Stork: Second order derivatives for network pruning, NeurIPS 1992; Frantar, Singh, Alistarh:
Optimal Brain Compression, NeurIPS 2022 (sequential form); Singh, Alistarh: WoodFisher, NeurIPS 2020
(empirical Fisher as curvature); Frantar, Kurtic, Alistarh: M-FAC, NeurIPS 2021 (estimate "mfac").
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register

SEQUENTIAL_SIZE = 1024
"""Up to this p weights are removed one by one, p² operations each."""
SWAP_SIZE = 2048
"""Up to this p, swaps continue until none improves; above, there are `swaps` rounds of exact working sets."""


@register
@dataclass(frozen=True, kw_only=True)
class Obs(Solver):
    """Prune the weights whose removal costs least if the others are re-optimised, then swap.

    Up to p = 1024 one weight at a time with exact updates (OBC); above, in `rounds` rounds, each with exact
    weights and inverse diagonal by the n×n dual, n²p operations. The mask is then improved by exact refit
    swaps. Proves no bound; never worse than the start with its back-solve.
    """

    name = "obs"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    takes = frozenset({Count, Quota})
    reference = "Hassibi, Stork: Second order derivatives for network pruning, NeurIPS 1992"

    rounds: int = 3
    """Rounds of a large block, the kept count falling geometrically; 1 is one-shot."""

    estimate: Literal["exact", "mfac"] = "exact"
    """The inverse's diagonal: exact, or M-FAC's recursion over `rows` rows with the weights left as they are."""

    rows: int = 64
    """Rows of the factor that the estimate mfac uses."""

    swaps: int = 2
    """Rounds of exact swaps at the end on a large block; 0 for none, also on a small one."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load and compile the descent for the block's size."""
        from prunebench.kernels.local_search.descent import warm_up

        warm_up(block)

    def refuses(self, block: BlockProblem) -> str:
        """Counts out of range, or the estimate mfac without a ridge."""
        for option, least in (("rounds", 1), ("rows", 1), ("swaps", 0)):
            if getattr(self, option) < least:
                return f"{option} is {getattr(self, option)}; choose {least} or more"
        if self.estimate == "mfac" and not (block.form.ridge > 0.0).all():
            return "the estimate mfac begins with the ridge's inverse; give every weight a positive ridge"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The mask by saliency, then swaps."""
        best.offer(self._prune(best), "obs")
        swapped = self._swap(best)
        stop = best.stop(best.evaluations)
        return stop or Stop.finished("pruned by saliency, then swapped" if swapped else "pruned by saliency")

    def _prune(self, best: Incumbent) -> BoolArray:
        from prunebench.solvers.surgeon import removal

        block = best.block
        if self.estimate == "exact" and block.p <= SEQUENTIAL_SIZE:
            return _one_by_one(block)
        costs = _MfacCosts(block, self.rows) if self.estimate == "mfac" else _ExactCosts(block)
        check = best.stop_after(best.evaluations)
        return removal.prune_in_rounds(block.keeping, self.rounds, costs, check)

    def _swap(self, best: Incumbent) -> bool:
        if not self.swaps or best.stop(best.evaluations):
            return False
        if best.block.p <= SWAP_SIZE:
            from prunebench.kernels.local_search.descent import swap_descent

            best.offer(swap_descent(best.block, best.mask, best).mask, "swaps")
        else:
            from prunebench.kernels.local_search.working_sets import improve

            mask, weights = improve(best, self.swaps)
            best.offer(mask, "swaps", weights)
        return True


class _ExactCosts:
    """The exact cost of removing each kept weight from the refit on a mask."""

    def __init__(self, block: BlockProblem) -> None:
        from prunebench.kernels.local_search.refit_factor import DualRefit, PrimalRefit

        self._refit: DualRefit | PrimalRefit
        self._refit = DualRefit(block.form) if block.form.factor is not None else PrimalRefit(block.form)

    def __call__(self, mask: BoolArray) -> FloatArray:
        return self._refit.view(mask, True).drop


class _MfacCosts:
    """M-FAC's estimate of these costs, at the dense weights throughout."""

    def __init__(self, block: BlockProblem, rows: int) -> None:
        from prunebench.solvers.surgeon import removal

        self._costs = removal.saliency(
            block.dense_weights, removal.recursive_inverse_diagonal(removal.first_rows(block.form, rows))
        )

    def __call__(self, mask: BoolArray) -> FloatArray:
        return self._costs


def _one_by_one(block: BlockProblem) -> BoolArray:
    from prunebench.solvers.surgeon import removal_loops

    form = block.form
    matrix = form.gram(np.arange(block.p))
    scale = 1.0 / np.sqrt(matrix.diagonal())
    slope = scale * (form.linear - form.product(form.centre))
    mask, _ = removal_loops.drop_one_by_one(matrix * scale[:, None] * scale, slope, block.keeping, block.p)
    return mask
