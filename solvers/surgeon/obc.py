"""Optimal Brain Compression: exact Optimal Brain Surgeon on every row of a layer, the rows weighed together.

Frantar, Singh, Alistarh: Optimal Brain Compression: A Framework for Accurate Post-Training Quantization
and Pruning, NeurIPS 2022.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.rows import RowsForm
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.kernels.linear_algebra.layer_view import LayerView, refusal

MOST_COLUMNS = 1024
"""Weights of a row: each row's inverse is updated once for every one of them, O(c³) a row."""


@register
@dataclass(frozen=True, kw_only=True)
class Obc(Solver):
    """Drop weights one by one, the cheapest first, all others of its row answering exactly.

    For small layers: rows·c³ operations, and rows of at most 1,024 weights. Without a quota the rows are
    weighed together (the paper's algorithm 2); with one whose groups lie within rows, such as one count a
    row or N:M, each row is pruned by itself and a full group loses no more. Without a start mask nothing
    but that is looked at. Proves no bound.
    """

    name = "obc"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    whole_layers = True
    reference = "Frantar, Singh, Alistarh: Optimal Brain Compression, NeurIPS 2022"

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Rows that are too long, that share no Hessian, or a quota that reaches over rows."""
        columns = block.form.columns if isinstance(block.form, RowsForm) else block.p
        if columns > MOST_COLUMNS:
            return f"its rows have {columns:,} weights and each costs their cube; take at most {MOST_COLUMNS:,}"
        if not block.keeping.one_count:
            row = np.arange(block.p) // columns
            first = row[block.keeping.order[block.keeping.offsets[:-1]]]
            if (first[block.keeping.group] != row).any():
                return Refusal(
                    "its quota has groups that reach over rows; use the solver alps, or no quota", RefusalKind.QUOTA
                )
        return refusal(block)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The surgeon's mask with its refit."""
        best.offer(_mask(best.block), "obc")
        return Stop.finished("dropped one by one")


def _mask(block: BlockProblem) -> BoolArray:
    from prunebench.solvers.surgeon import removal_loops, rows

    matrix, slope, _ = LayerView.of(block).scaled()
    if block.keeping.one_count:
        return rows.layer_mask(matrix, slope, block.keep).reshape(-1)
    columns = slope.shape[1]
    some = block.incumbent
    out = np.zeros(block.p, dtype=np.bool_)
    for row in range(slope.shape[0]):
        part = np.arange(row * columns, (row + 1) * columns)
        inside = block.keeping.within(part, some)
        out[part], _ = removal_loops.drop_one_by_one(matrix, slope[row], inside, columns)
    return out
