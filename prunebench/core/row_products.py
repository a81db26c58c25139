"""Products of a layer's rows with the one Hessian they share.

What objectives are made of is computed in float64, a few rows and columns of the Hessian at a time, so that no array of
the layer's size is held in float64. Systems are solved in the layer's own precision.
"""

from collections.abc import Iterator

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, RealArray

BLOCK = 512
"""Columns of the Hessian that are multiplied at a time: the fewer, the less is computed of the other triangle."""
WIDENED = 2**21
"""Weights that are held in float64 at a time, 16 MiB: more of them are no faster."""
STEPS = 500
"""Most steps of conjugate gradients."""
ACCURACY = {"float32": 1e-11, "float64": 1e-20}
"""The squared residual relative to the right-hand side at which a row has converged, by precision."""
SETTLED = {"float32": 1e-7, "float64": 1e-16}
"""That of the solution itself, computed anew, up to which a row is taken: rounding keeps it above the other."""


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a table, each of about WIDENED entries."""
    step = max(1, WIDENED // columns)
    return (slice(top, min(top + step, rows)) for top in range(0, rows, step))


def along(move: RealArray, shared: RealArray) -> float:
    """Σ_r d_r' H d_r for rows d_r, computed in float64. (r, c), (c, c) -> float64

    Only one triangle of H is multiplied: r·c² operations.
    """
    total = 0.0
    for part in row_chunks(*move.shape):
        rows = as_wide(move[part])
        for start in range(0, shared.shape[0], BLOCK):
            here = slice(start, start + BLOCK)
            right = rows[:, here]
            if start:
                total += 2.0 * dot(rows[:, :start] @ as_wide(shared[:start, here]), right)
            total += dot(right @ as_wide(shared[here, here]), right)
    return total


def times(rows: RealArray, shared: RealArray) -> FloatArray:
    """The rows times H, computed in float64. (r, c), (c, c) -> float64 (r, c). 2·r·c² operations"""
    out = np.empty(rows.shape)
    for part in row_chunks(*rows.shape):
        wide = as_wide(rows[part])
        for start in range(0, shared.shape[0], BLOCK):
            here = slice(start, start + BLOCK)
            out[part, here] = wide @ as_wide(shared[:, here])
    return out


def dot(first: RealArray, second: RealArray) -> float:
    """Σ first·second, computed in float64. (r, c), (r, c)"""
    return float(np.einsum("ij,ij->i", first, second, dtype=np.float64).sum())


def solve_on_supports(
    shared: RealArray,
    ridge: RealArray,
    mask: BoolArray,
    right: RealArray,
    start: RealArray | None = None,
    steps: int = STEPS,
) -> tuple[RealArray, BoolArray]:
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
    # the residual of the steps has drifted from that of what they add up to
    residual = right - (step @ shared + ridge * step) * mask
    return step, np.einsum("ij,ij->i", residual, residual / diagonal) <= SETTLED[kind.name] * size


def as_wide(array: RealArray) -> FloatArray:
    """The array in float64; itself where it is."""
    return np.asarray(array, dtype=np.float64)
