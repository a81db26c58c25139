"""A bound from all masks one by one: checks an enumeration by repeating it with numpy alone.

Values are computed for many masks at a time, minus a bound on their rounding. Masks that then lie below
the bound to be shown are evaluated singly, where rounding is smaller.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.mask_bounds import mask_bound

UNIT = 2.0**-53
"""Unit roundoff of float64."""
CHUNK = 4096
"""Masks processed together: 4096 systems of 20 weights are 13 MB."""
SELECT_MASKS, REFIT_MASKS = 3_000_000, 300_000
"""Most masks enumerated, about ten seconds on one core; in mode refit each needs a linear system."""
SINGLES = 5000
"""Most masks evaluated singly, a second or two; further ones keep the bound computed together with others."""


def can_enumerate(block: BlockProblem) -> bool:
    """Whether the block has few enough masks; with a budget, all 2^p count."""
    count = block.mask_count if block.budget is None else 2**block.p
    return count <= (SELECT_MASKS if block.mode == "select" else REFIT_MASKS)


def enumerated_bound(block: BlockProblem, needed: float) -> float:
    """A lower bound on the block's optimum from every mask; masks below `needed` are evaluated singly.

    float; −inf if nothing is proved. Cost: a value for each mask.
    """
    lowest, close = np.inf, 0
    for masks in _chunks(block) if block.budget is None else _within_budget(block, block.budget):
        bounds = _select_bounds(block, masks) if block.mode == "select" else _refit_bounds(block, masks)
        for row in np.flatnonzero(~(bounds >= needed)):
            close += 1
            if close <= SINGLES:
                bounds[row] = max(bounds[row], mask_bound(block, masks[row]))
        lowest = min(lowest, float(bounds.min()))
    return lowest if np.isfinite(lowest) else -np.inf


def _chunks(block: BlockProblem) -> Iterator[BoolArray]:
    masks = _supports(block)
    while True:
        chosen = list(itertools.islice(masks, CHUNK))
        if not chosen:
            return
        out = np.zeros((len(chosen), block.p), dtype=np.bool_)
        np.put_along_axis(out, np.array(chosen, dtype=np.int64).reshape(len(chosen), block.keep), True, axis=1)
        yield out


def _within_budget(block: BlockProblem, budget: Cost) -> Iterator[BoolArray]:
    """All masks within the budgets, in chunks; the empty mask always is. bool (chunk, p)"""
    places = np.arange(block.p)
    # sums in any order are within this of the correctly rounded ones that say what is feasible
    most = budget.allowed * (1.0 + 2.0 * block.p * UNIT)
    for first in range(0, 2**block.p, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, 2**block.p))
        masks = (numbers[:, None] >> places & 1).astype(np.bool_)
        near = masks[(masks @ budget.costs.T <= most).all(axis=1)]
        feasible = np.array([budget.feasible(mask) for mask in near], dtype=np.bool_)
        if feasible.any():
            yield near[feasible]


def _supports(block: BlockProblem) -> Iterator[tuple[int, ...]]:
    groups = [itertools.combinations(members.tolist(), count) for members, count in block.keeping.groups()]
    for parts in itertools.product(*groups):
        yield tuple(itertools.chain.from_iterable(parts))


def _select_bounds(block: BlockProblem, masks: BoolArray) -> FloatArray:
    """f of every mask minus rounding, by expansion about the dense weights."""
    form, dense = block.form, block.dense_weights
    value, slope = form.enclosure(dense)
    gram = form.gram(np.arange(block.p)) * dense[:, None] * dense
    scale = np.sqrt(form.entry_sizes**2 + form.ridge) * np.abs(dense)
    off = (form.entry_error + 8.0 * UNIT) * np.outer(scale, scale) + 8.0 * UNIT * np.abs(gram)
    linear = -dense * slope.mid
    pruned = (~masks).astype(np.float64)
    values = float(value.mid) + pruned @ linear + 0.5 * np.einsum("rp,rp->r", pruned @ gram, pruned)
    lost = float(value.rad) + float(np.abs(dense) @ slope.rad) + 0.5 * float(off.sum())
    size = abs(float(value.mid)) + float(np.abs(linear).sum()) + float(np.abs(gram).sum())
    return np.asarray(values - (lost + (3 * block.p + 32) * UNIT * size) * (1.0 + 1e-6))


def _refit_bounds(block: BlockProblem, masks: BoolArray) -> FloatArray:
    """The minimum of f over each mask's weights, minus rounding: f(v) − ½ Σ ∇f²/d at the computed solution v."""
    form = block.form
    floor = form.strong_convexity
    if floor is None or (floor <= 0.0).any():
        return np.full(masks.shape[0], -np.inf)
    value, slope = form.enclosure(np.zeros(block.p))
    gram = form.gram(np.arange(block.p))
    try:
        points = _solved(gram, slope.mid, masks)
    except np.linalg.LinAlgError:
        return np.full(masks.shape[0], -np.inf)
    scale = np.sqrt(form.entry_sizes**2 + form.ridge)
    curved = points @ gram
    gradient = curved + slope.mid
    off = np.outer(np.abs(points) @ scale, (form.entry_error + (block.p + 16) * UNIT) * scale)
    off += slope.rad + 4.0 * UNIT * (np.abs(curved) + np.abs(slope.mid))
    ends = np.where(masks, np.abs(gradient) + off, 0.0)
    lost = 0.5 * (ends * ends / floor).sum(axis=1)
    linear = points * slope.mid
    halves = 0.5 * points * curved
    size = abs(float(value.mid)) + np.abs(linear).sum(axis=1) + np.abs(halves).sum(axis=1) + lost
    doubt = float(value.rad) + (np.abs(points) * (off + slope.rad)).sum(axis=1) + (2 * block.p + 32) * UNIT * size
    total = float(value.mid) + linear.sum(axis=1) + halves.sum(axis=1)
    return np.asarray(total - lost - doubt * (1.0 + 1e-6))


def _solved(gram: FloatArray, slope: FloatArray, masks: BoolArray) -> FloatArray:
    """The refitted weights of every mask, zero where it prunes. (p, p), (p,), bool (r, p) -> (r, p)

    Raises
    ------
    LinAlgError   a system is singular to rounding
    """
    points = np.zeros(masks.shape)
    sizes = masks.sum(axis=1)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        support = np.nonzero(masks[rows])[1].reshape(rows.size, size)
        solved = np.linalg.solve(gram[support[:, :, None], support[:, None, :]], -slope[support][:, :, None])
        points[rows[:, None], support] = solved[:, :, 0]
    return points
