"""SparseGPT on a whole layer: the baseline with weight update that pruned the first very large language models.

Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunebench.core.block import BlockProblem, Mode
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget, Progress, Recorder, Solution
from prunebench.core.solver import register
from prunebench.kernels.linear_algebra.layer_view import LayerView, kind_of, refusal
from prunebench.kernels.local_search.candidates import Candidates, settled


@register
@dataclass(frozen=True, kw_only=True)
class SparseGPT:
    """One pass over the columns, masks chosen in blocks of columns, pruning errors made up for to the right.

    Takes a whole layer (rows that share one Hessian) or any block as a layer of one row, without a
    quota, with one count a row, or N of every M consecutive weights. The weights are the pass's own,
    not a refit, as published. The form's ridge is the dampening (1 % of the mean diagonal there).
    Without a start mask nothing but the pass is looked at. Proves no bound.
    """

    name: ClassVar[str] = "sparsegpt"
    modes: ClassVar[frozenset[str]] = frozenset({"refit"})
    preferred_mode: ClassVar[Mode] = "refit"
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    whole_layers: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Frantar, Alistarh: SparseGPT, ICML 2023"

    columns: int = 128
    """Columns whose mask is chosen at a time."""

    def refuses(self, block: BlockProblem) -> str:
        """A quota that is neither one count a row nor N:M, or rows that share no Hessian."""
        if self.columns < 1:
            return f"columns is {self.columns}; choose at least 1"
        if kind_of(block.keeping, *_shape(block)) is None:
            return "its quota is neither one count a row nor N of every M consecutive weights; use the solver alps"
        return refusal(block)

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The pass's mask and weights, or the start where one is given that is better."""
        from prunebench.solvers.sparsegpt import columns

        best = Candidates(block, Recorder(budget, progress), published=True)
        if settled(block) or (best.source and best.expired()):
            best.offer(block.incumbent, "start")
            return best.solution("there is one feasible mask")
        kind = kind_of(block.keeping, *_shape(block))
        assert kind is not None
        weights, mask = columns.prune(LayerView.of(block), kind, block.keeping, self.columns)
        best.offer(mask.reshape(-1), "sparsegpt", weights.reshape(-1))
        return best.solution("one pass over the columns")


def _shape(block: BlockProblem) -> tuple[int, int]:
    form = block.form
    return (form.rows, form.columns) if isinstance(form, RowsForm) else (1, form.p)
