"""Optimal Brain Surgeon: the cost of pruning one weight if the others are re-optimised, and pruning by it.

With P the inverse of the Hessian on the kept weights, removing weight i and re-optimising the rest
costs w_i²/(2 P_ii) (Hassibi, Stork: Second order derivatives for network pruning, NeurIPS 1992, eq. 5).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from prunebench.core.arrays import BoolArray, FloatArray, times, transposed_times
from prunebench.core.keeping import Counted
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.stop import StopCheck

COLUMN_CHUNK = 4096
"""Columns of the factor converted to float64 at a time."""
LEAST_SHARE = 1e-6
"""Least share of a ridge left to its own weight: rounding must not make removing a weight free."""


def inverse_diagonal(form: QuadraticForm) -> FloatArray:
    """The diagonal of H⁻¹. float64 (p,)

    For a factor by the dual, P_ii = (1 − ‖L⁻¹ a_i/√ρ_i‖²)/ρ_i with LL' = I + A R⁻¹ A': n²p operations in the
    factor's precision and nothing of size p². For a Hessian from its Cholesky factor. If the curvature is
    singular, the ridge must be positive.
    """
    if form.hessian is not None:
        matrix = form.hessian + np.diag(form.ridge)
        scale = 1.0 / np.sqrt(matrix.diagonal())
        half = _inverse_factor(matrix * scale[:, None] * scale)
        return np.asarray(np.einsum("ij,ij->j", half, half) * scale**2)
    assert form.factor is not None
    factor: npt.NDArray[Any] = form.factor
    root: npt.NDArray[Any] = np.sqrt(form.ridge).astype(factor.dtype)
    rows, size = factor.shape
    system = np.eye(rows)
    for start in range(0, size, COLUMN_CHUNK):
        columns = factor[:, start : start + COLUMN_CHUNK] / root[start : start + COLUMN_CHUNK]
        system += columns @ columns.T
    half = _inverse_factor(system).astype(factor.dtype)
    carried = np.empty(size)
    for start in range(0, size, COLUMN_CHUNK):
        part = slice(start, start + COLUMN_CHUNK)
        image = half @ (factor[:, part] / root[part])
        carried[part] = np.einsum("ij,ij->j", image, image)
    return np.asarray(np.maximum(1.0 - carried, LEAST_SHARE) / form.ridge)


def block_inverse_diagonal(form: QuadraticForm, size: int) -> FloatArray:
    """The diagonal of the inverse of the block-diagonal part of H, blocks of `size` weights. float64 (p,)

    Singh, Alistarh: WoodFisher, NeurIPS 2020, §3.2 ("fittable parameters").
    """
    out = np.empty(form.p)
    for start in range(0, form.p, size):
        block = np.arange(start, min(start + size, form.p))
        matrix = form.gram(block)
        scale = 1.0 / np.sqrt(matrix.diagonal())
        half = _inverse_factor(matrix * scale[:, None] * scale)
        out[block] = np.einsum("ij,ij->j", half, half) * scale**2
    return out


def first_rows(form: QuadraticForm, rows: int) -> QuadraticForm:
    """The form with only the first rows of its factor, scaled to preserve the curvature's size on average."""
    root = form.square_root()
    if root.shape[0] == 0:
        # no curvature: only the ridge
        root = np.zeros((1, form.p))
    count = min(rows, root.shape[0])
    few = root[:count].astype(np.float64) * np.sqrt(root.shape[0] / count)
    return QuadraticForm(factor=few, ridge=form.ridge, linear=form.linear, centre=form.centre)


