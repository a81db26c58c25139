"""SparseGPT: one pass over a layer's columns; masks are chosen in column blocks, errors compensated to the right.

Frantar, Alistarh: SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot, ICML 2023,
algorithm 1 with adaptive masks (§3.3) and N:M patterns (§3.4). With H⁻¹ = U'U, U upper triangular, pruning
weight j of a row costs w_j²/U_jj² if only the weights to its right are updated, by −w_j/U_jj · U_j.

Beyond the paper, updates are delayed at three levels, as all but those of the next few columns can be: a column's
reach INNER columns, those of INNER columns the block whose mask is chosen, and those of OUTER columns the rest of the
layer, each in one matrix product. A block lies transposed in memory, so that a column is contiguous.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, IndexArray, RealArray
from prunebench.core.keeping import Counted
from prunebench.core.masks import top_mask, top_of_each
from prunebench.kernels.linear_algebra.layer_view import Kind, LayerView

INNER = 16
"""Columns that a single column's update reaches: fewer cost more products, more of them more passes over memory."""
OUTER = 512
"""Columns whose updates of the rest of the layer are made in one product; a block of them stays in the cache."""


def prune(view: LayerView, kind: Kind, keeping: Counted, width: int) -> tuple[RealArray, BoolArray]:
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
    root, weights = view.root(), view.minimiser()
    rows, columns = view.shape
    mask = np.ones((rows, columns), dtype=np.bool_)
    group = int(keeping.sizes[0]) if kind == "groups" else 1
    width = max(group, width // group * group)
    span = max(1, OUTER // width) * width
    for start in range(0, columns, span):
        stop = min(start + span, columns)
        segment = _Segment(
            weights=np.ascontiguousarray(weights[:, start:stop].T),
            mask=np.ones((stop - start, rows), dtype=np.bool_),
            root=np.ascontiguousarray(root[start:stop, start:stop]),
            live=view.live[start:stop],
        )
        for first in range(0, stop - start, width):
            last = min(first + width, stop - start)
            if kind == "groups":
                segment.prune(first, last, group, int(keeping.counts[0]))
            else:
                segment.choose(first, last, _counts(kind, keeping, start + first, start + last, columns))
                segment.prune(first, last)
        weights[:, start:stop] = segment.weights.T
        mask[:, start:stop] = segment.mask.T
        for left in range(stop, columns, OUTER):
            right = min(left + OUTER, columns)
            weights[:, left:right] -= segment.errors.T @ root[start:stop, left:right]
    return weights, mask


def _counts(kind: Kind, keeping: Counted, start: int, stop: int, columns: int) -> IndexArray:
    """How many weights the columns from `start` to before `stop` keep: in all (1,), or in each row (r,)."""
    counts = np.array([keeping.keep]) if kind == "layer" else keeping.counts
    kept = np.round(counts * stop / columns) - np.round(counts * start / columns)
    return np.asarray(kept.astype(np.int64))


@dataclass(eq=False)
class _Segment:
    """Columns of a layer that are pruned together before the others learn of it; transposed, a column in a row.

    weights : (s, r), overwritten;  mask : bool (s, r), written
    root : (s, s), of the inverse Hessian;  live : bool (s,), inputs that are not identically zero
    """

    weights: RealArray
    mask: BoolArray
    root: RealArray
    live: BoolArray

    def __post_init__(self) -> None:
        self.errors = np.zeros_like(self.weights)
        """What pruning a weight left, in the units of U. (s, r)"""
        self._inverse = (1.0 / self.root.diagonal()).astype(self.weights.dtype)

    def choose(self, first: int, last: int, counts: IndexArray) -> None:
        """Choose which weights of some columns are kept: the highest scores of all, (1,) counts, or of each row."""
        scores = self._scores(first, last)
        if counts.size == 1:
            table = top_mask(np.ascontiguousarray(scores.T).reshape(-1), int(counts[0])).reshape(-1, last - first)
        else:
            table = top_of_each(np.ascontiguousarray(scores.T), counts)
        self.mask[first:last] = table.T

    def prune(self, first: int, last: int, group: int = 0, kept: int = 0) -> None:
        """Prune some columns and update those of the segment to their right.

        group, kept : where `kept` of every `group` columns are kept and not chosen before; group 0: they are
        """
        step = max(group, INNER // group * group) if group else INNER
        for start in range(first, last, step):
            stop = min(start + step, last)
            for j in range(start, stop):
                if group and (j - first) % group == 0:
                    scores = self._scores(j, j + group)
                    self.mask[j : j + group] = top_of_each(scores.T, np.full(scores.shape[1], kept)).T
                error = self.errors[j]
                np.multiply(self.weights[j], self._inverse[j], out=error)
                error *= ~self.mask[j]
                if j + 1 < stop:
                    self.weights[j + 1 : stop] -= self.root[j, j + 1 : stop, None] * error
            if stop < last:
                self.weights[stop:last] -= self.root[start:stop, stop:last].T @ self.errors[start:stop]
        end = self.weights.shape[0]
        if last < end:
            self.weights[last:] -= self.root[first:last, last:].T @ self.errors[first:last]
        self.weights[first:last] *= self.mask[first:last]

    def _scores(self, first: int, last: int) -> RealArray:
        """w²/U_jj² of some columns, (s, r); below all others where the input is zero throughout."""
        scores = np.square(self.weights[first:last] * self._inverse[first:last, None])
        scores[~self.live[first:last]] = -1.0
        return np.asarray(scores)
