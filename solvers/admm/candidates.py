"""The weights that ADMM may keep, where few of many are kept: all others stay at zero, and their columns are not read.

A weight is a candidate if it is among the largest, CANDIDATES·keep and at least LEAST_SHARE of all, by magnitude, by
Optimal Brain Damage's score, or by where one Newton step for it alone leads from the refitted start. On gradients of
networks and on synthetic ones these held 98.5 to 100 % of the support found among all weights.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, columns_of, is_mapped, times, transposed_times
from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm

CANDIDATES = 4.0
"""Weights that each ranking proposes, in units of `keep`; with 3, one in thirty of the best support was left out."""
LEAST_SHARE = 0.2
"""Share of all weights that each ranking proposes at least: of a fiftieth kept, a search among eight hundredths ended
4 % above one among all."""
LEAST_SIZE = 8192
"""Below this p the passes over all columns cost little beside the decomposition."""
MOST_SHARE = 0.6
"""More candidates than this share of all weights save too little to copy their columns."""
MOST_BYTES = 2**28
"""Most memory for the copied columns: 256 MiB."""


class Narrow(NamedTuple):
    """The candidates alone, the others at zero.

    block : of c weights, its form without what the others contribute, ½‖residual + A (w − centre)‖² in place of
            ½‖A (w − centre)‖²: as a linear term A'residual would cancel in float32 where the ridge is small
    chosen : int64 (c,)       their positions in the whole block
    residual : float64 (n,)   A times minus the centre of the others
    """

    block: BlockProblem
    chosen: IndexArray
    residual: FloatArray

    def exact(self, mask: BoolArray) -> BlockProblem:
        """The candidates' block with what the others contribute, from a mask (p,) of the whole block."""
        form = self.block.form
        assert form.factor is not None
        linear = form.linear + transposed_times(form.factor, self.residual)
        own = QuadraticForm(factor=form.factor, ridge=form.ridge, linear=linear, centre=form.centre)
        return replace(self.block, form=own, start_mask=mask[self.chosen])

    def widened(self, mask: BoolArray, size: int) -> BoolArray:
        """The mask of the whole block. (c,) -> (size,)"""
        out = np.zeros(size, dtype=np.bool_)
        out[self.chosen[mask]] = True
        return out


def narrowed(block: BlockProblem, mask: BoolArray, weights: FloatArray) -> Narrow | None:
    """The block of the candidates about a refitted mask, (p,) and (p,); None where that saves nothing."""
    form = block.form
    if form.factor is None or block.p < LEAST_SIZE or is_mapped(form.factor):
        return None
    wide, diagonal = block.keeping.grown(max(CANDIDATES, LEAST_SHARE / block.density)), form.diagonal()
    if wide.keep > MOST_SHARE * block.p:
        return None
    # a column without curvature or ridge moves nowhere
    moved = weights - form.gradient(weights) / np.where(diagonal > 0.0, diagonal, np.inf)
    inside = mask.copy()
    for scores in (np.abs(block.dense_weights), block.dense_weights**2 * diagonal, moved**2 * diagonal):
        inside |= wide.top_mask(scores)
    chosen = np.flatnonzero(inside)
    rows = form.factor.shape[0]
    # with no more columns than rows the curvature would be kept in another form
    if not rows < chosen.size <= min(MOST_SHARE * block.p, MOST_BYTES // (rows * form.factor.itemsize)):
        return None
    quota = block.quota
    columns = columns_of(form.factor, chosen)
    part = BlockProblem(
        form=QuadraticForm(
            factor=columns, ridge=form.ridge[chosen], linear=form.linear[chosen], centre=form.centre[chosen]
        ),
        dense_weights=block.dense_weights[chosen],
        keep=block.keep,
        mode="refit",
        quota=None if quota is None else quota.within(chosen, mask),
        problem=block.problem,
    )
    outside = form.centre.copy()
    outside[chosen] = 0.0
    return Narrow(part, chosen, -times(form.factor, outside))