def recursive_inverse_diagonal(form: QuadraticForm) -> FloatArray:
    """The diagonal of H⁻¹ by M-FAC's recursion over the rows of the factor. float64 (p,)

    Frantar, Kurtic, Alistarh: M-FAC, NeurIPS 2021, eq. 5 and 6: h_i = F_{i-1}⁻¹ g_i, q_i = N + g_i'h_i,
    F⁻¹ = 1/ρ − Σ h_i h_i'/q_i. Cost n²p; all rows are used, while the released program omits the last.
    """
    vectors = form.square_root()
    held = np.empty(vectors.shape)
    diagonal = 1.0 / form.ridge
    weights = np.empty(vectors.shape[0])
    for row in range(vectors.shape[0]):
        vector = vectors[row].astype(np.float64, copy=False)
        image = vector / form.ridge
        if row:
            image -= (held[:row] @ vector / weights[:row]) @ held[:row]
        held[row] = image
        weights[row] = 1.0 + float(vector @ image)
        diagonal = diagonal - image**2 / weights[row]
    return np.asarray(np.maximum(diagonal, LEAST_SHARE / form.ridge))


def saliency(weights: FloatArray, diagonal: FloatArray) -> FloatArray:
    """½ w²/P_ii: the cost of removing each weight alone. (p,), (p,) -> (p,)"""
    return np.asarray(0.5 * weights**2 / diagonal)


def prune_in_rounds(
    keeping: Counted,
    rounds: int,
    costs: Callable[[BoolArray], FloatArray],
    stop: StopCheck,
    mask: BoolArray | None = None,
) -> BoolArray:
    """Remove the cheapest weights in `rounds` rounds with geometrically falling counts, and new costs in each.

    costs : a mask -> the cost of removing each kept weight, (p,);  stop : given the rounds made, why to
    remove all surplus weights at once now, or None. With a quota each group's count falls geometrically
    """
    kept = np.ones(keeping.p, dtype=np.bool_) if mask is None else mask.copy()
    for number in range(rounds):
        last = number == rounds - 1 or bool(stop(number + 1))
        ranked = np.where(kept, costs(kept), -np.inf)
        held = keeping.kept_of(kept)
        share = (keeping.counts / np.maximum(held, 1)) ** (1.0 / (rounds - number))
        due = keeping if last else keeping.with_counts(np.rint(held * share).astype(np.int64))
        kept = due.top_mask(ranked)
        if last:
            break
    return kept


def _inverse_factor(matrix: npt.NDArray[Any]) -> FloatArray:
    """L⁻¹ with LL' = matrix, so that the inverse is (L⁻¹)'L⁻¹. (r, r) -> float64 (r, r)"""
    lower = np.linalg.cholesky(matrix.astype(np.float64, copy=False))
    return np.asarray(
        scipy.linalg.solve_triangular(lower, np.eye(lower.shape[0]), lower=True, check_finite=False), dtype=np.float64
    )


def inverse_product(form: QuadraticForm, right: FloatArray) -> FloatArray:
    """H⁻¹ right by the n×n dual, or Cholesky of the Hessian. float64 (p,) -> (p,)"""
    if form.hessian is not None:
        return np.asarray(scipy.linalg.solve(form.hessian + np.diag(form.ridge), right, assume_a="pos"))
    assert form.factor is not None
    scaled = right / form.ridge
    root = np.sqrt(form.ridge)
    system = np.eye(form.factor.shape[0])
    for start in range(0, form.p, COLUMN_CHUNK):
        columns = form.factor[:, start : start + COLUMN_CHUNK] / root[start : start + COLUMN_CHUNK]
        system += columns @ columns.T
    dual = scipy.linalg.solve(system, times(form.factor, scaled), assume_a="pos")
    return np.asarray(scaled - transposed_times(form.factor, dual) / form.ridge)


def single_update(form: QuadraticForm, weights: FloatArray, diagonal: FloatArray, mask: BoolArray) -> FloatArray:
    """w − H⁻¹ Σ_{i pruned} (w_i/P_ii) e_i, then masked: the sum of single-weight updates. float64 (p,)

    As published for WoodFisher and M-FAC; unlike a back-solve it ignores how the pruned weights act together.
    """
    moved = weights - inverse_product(form, np.where(mask, 0.0, weights / diagonal))
    return np.where(mask, moved, 0.0)
