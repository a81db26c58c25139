"""Compiled cyclic coordinate descent on a fixed support, with contiguous columns.

Hazimeh, Mazumder: Fast best subset selection, Operations Research 2020, §3; CHITA-CD (Benbaki et al.,
ICML 2023, algorithm 3) uses it between thresholding steps.
"""

import numpy as np
from numba import njit

from prunebench.core.arrays import BoolArray, Factor, FloatArray, columns_of, times
from prunebench.core.quadratic import QuadraticForm


def descend(form: QuadraticForm, weights: FloatArray, mask: BoolArray, sweeps: int) -> FloatArray:
    """`sweeps` passes over the support, each weight set to its minimiser in turn. float64 (p,) -> (p,)

    f never rises. Cost nk a pass.
    """
    support = np.flatnonzero(mask)
    root: Factor = form.square_root()
    chosen = columns_of(root, support)
    columns: Factor = chosen.T.copy()
    out = np.where(mask, weights, 0.0)
    residual = times(root, out - form.centre)
    kept = out[support]
    _sweep(columns, form.linear[support], form.ridge[support], form.centre[support], kept, residual, sweeps)
    out[support] = kept
    return out


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sweep(
    columns: Factor,
    linear: FloatArray,
    ridge: FloatArray,
    centre: FloatArray,
    weights: FloatArray,
    residual: FloatArray,
    sweeps: int,
) -> None:
    for _ in range(sweeps):
        for j in range(weights.size):
            slope, square = linear[j] + ridge[j] * (weights[j] - centre[j]), ridge[j]
            for i in range(residual.size):
                slope += columns[j, i] * residual[i]
                square += columns[j, i] * columns[j, i]
            if square > 0.0:
                move = -slope / square
                weights[j] += move
                for i in range(residual.size):
                    residual[i] += move * columns[j, i]
