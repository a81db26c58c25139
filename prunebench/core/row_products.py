"""Products of a layer's rows with the one Hessian they share: in the layer's own precision, with sums in float64.

A sum in float32 runs along one row at most; what such sums give is added up in float64. So an objective of float32
numbers is as good as they are, at half of the time and memory of float64.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray

BLOCK = 512
"""Columns of the Hessian that are multiplied at a time: the fewer, the less is computed of the other triangle."""
ROWS = 2048
"""Rows multiplied at a time: with BLOCK columns of float32 4 MiB, which fit the cache."""
STEPS = 500
"""Most steps of conjugate gradients."""
ACCURACY = {"float32": 1e-11, "float64": 1e-20}
"""The squared residual relative to the right-hand side at which a row has converged, by precision."""
SETTLED = {"float32": 1e-7, "float64": 1e-20}
"""That with which a row is taken once no more steps help: float32 rounds the residual itself."""

Real = npt.NDArray[Any]
"""float32 or float64."""


def along(move: Real, shared: Real) -> float:
    """Σ_r d_r' H d_r for rows d_r. (r, c), (c, c) -> float64. Only one triangle of H is multiplied: r·c² operations."""
    total, columns = 0.0, shared.shape[0]
    for top in range(0, move.shape[0], ROWS):
        rows = move[top : top + ROWS]
        for start in range(0, columns, BLOCK):
            here = slice(start, start + BLOCK)
            right = rows[:, here]
            if start:
                total += 2.0 * _dot(rows[:, :start] @ shared[:start, here], right)
            total += _dot(right @ shared[here, here], right)
    return total


def dot(first: Real, second: Real) -> float:
    """Σ first·second in float64, a few rows at a time. (r, c), (r, c)"""
    return sum(_dot(first[top : top + ROWS], second[top : top + ROWS]) for top in range(0, first.shape[0], ROWS))


def solve_on_supports(
    shared: Real, ridge: Real, mask: BoolArray, right: Real, start: Real | None = None, steps: int = STEPS
) -> tuple[Real, BoolArray]:
    """d with (H + ridge) d = right on each row's support and zero off it: conjugate gradients on all rows at once.

    The diagonal is the preconditioner (ALPS, §3.3).

    Parameters
    ----------
    shared : (c, c);  ridge : (r, c) or (c,), positive;  mask : bool (r, c);  right : (r, c), zero off the mask
    start : (r, c), zero off the mask, where to begin; zero by default
    steps : at most so many

    Returns
    -------
    d (r, c), and which rows converged, bool (r,)
    """
    kind = right.dtype
    diagonal = (shared.diagonal() + ridge).astype(kind)
    ridge = np.asarray(ridge, dtype=kind)
    size = np.einsum("ij,ij->i", right, right / diagonal)
    goal = ACCURACY[kind.name] * size
    if start is None:
        step, residual = np.zeros_like(right), right.copy()
    else:
        step = start.copy()
        residual = right - (step @ shared + ridge * step) * mask
    image = residual / diagonal
    direction, power = image.copy(), np.einsum("ij,ij->i", residual, image)
    for _ in range(steps):
        active = power > goal
        if not active.any():
            break
        applied = direction @ shared
        applied += ridge * direction
        applied *= mask
        bent = np.einsum("ij,ij->i", direction, applied)
        length = np.where(active & (bent > 0.0), power / np.where(bent > 0.0, bent, 1.0), 0.0)[:, None].astype(kind)
        step += length * direction
        residual -= length * applied
        np.divide(residual, diagonal, out=image)
        before, power = power, np.einsum("ij,ij->i", residual, image)
        direction *= np.where(active, power / np.where(before > 0.0, before, 1.0), 0.0)[:, None].astype(kind)
        direction += image
    return step, power <= SETTLED[kind.name] * size


def _dot(first: Real, second: Real) -> float:
    return float(np.einsum("ij,ij->i", first, second).sum(dtype=np.float64))


def as_wide(array: Real) -> FloatArray:
    """The array in float64; itself where it is."""
    return np.asarray(array, dtype=np.float64)
