"""Optimal Brain Compression: exact Optimal Brain Surgeon on every row of a layer, with rows compared globally.

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
"""Most weights in a row: each removal updates the row's inverse, O(c³) per row in total."""


@register
@dataclass(frozen=True, kw_only=True)
class Obc(Solver):
    """Remove weights one by one, the cheapest first, with exact updates of the others in its row.

    For small layers: rows·c³ operations, rows of at most 1,024 weights. Without a quota, costs are compared
    over all rows (the paper's algorithm 2). With a quota whose groups lie within rows, such as one count per
    row or N:M, each row is pruned by itself, and no group goes below its count. Without a start mask the
    result is returned whatever it costs. Proves no bound.
    """

    name = "obc"
    modes = frozenset({"refit"})
    preferred_mode = "refit"
    baseline = True
    takes = frozenset({Count, Quota})
    whole_layers = True
    reference = "Frantar, Singh, Alistarh: Optimal Brain Compression, NeurIPS 2022"

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Rows that are too long or share no Hessian, or a quota whose groups span rows."""
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
        """The mask by Optimal Brain Surgeon, refitted."""
        best.offer(_mask(best.block), "obc")
        return Stop.finished("dropped one by one")


def _mask(block: BlockProblem) -> BoolArray:
    from prunebench.solvers.surgeon import removal_loops, rows

    matrix, slope = LayerView.of(block).scaled_wide()
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
