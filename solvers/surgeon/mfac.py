"""M-FAC: rank by w²/(2[F⁻¹]_ii), with the inverse by recursion over few gradients, in several rounds.

Frantar, Kurtic, Alistarh: M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
NeurIPS 2021, §3.1. The published recursion omits the last gradient; here all are used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, refused, register


@register
@dataclass(frozen=True, kw_only=True)
class Mfac(Solver):
    """Rank and prune in rounds; after each, the single-weight updates move the kept weights.

    In mode select the weights are fixed and one round decides. Cost N²p for N rows.
    """

    name = "mfac"
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    reference = "Frantar, Kurtic, Alistarh: M-FAC, NeurIPS 2021"

    rows: int = 64
    """Rows of the factor that the recursion uses, N."""

    rounds: int = 16
    """Rounds, the kept count falling geometrically."""

    update: Literal["refit", "published"] = "refit"
    """What the kept weights are in the end: the back-solve, or the published sums of single-weight updates."""

    def refuses(self, block: BlockProblem) -> str:
        """A ridge of zero, or counts below one."""
        for option in ("rows", "rounds"):
            if getattr(self, option) < 1:
                return f"{option} is {getattr(self, option)}; choose 1 or more"
        if not (block.form.ridge > 0.0).all():
            return "the recursion begins with the ridge's inverse; give every weight a positive ridge"
        if block.form.is_indefinite:
            return "the Hessian is indefinite, and no sum of squared gradients; choose solver 'swap' or 'anneal'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The mask and weights of the last round."""
        from prunebench.solvers.surgeon import removal

        block = best.block
        form = removal.first_rows(block.form, self.rows)
        with np.errstate(over="ignore", invalid="ignore"):
            diagonal = removal.recursive_inverse_diagonal(form)
        if not np.isfinite(diagonal).all():
            raise refused(self.name, block, Refusal(
                f"its recursion leaves float64 at a ridge of {float(form.ridge.min()):.3g}; raise the ridge, for "
                "example to 1e-3 of the curvature's mean diagonal", RefusalKind.NUMERICS,
            ))  # fmt: skip
        weights: FloatArray = block.dense_weights

        def costs(mask: BoolArray) -> FloatArray:
            nonlocal weights
            if not mask.all() and block.mode == "refit":
                weights = removal.single_update(form, weights, diagonal, mask)
            return removal.saliency(weights, diagonal)

        rounds = self.rounds if block.mode == "refit" else 1
        mask = removal.prune_in_rounds(block.keeping, rounds, costs, best.stop)
        own = self.update == "published" and block.mode == "refit"
        best.offer(mask, "mfac", removal.single_update(form, weights, diagonal, mask) if own else None)
        return Stop.finished("ranked all weights")
