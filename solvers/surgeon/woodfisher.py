"""WoodFisher: rank by w²/(2[F⁻¹]_ii) with the empirical Fisher and its ridge as F.

Singh, Alistarh: WoodFisher: Efficient Second-Order Approximation for Neural Network Compression,
NeurIPS 2020, §3. The published program inverts blocks of the matrix by n rank-one updates; by the n×n
dual, the exact diagonal for the whole matrix costs less.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class WoodFisher(Solver):
    """One ranking by the exact single-weight cost of pruning; as published, without the linear term.

    In mode refit the kept weights are back-solved, or get the published sum of single-weight updates.
    Cost n²p, or n·block_size·p with blocks.
    """

    name = "woodfisher"
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    reference = "Singh, Alistarh: WoodFisher, NeurIPS 2020"

    block_size: int = 0
    """Weights in a block of the block-diagonal Fisher (published: 1,000 to 2,000); 0 for the whole matrix."""

    update: Literal["refit", "published"] = "refit"
    """What kept weights become in mode refit: the back-solve, or the published sum of single-weight updates."""

    def refuses(self, block: BlockProblem) -> str:
        """A ridge of zero, or a negative block size."""
        if self.block_size < 0:
            return f"block_size is {self.block_size}; choose 1 or more, or 0 for the whole matrix"
        if not (block.form.ridge > 0.0).all():
            return "the Fisher is inverted, which needs a positive ridge for every weight; raise the ridge"
        if block.form.is_indefinite:
            return "the Hessian is indefinite, so its inverse says nothing of losses; choose solver 'swap' or 'anneal'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The mask by ranking, with its weights."""
        from prunebench.solvers.surgeon import removal

        block = best.block
        form, dense = block.form, block.dense_weights
        diagonal = (
            removal.block_inverse_diagonal(form, self.block_size) if self.block_size else removal.inverse_diagonal(form)
        )
        mask = block.top_mask(removal.saliency(dense, diagonal))
        weights = None
        if self.update == "published" and block.mode == "refit":
            weights = removal.single_update(form, dense, diagonal, mask)
        best.offer(mask, "woodfisher", weights)
        return Stop.finished("ranked all weights")
