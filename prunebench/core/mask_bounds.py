"""A proven lower bound on the objective of one mask, in either mode and at any conditioning."""

from collections.abc import Iterable

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.balls import Ball
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput


def mask_bound(block: BlockProblem, mask: BoolArray) -> float:
    """A lower bound on f(m·dense weights) or, in mode refit, on the minimum over the kept weights; −inf if none.

    In mode refit f >= f(w) − ½ Σ_kept ∇f(w)²/d for any w that is zero off the mask, where H >= diag(d) is proved.
    w is the computed refit. f and its gradient are enclosed, so the bound is loose by about rounding squared.

    Raises
    ------
    InvalidInput   the mask is not feasible

    Cost: one refit and about ten products with the factor.
    """
    form = block.form
    if block.mode == "select" or not mask.any():
        value, _ = form.enclosure(block.weights_of(mask))
        return _raised(block, float(value.lower()))
    floor = form.strong_convexity
    if floor is None or (floor[mask] <= 0.0).any():
        return -np.inf
    try:
        weights = block.weights_of(mask)
    except InvalidInput:
        weights = np.where(mask, block.dense_weights, 0.0)
    value, slope = form.enclosure(weights)
    rest = Ball.of(slope.size[mask])
    below = (rest * rest).over(floor[mask]).total() * 0.5
    return _raised(block, float((value - below).lower()))


def least_bound(block: BlockProblem, masks: Iterable[BoolArray], objective: float) -> float:
    """A bound on the optimum, given that only these masks can cost less than `objective`."""
    return min(objective, min((mask_bound(block, mask) for mask in masks), default=objective))


def _raised(block: BlockProblem, bound: float) -> float:
    """The bound, raised to the constant if f cannot go below it: a convex form without a linear term."""
    form = block.form
    if bound < form.constant and not form.linear.any() and form.strong_convexity is not None:
        return form.constant
    return bound if np.isfinite(bound) else -np.inf
