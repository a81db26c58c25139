"""The bound that a proof file proves, derived from the block and the file alone.

No code is shared with the search: only numpy, the block's arrays and the records. The bound holds
whatever the records contain: damaged ones are refused, and others can at worst prove little.

The relaxations behind the bounds are in prunebench.proofs.relaxations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.proof import Bits, Proof, unpack
from prunebench.proofs.relaxations import UNIT, UP, Costs, Curvature, Dual, Tangent, expansion, is_semidefinite

CHUNK = 8192
"""Records processed together: 8192 x 64 numbers are 4 MB, which fit the cache."""

SINGLES = 4096
"""Most single-mask records that are bounded again one by one (some 100 µs each); few are near the incumbent."""

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class _Bounds:
    """Bounds of r records, filled in as they are found.

    own : float64 (r,)        on all masks of a record; −inf if unknown
    branches : float64 (r, 2) on its masks without and with the weight that it branches on
    excluded : float64 (r,)   on the masks it excludes by fixing more weights than its parent; inf if it fixes none
    """

    own: FloatArray
    branches: FloatArray
    excluded: FloatArray

    @classmethod
    def unknown(cls, records: int) -> "_Bounds":
        """Bounds before anything is known."""
        return cls(np.full(records, -np.inf), np.full((records, 2), -np.inf), np.full(records, np.inf))


@dataclass(frozen=True)
class Checked:
    """The result of checking a proof.

    bound : float     a lower bound on the block's optimum; −inf if nothing is proved
    trusted : float   the bound if HiGHS' unproved statements in the proof are believed
    records : int     number of records;  foreign : how many of them rest on HiGHS' statements
    """

    bound: float
    trusted: float
    records: int
    foreign: int


def proved_bound(block: BlockProblem, proof: Proof) -> Checked:
    """The lower bound that the records prove for the block. O(records·p²), and O(p³) for each relaxation.

    Raises
    ------
    InvalidInput   the proof is of another block, or its records do not make a tree
    """
    _require_tree(block, proof)
    entering, leaving = _assignments(block, proof)
    bounds = _Bounds.unknown(proof.records)
    kinds = unpack(proof.kinds, block.p)
    if (kinds > 2).any() or int((kinds == 2).sum()) != proof.entries.size:
        raise InvalidInput("the proof's points do not fit their entries")
    for rows, relaxation in _relaxations(block, proof):
        if relaxation is None:
            continue
        for part, points in _points(proof, kinds, rows):
            costs = relaxation.costs(points)
            _close(block, proof, costs, part, entering, leaving, bounds)
    if block.mode == "refit":
        _close_single_masks(block, entering, bounds.own)
    return _gathered(block, proof, leaving, bounds)


# --- the records as a tree ---


def _require_tree(block: BlockProblem, proof: Proof) -> None:
    """Refuse records whose entries do not fit the block or each other."""
    p, r = block.p, proof.records
    if proof.block != block.hash or proof.mode != block.mode:
        raise InvalidInput("the proof was made for another block: the hashes or modes differ")
    wide = -(-p // 4)
    relaxations = (proof.starts.shape[0], p)
    shapes: dict[str, tuple[npt.NDArray[Any], tuple[int, ...]]] = {
        "diagonals": (proof.diagonals, relaxations), "starts": (proof.starts, relaxations),
        "relaxation": (proof.relaxation, (r,)), "value": (proof.value, (r,)), "branch": (proof.branch, (r,)),
        "fixed": (proof.fixed, (r, wide)), "kinds": (proof.kinds, (r, wide)), "foreign": (proof.foreign, (r,)),
    }  # fmt: skip
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise InvalidInput(f"the proof's {name!r} has shape {array.shape}; expected {shape}")
    if r == 0:
        raise InvalidInput("the proof holds no records")
    order = np.arange(r)
    ranges = (
        ("relaxation", proof.relaxation, 0, proof.starts.shape[0] - 1), ("value", proof.value, -1, 1),
        ("branch", proof.branch, -1, p - 1), ("starts", proof.starts, -1, 1), ("foreign", proof.foreign, 0, 1),
    )  # fmt: skip
    for name, array, low, high in ranges:
        if array.size and (int(array.min()) < low or int(array.max()) > high):
            raise InvalidInput(f"the proof's {name!r} holds numbers outside {low} to {high}")
    if proof.parent[0] != -1 or (proof.parent[1:] < 0).any() or (proof.parent >= order).any():
        raise InvalidInput("the proof's records do not make one tree: every parent stands before its child")
    if not (np.isfinite(proof.diagonals).all() and np.isfinite(proof.entries).all() and np.isfinite(proof.penalty)):
        raise InvalidInput("the proof holds numbers that are not finite")
    if proof.penalty < 0.0 or (proof.penalty > 0.0 and block.keeping.one_count):
        raise InvalidInput(
            f"the proof's penalty is {proof.penalty}; it must be 0, or positive for a block with a quota"
        )
    above = proof.branch[proof.parent[1:]]
    if ((above < 0) != (proof.value[1:] < 0)).any() or proof.value[0] != -1:
        raise InvalidInput("a record's value does not fit its parent's branching weight")
    places = 3 * proof.parent[1:] + proof.value[1:]
    if np.unique(places).size != places.size:
        raise InvalidInput("two records stand for the same branch of one parent")


def _assignments(block: BlockProblem, proof: Proof) -> tuple[Signs, Signs]:
    """What is fixed at a record's beginning and where it branches, (r, p) each: 1 kept, 0 pruned, −1 free."""
    codes = unpack(proof.fixed, block.p)
    if (codes > 2).any():
        raise InvalidInput("the proof's 'fixed' holds a code that stands for nothing")
    leaving = np.where(codes == 2, -1, codes).astype(np.int8)
    entering = np.full_like(leaving, -1)
    entering[1:] = leaving[proof.parent[1:]]
    at = np.flatnonzero(proof.value >= 0)
    weight = proof.branch[proof.parent[at]]
    entering[at, weight] = proof.value[at]
    branching = np.flatnonzero(proof.branch >= 0)
    if (leaving[branching, proof.branch[branching]] >= 0).any():
        raise InvalidInput("a record branches on a weight that it has fixed")
    if ((entering >= 0) & (leaving != entering)).any():
        raise InvalidInput("a record frees or changes a weight that is fixed above it")
    start = proof.starts[proof.relaxation]
    if ((start >= 0) & (entering != start)).any():
        raise InvalidInput("a relaxation is used where the weights it takes as fixed are not")
    return entering, leaving


