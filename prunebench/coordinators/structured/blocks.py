"""The block of a network's gates."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Quota
from prunebench.core.quadratic import QuadraticForm


def gate_block(
    rows: FloatArray,
    diagonal: FloatArray,
    tau: float,
    keep: int,
    quota: Quota | None,
    families: Sequence[Any],
    problem: str,
) -> BlockProblem:
    """The block of a network's gates: dense weights 1, the cost of what goes ½ r'(τH + (1 − τ)diag H) r.

    Parameters
    ----------
    rows : H = rows' rows;  diagonal : of H;  tau : the part of the couplings
    quota : groups of each family and how many of them are kept;  families : of the rows' columns, () for none named
    """
    layer = np.array([family.name for family in families for _ in range(family.size)]) if families else None
    form = QuadraticForm(
        factor=math.sqrt(tau) * rows,
        ridge=(1.0 - tau) * diagonal,
        centre=np.ones(rows.shape[1]),
    )
    return BlockProblem(
        form=form,
        dense_weights=np.ones(rows.shape[1]),
        keep=keep,
        mode="select",
        layer=layer,
        problem=problem,
        quota=quota,
    )
