"""SparseGPT: one pass over a layer's columns; masks are chosen in column blocks, errors compensated to the right.

Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023,
algorithm 1 with adaptive masks (§3.3) and N:M patterns (§3.4). With H⁻¹ = U'U, U upper triangular, pruning
weight j of a row costs w_j²/U_jj² if only the weights to its right are updated, by −w_j/U_jj · U_j.
"""

import numpy as np
import scipy.linalg

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.keeping import Counted
from prunebench.kernels.linear_algebra.layer_view import Kind, LayerView


def inverse_root(view: LayerView) -> FloatArray:
    """U with H⁻¹ = U'U, upper triangular. (c, c)

    H = RR' with R upper triangular by a Cholesky decomposition from the last column to the first; U = R⁻¹.
    """
    matrix, _, scale = view.scaled()
    upper = np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1]
    inverse = scipy.linalg.solve_triangular(upper, np.eye(upper.shape[0]), lower=False, check_finite=False)
    return np.asarray(inverse * scale)


def prune(view: LayerView, kind: Kind, keeping: Counted, width: int) -> tuple[FloatArray, BoolArray]:
    """The pruned weights and the mask, both (r, c).

    Parameters
    ----------
    view : the layer; its weights begin at the minimiser, which is the dense weights if the linear term is zero
    kind : of the quota, as `layer_view.kind_of` returns it
    keeping : how many weights the layer, or each of its groups, keeps
    width : columns per mask choice; for N:M rounded to a multiple of the group's size

    The count is exact: every column block keeps the same share up to rounding, and the rounding errors sum to
    zero. Inputs that are identically zero are pruned first.
    Cost O(c³ + r·c²).
    """
    root = inverse_root(view)
    weights = view.minimiser()
    rows, columns = view.shape
    mask = np.ones((rows, columns), dtype=np.bool_)
    group = int(keeping.sizes[0]) if kind == "groups" else 1
    width = max(group, width // group * group)
    done = 0
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        if kind == "layer":
            wanted = round(keeping.keep * stop / columns) - done
            done += wanted
            scores = _scores(weights, root, view.live, start, stop)
            mask[:, start:stop] = _most(scores.reshape(1, -1), np.array([wanted])).reshape(scores.shape)
        elif kind == "rows":
            counts = np.round(keeping.counts * stop / columns) - np.round(keeping.counts * start / columns)
            mask[:, start:stop] = _most(_scores(weights, root, view.live, start, stop), counts.astype(np.int64))
        errors = np.zeros((rows, stop - start))
        for j in range(start, stop):
            if kind == "groups" and j % group == 0:
                scores = _scores(weights, root, view.live, j, j + group)
                mask[:, j : j + group] = _most(scores, np.full(rows, keeping.counts[0]))
            error = np.where(mask[:, j], 0.0, weights[:, j]) / root[j, j]
            weights[:, j:stop] -= np.outer(error, root[j, j:stop])
            errors[:, j - start] = error
        weights[:, stop:] -= errors @ root[start:stop, stop:]
    return np.where(mask, weights, 0.0), mask


def _scores(weights: FloatArray, root: FloatArray, live: BoolArray, start: int, stop: int) -> FloatArray:
    part = slice(start, stop)
    return np.asarray(np.where(live[part], (weights[:, part] / root.diagonal()[part]) ** 2, -1.0))


def _most(scores: FloatArray, counts: IndexArray) -> BoolArray:
    """The highest scores of each row, as many as its count; ties go to the first."""
    best_first = np.argsort(-scores, axis=1, kind="stable")
    out = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(out, best_first, np.arange(scores.shape[1]) < counts[:, None], axis=1)
    return out