def _relaxations(block: BlockProblem, proof: Proof) -> "Iterator[tuple[IndexArray, Tangent | Dual | None]]":
    """The records of each relaxation with the object that bounds them; None if that cannot be proved valid."""
    order = np.argsort(proof.relaxation, kind="stable")
    bounds = np.searchsorted(proof.relaxation[order], np.arange(proof.starts.shape[0] + 1))
    curvature = Curvature.of(block)
    for number in range(proof.starts.shape[0]):
        rows = order[bounds[number] : bounds[number + 1]]
        if not rows.size:
            continue
        diagonal, start = proof.diagonals[number], proof.starts[number]
        if block.mode == "select":
            yield rows, Tangent.of(block, curvature, diagonal, proof.penalty, start)
        else:
            yield rows, Dual.of(block, curvature, proof.diagonals[0], diagonal, start, np.flatnonzero(start == 1))


def _points(proof: Proof, kinds: Bits, rows: IndexArray) -> Iterator[tuple[IndexArray, FloatArray]]:
    """The points of the given records, in chunks; `kinds` (r, p) as in the file. -> (rows, points (rows, p))"""
    held = (kinds == 2).sum(axis=1)
    begin = np.concatenate(([0], np.cumsum(held)))
    for first in range(0, rows.size, CHUNK):
        part = rows[first : first + CHUNK]
        points = np.where(kinds[part] == 1, 1.0, 0.0)
        counts = held[part]
        source = np.repeat(begin[part] - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(
            counts.sum()
        )
        points[kinds[part] == 2] = proof.entries[source]
        yield part, points


# --- bounds of all masks under a record ---


def _close(
    block: BlockProblem, proof: Proof, costs: Costs, part: IndexArray, entering: Signs, leaving: Signs, bounds: _Bounds
) -> None:
    """Write the bounds of the records `part`: on all their masks, on both branches, and on what they exclude."""
    before = entering[part]
    chosen = before == (1 if costs.kept else 0)
    free = before < 0
    left = (block.keep if costs.kept else block.p - block.keep) - chosen.sum(axis=1)
    count = free.sum(axis=1)
    sortable = np.where(free, costs.costs, np.inf)
    sortable.sort(axis=1)
    rows = np.arange(part.size)
    sums = np.where(np.isfinite(sortable), sortable, 0.0).cumsum(axis=1)
    inner = np.clip(left, 0, count)
    least = np.where(inner > 0, sums[rows, np.maximum(inner - 1, 0)], 0.0)
    size = np.where(chosen | free, np.abs(costs.costs), 0.0).sum(axis=1) + np.abs(costs.start)
    doubt = (costs.doubt + (3 * block.p + 32) * UNIT * size) * UP
    bound = costs.start + np.where(chosen, costs.costs, 0.0).sum(axis=1) + least - doubt
    bound[np.isnan(bound)] = -np.inf
    # a record whose count cannot be met has no masks
    bound = np.where((left < 0) | (left > count), np.inf, bound)
    bounds.own[part] = bound
    last = np.where(inner > 0, sortable[rows, np.maximum(inner - 1, 0)], np.inf)
    next_ = np.where(inner < count, sortable[rows, np.minimum(inner, block.p - 1)], np.inf)
    # taking a weight replaces the last one chosen; leaving one out brings in the next
    with np.errstate(invalid="ignore"):
        choose = np.where((inner > 0)[:, None], bound[:, None] + np.maximum(costs.costs - last[:, None], 0.0), np.inf)
        leave = np.where(
            (inner < count)[:, None], bound[:, None] + np.maximum(next_[:, None] - costs.costs, 0.0), np.inf
        )
    for side in (choose, leave):
        side[np.isnan(side)] = -np.inf
    keep_it, prune_it = (choose, leave) if costs.kept else (leave, choose)
    weight = np.maximum(proof.branch[part], 0)
    bounds.branches[part, 1], bounds.branches[part, 0] = keep_it[rows, weight], prune_it[rows, weight]
    after = leaving[part]
    newly = free & (after >= 0)
    other = np.where(after == 1, prune_it, keep_it)
    bounds.excluded[part] = np.where(newly, other, np.inf).min(axis=1)


def _close_single_masks(block: BlockProblem, entering: Signs, own: FloatArray) -> None:
    """Improve the weakest bounds of single-mask records, which rounding affects most, by the mask's own refit."""
    kept, free = (entering == 1).sum(axis=1), (entering < 0).sum(axis=1)
    rows = np.flatnonzero((kept == block.keep) | ((kept + free == block.keep) & (kept < block.keep)))
    rows = rows[np.argsort(own[rows], kind="stable")[:SINGLES]]
    ridge = block.form.ridge
    if rows.size and block.form.hessian is not None:
        # add half the ridge to the curvature, so that a hessian singular to rounding is provably convex
        curvature = block.form.hessian + np.diag(0.5 * ridge)
        if not is_semidefinite(curvature, 4.0 * UNIT * float(np.abs(curvature).max(initial=0.0))):
            return
        ridge = 0.5 * ridge
    for row in rows:
        mask = entering[row] == 1 if kept[row] == block.keep else entering[row] != 0
        if not (ridge[mask] > 0.0).all():
            continue
        # f(w) >= f(v) + ∇f'(w − v) + ½ Σ ridge (w − v)² at any v, minimised over w on the mask
        value, value_off, gradient, gradient_off = expansion(block, block.weights_of(mask))
        ends = np.abs(gradient[mask]) + gradient_off[mask]
        lost = 0.5 * float((ends * ends / ridge[mask]).sum())
        own[row] = max(own[row], value - (value_off + lost + 8.0 * UNIT * (abs(value) + lost)) * UP)


def _gathered(block: BlockProblem, proof: Proof, leaving: Signs, bounds: _Bounds) -> Checked:
    """The smallest bound on all masks that no child covers. A parent's bound also holds for its children."""
    kept, free = (leaving == 1).sum(axis=1), (leaving < 0).sum(axis=1)
    covered = np.zeros((proof.records, 3), dtype=np.bool_)
    covered[proof.parent[1:], proof.value[1:]] = True
    parents, values, ends = proof.parent.tolist(), proof.value.tolist(), bounds.branches.tolist()
    held = bounds.own.tolist()
    for row in range(1, proof.records):
        above = parents[row]
        from_above = max(held[above], ends[above][values[row]]) if values[row] >= 0 else held[above]
        held[row] = max(held[row], from_above)
    inherited = np.array(held)
    empty = (kept > block.keep) | (kept + free < block.keep)
    leaf = (proof.branch < 0) & ~covered[:, 2] & ~empty
    parts = [np.where(np.isfinite(bounds.excluded), np.maximum(bounds.excluded, inherited), np.inf)]
    for value in (0, 1):
        # a branch without masks has no bound to contribute
        under = empty | ((kept + 1 > block.keep) if value else (kept + free - 1 < block.keep))
        open_ = (proof.branch >= 0) & ~covered[:, value] & ~under
        parts.append(np.where(open_, np.maximum(bounds.branches[:, value], inherited), np.inf))
    parts.append(np.where(leaf & (proof.foreign == 0), inherited, np.inf))
    trusted = float(min(part.min() for part in parts))
    foreign = np.where(leaf & (proof.foreign == 1), inherited, np.inf)
    bound = min(trusted, float(foreign.min()))
    return Checked(bound, trusted, proof.records, int((leaf & (proof.foreign == 1)).sum()))
