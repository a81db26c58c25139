"""M-FAC: rank by w²/(2[F⁻¹]_ii) with the inverse from a recursion over few gradients, in several rounds.

Frantar, Kurtic, Alistarh: M-FAC: Efficient Matrix-Free Approximations of Second-Order Information,
NeurIPS 2021, §3.1. The published recursion leaves out the last gradient; here all are used.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import SolverRefused
from prunebench.core.solution import Budget, Progress, Recorder, Solution
from prunebench.core.solver import register
from prunebench.kernels.local_search.candidates import Candidates, settled


@register
@dataclass(frozen=True, kw_only=True)
class Mfac:
    """Rank and prune in rounds; after each, the single-weight updates move the kept weights.

    In mode select the weights stay as they are and one round decides. Cost N²p for N rows.
    """

    name: ClassVar[str] = "mfac"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Frantar, Kurtic, Alistarh: M-FAC, NeurIPS 2021"

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

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The last round's mask and weights, or a given start where that is better."""
        from prunebench.solvers.surgeon import removal

        recorder = Recorder(budget, progress)
        best = Candidates(block, recorder, published=True)
        if settled(block) or (best.source and best.expired()):
            best.offer(block.incumbent, "start")
            return best.solution("there was nothing to rank")
        form = removal.first_rows(block.form, self.rows)
        with np.errstate(over="ignore", invalid="ignore"):
            diagonal = removal.recursive_inverse_diagonal(form)
        if not np.isfinite(diagonal).all():
            raise SolverRefused(
                f"solver 'mfac' refuses {block.name}: its recursion leaves float64 at a ridge of "
                f"{float(form.ridge.min()):.3g}; raise the ridge, for example to 1e-3 of the curvature's mean diagonal"
            )
        weights: FloatArray = block.dense_weights

        def costs(mask: BoolArray) -> FloatArray:
            nonlocal weights
            if not mask.all() and block.mode == "refit":
                weights = removal.single_update(form, weights, diagonal, mask)
            return removal.saliency(weights, diagonal)

        rounds = self.rounds if block.mode == "refit" else 1
        mask = removal.prune_in_rounds(block.keeping, rounds, costs, recorder.expired)
        own = self.update == "published" and block.mode == "refit"
        best.offer(mask, "mfac", removal.single_update(form, weights, diagonal, mask) if own else None)
        return best.solution("ranked all weights")
