"""SparseGPT on a whole layer: the baseline with weight update that first pruned very large language models.

Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.rows import RowsForm
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.kernels.linear_algebra.layer_view import LayerView, kind_of, refusal


@register
@dataclass(frozen=True, kw_only=True)
class SparseGPT(Solver):
    """One pass over the columns: masks chosen in blocks of columns, pruning errors compensated to the right.

    Takes a whole layer (rows that share one Hessian) or any block as a layer of one row, without a
    quota, with one count per row, or N of every M consecutive weights. As published, the weights are the
    pass's own, not a refit. The form's ridge is the dampening (published: 1 % of the mean diagonal).
    Without a start mask the result of the pass is returned whatever it costs. Proves no bound.
    """

    name = "sparsegpt"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    whole_layers = True
    reference = "Frantar, Alistarh: SparseGPT, ICML 2023"

    columns: int = 128
    """Columns whose mask is chosen at a time."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """A quota that is neither one count per row nor N:M, or rows that share no Hessian."""
        if self.columns < 1:
            return f"columns is {self.columns}; choose at least 1"
        if kind_of(block.keeping, *_shape(block)) is None:
            return Refusal(
                "its quota is neither one count a row nor N of every M consecutive weights; use the solver alps",
                RefusalKind.QUOTA,
            )
        return refusal(block)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The mask and the weights of the pass."""
        from prunebench.solvers.sparsegpt import columns

        block = best.block
        kind = kind_of(block.keeping, *_shape(block))
        assert kind is not None
        weights, mask = columns.prune(LayerView.of(block), kind, block.keeping, self.columns)
        best.offer(mask.reshape(-1), "sparsegpt", weights.reshape(-1))
        return Stop.finished("one pass over the columns")


def _shape(block: BlockProblem) -> tuple[int, int]:
    form = block.form
    return (form.rows, form.columns) if isinstance(form, RowsForm) else (1, form.p)
