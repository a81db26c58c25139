"""The bound that a proof file proves, derived from the block and the file alone.

Nothing here is shared with the code that searched: only numpy, the block's arrays and the records.
Whatever the records say, the bound holds: what they can do wrong is to be damaged, which is refused,
or to prove little. Two facts are used.

select, x = 1 − m pruned: F(x) = f((1 − x)·w̄) + ½ Σ (sᵢ − ridgeᵢ w̄ᵢ²)(xᵢ² − xᵢ), plus the quota's penalty
weight·Σ_g (Σ_g x − pruned_g)², is f on masks that keep the count (and the quota). Where its curvature M is
positive semidefinite on Σd = 0 it lies above its tangent at any x with Σx = p − keep. Where a relaxation
was used below fixed weights only, that is asked of the free ones' M and d alone.

refit: f(w) >= c − ½ v'(H − Δ)v − ½ Σ_kept (h − (H − Δ)v)²/Δ for any v, where c = f(0), h = −∇f(0), and
H − Δ is positive semidefinite. Where a relaxation was used below fixed weights only, those that are
pruned there leave H, and those that are kept take a small share of the first relaxation's Δ.

Both are the sum of a constant and of one cost for every pruned (select) or kept (refit) weight, so the
least over the masks under a record is a sum of smallest costs. Rounding is bounded: errors of sums by
Higham, Accuracy and Stability of Numerical Algorithms, (3.5); semidefiniteness by Rump, Verification of
positive definiteness, BIT 46 (2006), Theorem 2.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.proof import Proof, unpack

UNIT = 2.0**-53
"""Half an ulp of 1 in float64: the relative error of one operation."""
UP = 1.0 + 1e-6
"""Error bounds are computed in floating point themselves, to far more than six digits, and enlarged by this."""
CHUNK = 8192
"""Records that are looked at together: 8192 x 64 numbers are 4 MB, which stay near the processor."""
SHARES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
"""Tried in turn: how much of the first split the weights kept above a relaxation take, and its own split gives up."""
SHRINKS = (0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.1, 0.5)
"""Tried in turn: the part of the first split that is given up so that H − Δ is proved semidefinite."""

SINGLES = 4096
"""Records of one mask that are looked at once more, each by itself (some 100 µs): few are near the incumbent."""

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Checked:
    """What a proof proves.

    bound : float     a lower bound on the block's optimum; −inf where nothing is proved
    trusted : float   the same if HiGHS is believed where the proof leaves it the word; `bound` otherwise
    records : int     how many there are;  foreign : how many of them rest on HiGHS' word
    """

    bound: float
    trusted: float
    records: int
    foreign: int


def proved_bound(block: BlockProblem, proof: Proof) -> Checked:
    """The lower bound that the records prove of the block. O(records·p²), and O(p³) for each relaxation.

    Raises
    ------
    InvalidInput   the proof is of another block, or its records do not make a tree
    """
    _require_tree(block, proof)
    entering, leaving = _assignments(block, proof)
    own, branches = np.full(proof.records, -np.inf), np.full((proof.records, 2), -np.inf)
    excluded = np.full(proof.records, np.inf)
    for rows, relaxation in _relaxations(block, proof):
        if relaxation is None:
            continue
        for part, points in _points(block, proof, rows):
            costs = relaxation.costs(points)
            _close(block, proof, costs, part, entering, leaving, own, branches, excluded)
    if block.mode == "refit":
        _close_single_masks(block, entering, own)
    return _gathered(block, proof, entering, leaving, own, branches, excluded)


# --- the records as a tree ---


def _require_tree(block: BlockProblem, proof: Proof) -> None:
    """Refuse records whose numbers do not fit the block or each other."""
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
    if proof.penalty < 0.0 or (proof.penalty > 0.0 and block.quota is None):
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
    """What is fixed where a record begins and where it branches, (r, p) each: 1 kept, 0 pruned, −1 free."""
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


def _relaxations(block: BlockProblem, proof: Proof) -> "Iterator[tuple[IndexArray, _Tangent | _Dual | None]]":
    """The records of every relaxation, and what proves their bounds; None where that cannot be proved valid."""
    order = np.argsort(proof.relaxation, kind="stable")
    bounds = np.searchsorted(proof.relaxation[order], np.arange(proof.starts.shape[0] + 1))
    curvature = _Curvature.of(block)
    for number in range(proof.starts.shape[0]):
        rows = order[bounds[number] : bounds[number + 1]]
        if not rows.size:
            continue
        diagonal, start = proof.diagonals[number], proof.starts[number]
        if block.mode == "select":
            yield rows, _Tangent.of(block, curvature, diagonal, proof.penalty, start)
        else:
            yield rows, _Dual.of(block, curvature, proof.diagonals[0], diagonal, start, np.flatnonzero(start == 1))


def _points(block: BlockProblem, proof: Proof, rows: IndexArray) -> Iterator[tuple[IndexArray, FloatArray]]:
    """The points of the given records, some at a time. -> (rows, points (rows, p))"""
    kinds = unpack(proof.kinds, block.p)
    held = (kinds == 2).sum(axis=1)
    begin = np.concatenate(([0], np.cumsum(held)))
    if (kinds > 2).any() or begin[-1] != proof.entries.size:
        raise InvalidInput("the proof's points do not fit their entries")
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


@dataclass(frozen=True, eq=False)
class _Costs:
    """Lower bounds as start − doubt + Σ of costs over the chosen weights, for some records.

    start, doubt : (r,);  costs : (r, p);  kept : whether the chosen weights are the kept ones
    """

    start: FloatArray
    doubt: FloatArray
    costs: FloatArray
    kept: bool


def _close(
    block: BlockProblem, proof: Proof, costs: _Costs, part: IndexArray, entering: Signs, leaving: Signs,
    own: FloatArray, branches: FloatArray, excluded: FloatArray,
) -> None:  # fmt: skip
    """Write the bounds of the records `part`: of all their masks, of both branches, and of what they exclude."""
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
    # no mask at all is under a record whose count cannot be met
    bound = np.where((left < 0) | (left > count), np.inf, bound)
    own[part] = bound
    last = np.where(inner > 0, sortable[rows, np.maximum(inner - 1, 0)], np.inf)
    next_ = np.where(inner < count, sortable[rows, np.minimum(inner, block.p - 1)], np.inf)
    # choosing a weight takes the place of the last chosen one; leaving one out brings in the next
    with np.errstate(invalid="ignore"):
        choose = np.where((inner > 0)[:, None], bound[:, None] + np.maximum(costs.costs - last[:, None], 0.0), np.inf)
        leave = np.where(
            (inner < count)[:, None], bound[:, None] + np.maximum(next_[:, None] - costs.costs, 0.0), np.inf
        )
    for side in (choose, leave):
        side[np.isnan(side)] = -np.inf
    keep_it, prune_it = (choose, leave) if costs.kept else (leave, choose)
    weight = np.maximum(proof.branch[part], 0)
    branches[part, 1], branches[part, 0] = keep_it[rows, weight], prune_it[rows, weight]
    after = leaving[part]
    newly = free & (after >= 0)
    other = np.where(after == 1, prune_it, keep_it)
    excluded[part] = np.where(newly, other, np.inf).min(axis=1)


def _close_single_masks(block: BlockProblem, entering: Signs, own: FloatArray) -> None:
    """Better bounds of records with one mask, from its own refit: the weakest of them, where rounding tells most."""
    kept, free = (entering == 1).sum(axis=1), (entering < 0).sum(axis=1)
    rows = np.flatnonzero((kept == block.keep) | ((kept + free == block.keep) & (kept < block.keep)))
    rows = rows[np.argsort(own[rows], kind="stable")[:SINGLES]]
    ridge = block.form.ridge
    if rows.size and block.form.hessian is not None:
        # half of the ridge goes into the curvature, so that a hessian singular to rounding is provably convex
        curvature = block.form.hessian + np.diag(0.5 * ridge)
        if not _is_semidefinite(curvature, 4.0 * UNIT * float(np.abs(curvature).max(initial=0.0))):
            return
        ridge = 0.5 * ridge
    for row in rows:
        mask = entering[row] == 1 if kept[row] == block.keep else entering[row] != 0
        if not (ridge[mask] > 0.0).all():
            continue
        # f(w) >= f(v) + ∇f'(w − v) + ½ Σ ridge (w − v)² at any v, least over w on the mask
        value, value_off, gradient, gradient_off = _expansion(block, block.weights_of(mask))
        ends = np.abs(gradient[mask]) + gradient_off[mask]
        lost = 0.5 * float((ends * ends / ridge[mask]).sum())
        own[row] = max(own[row], value - (value_off + lost + 8.0 * UNIT * (abs(value) + lost)) * UP)


def _gathered(
    block: BlockProblem, proof: Proof, entering: Signs, leaving: Signs, own: FloatArray, branches: FloatArray,
    excluded: FloatArray,
) -> Checked:  # fmt: skip
    """The smallest bound of whatever no child covers. A bound of a parent's masks holds for its children's."""
    kept, free = (leaving == 1).sum(axis=1), (leaving < 0).sum(axis=1)
    covered = np.zeros((proof.records, 3), dtype=np.bool_)
    covered[proof.parent[1:], proof.value[1:]] = True
    inherited = own.copy()
    parents, values, ends = proof.parent.tolist(), proof.value.tolist(), branches.tolist()
    held = own.tolist()
    for row in range(1, proof.records):
        above = parents[row]
        from_above = max(held[above], ends[above][values[row]]) if values[row] >= 0 else held[above]
        held[row] = max(held[row], from_above)
    inherited = np.array(held)
    empty = (kept > block.keep) | (kept + free < block.keep)
    leaf = (proof.branch < 0) & ~covered[:, 2] & ~empty
    parts = [np.where(np.isfinite(excluded), np.maximum(excluded, inherited), np.inf)]
    for value in (0, 1):
        # a branch that no mask is under costs nothing
        under = empty | ((kept + 1 > block.keep) if value else (kept + free - 1 < block.keep))
        open_ = (proof.branch >= 0) & ~covered[:, value] & ~under
        parts.append(np.where(open_, np.maximum(branches[:, value], inherited), np.inf))
    parts.append(np.where(leaf & (proof.foreign == 0), inherited, np.inf))
    trusted = float(min(part.min() for part in parts))
    foreign = np.where(leaf & (proof.foreign == 1), inherited, np.inf)
    bound = min(trusted, float(foreign.min()))
    return Checked(bound, trusted, proof.records, int((leaf & (proof.foreign == 1)).sum()))


# --- what a relaxation proves at its points ---


@dataclass(frozen=True, eq=False)
class _Curvature:
    """C, the curvature without its ridge, and how far each entry may be off: entry·scale_i·scale_j.

    matrix : (p, p);  scale : √C_ii or more (p,);  entry : float
    """

    matrix: FloatArray
    scale: FloatArray
    entry: float

    @staticmethod
    def of(block: BlockProblem) -> "_Curvature":
        form = block.form
        if form.hessian is not None:
            # not 0 where it was formed from a factor, for which the bound is to hold too
            matrix, entry = np.array(form.hessian), form.entry_error
        elif form.factor is not None:
            factor = form.factor.astype(np.float64)
            matrix, entry = factor.T @ factor, (factor.shape[0] + 4) * UNIT * UP
        else:
            raise InvalidInput(f"{block.name}: a proof is of one row's weights, not of a whole layer")
        return _Curvature(matrix, np.sqrt(np.abs(matrix.diagonal())) * UP, entry)


def _times(matrix: FloatArray, vector: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """matrix @ vector and its error, of a vector that is off by `error`."""
    size = (matrix.shape[1] + 4) * UNIT
    return matrix @ vector, np.abs(matrix) @ (error + size * np.abs(vector)) * UP


def _expansion(block: BlockProblem, point: FloatArray) -> tuple[float, float, FloatArray, FloatArray]:
    """f and ∇f at a point, from the block's own arrays, each with its error."""
    form = block.form
    move = point - form.centre
    error = UNIT * np.abs(move)
    if form.hessian is not None:
        product, off = _times(form.hessian, move, error)
        scale = np.sqrt(np.abs(form.hessian.diagonal())) * UP
        off = off + form.entry_error * scale * float(scale @ np.abs(move)) * UP
        curved = float(product @ move)
        lost = float(off @ np.abs(move) + np.abs(product) @ error)
    else:
        assert form.factor is not None
        factor = form.factor.astype(np.float64)
        image, image_off = _times(factor, move, error)
        product, off = _times(factor.T, image, image_off)
        curved = float(image @ image)
        lost = float(2.0 * image_off @ np.abs(image) + image_off @ image_off)
    ridge = form.ridge * move
    parts = (form.constant, float(form.linear @ move), 0.5 * curved, 0.5 * float(ridge @ move))
    sizes = abs(form.constant) + float(np.abs(form.linear) @ np.abs(move)) + abs(curved) + float(ridge @ move)
    rows = form.p if form.factor is None else form.factor.shape[0]
    value_off = 0.5 * lost + float(np.abs(form.linear) @ error) + float(np.abs(ridge) @ error)
    value_off += (rows + form.p + 16) * UNIT * (sizes + lost)
    gradient = form.linear + product + ridge
    gradient_off = off + form.ridge * error + 4.0 * UNIT * (np.abs(form.linear) + np.abs(product) + np.abs(ridge))
    return sum(parts), value_off * UP, gradient, gradient_off * UP


def _is_semidefinite(matrix: FloatArray, doubt: float) -> bool:
    """Whether every symmetric matrix within `doubt` of `matrix` (spectral norm) is proved positive semidefinite."""
    size = matrix.shape[0]
    if size == 0:
        return True
    trace = float(np.abs(matrix.diagonal()).sum())
    lowered = matrix - (doubt + 4.0 * (size + 4) * UNIT * trace) * UP * np.eye(size)
    if not np.isfinite(lowered).all():
        return False
    try:
        np.linalg.cholesky(lowered)
    except np.linalg.LinAlgError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class _Tangent:
    """Mode select: constant, linear (p,) and matrix M (p, p) of F, their errors, and what leaving Σx = count costs.

    start : int8 (p,), what is fixed wherever F is used; M is semidefinite on the free weights' Σd = 0
    """

    constant: float
    constant_off: float
    linear: FloatArray
    matrix: FloatArray
    doubt: FloatArray
    count: int
    start: Signs

    @staticmethod
    def of(
        block: BlockProblem, curvature: _Curvature, shift: FloatArray, penalty: float, start: Signs
    ) -> "_Tangent | None":
        """F of a shift, which is raised where that makes its convexity on the count's plane provable."""
        dense, ridge, p = block.dense_weights, block.form.ridge, block.p
        free = np.flatnonzero(start < 0)
        # x² − x is 0 at a fixed weight, whatever multiplies it
        shift = np.where(start < 0, shift, 0.0)
        value, value_off, slope, slope_off = _expansion(block, dense)
        matrix = curvature.matrix * dense[:, None] * dense
        scale = curvature.scale * np.abs(dense)
        off = (curvature.entry + 4.0 * UNIT) * np.outer(scale, scale) + 4.0 * UNIT * np.abs(matrix)
        linear = 0.5 * ridge * dense * dense - dense * slope
        linear_off = np.abs(dense) * slope_off + 8.0 * UNIT * (ridge * dense * dense + np.abs(dense * slope))
        if penalty > 0.0:
            assert block.quota is not None
            pruned = (block.quota.sizes - block.quota.counts).astype(np.float64)
            same = block.quota.group[:, None] == block.quota.group
            matrix = matrix + 2.0 * penalty * same
            off = off + 4.0 * UNIT * (np.abs(matrix) + 2.0 * penalty * same)
            linear = linear - 2.0 * penalty * pruned[block.quota.group]
            linear_off = linear_off + 4.0 * UNIT * (np.abs(linear) + 4.0 * penalty * pruned[block.quota.group])
            offset = penalty * float(pruned @ pruned)
            value, value_off = value + offset, value_off + (pruned.size + 8) * UNIT * (abs(value) + 2.0 * offset)
        diagonal = np.diag_indices(p)
        matrix[diagonal] += shift
        off[diagonal] += 4.0 * UNIT * (np.abs(shift) + np.abs(matrix[diagonal]))
        missing = _missing_on_plane(matrix[np.ix_(free, free)], off[np.ix_(free, free)])
        if missing is None:
            return None
        added = np.zeros(p)
        added[free] = missing
        shift = shift + added
        matrix[diagonal] += added
        off[diagonal] += 4.0 * UNIT * (np.abs(shift) + np.abs(matrix[diagonal]) + added)
        linear = linear - 0.5 * shift
        linear_off = linear_off + 4.0 * UNIT * (np.abs(linear) + np.abs(shift))
        doubt = (linear_off + off.sum(axis=1) + (p + 8) * UNIT * (np.abs(matrix).sum(axis=1) + np.abs(linear))) * UP
        return _Tangent(value, value_off, linear, matrix, doubt, p - block.keep, start)

    def costs(self, points: FloatArray) -> _Costs:
        """The tangents at points x (r, p) as costs of the pruned weights; a fixed weight's x is what it is fixed to.

        Raises
        ------
        InvalidInput   an entry outside [0, 1]
        """
        if points.size and (points.min() < 0.0 or points.max() > 1.0):
            raise InvalidInput("a point of the proof lies outside [0, 1]")
        free = self.start < 0
        points = np.where(free, points, 1.0 - self.start)
        curved = points @ self.matrix
        gradient = curved + self.linear
        halves = 0.5 * points * curved
        start = self.constant - halves.sum(axis=1)
        p = self.linear.size
        # M is semidefinite on the plane only: a point beside it by t·1 costs t·|1'Md| and ½t²·|1'M1| at most
        aside = np.abs(self.count - points.sum(axis=1)) / max(int(free.sum()), 1) + UNIT * p
        rows = np.abs(self.matrix[:, free].sum(axis=1)) + self.doubt
        astray = aside * rows[free].sum() * (1.0 + aside)
        doubt = self.constant_off + 1.5 * self.doubt.sum() + (p + 16) * UNIT * np.abs(halves).sum(axis=1) + astray
        return _Costs(start, doubt * UP, gradient, kept=False)


def _missing_on_plane(matrix: FloatArray, off: FloatArray) -> FloatArray | None:
    """What the diagonal (p,) must be raised by before all matrices within `off` are proved semidefinite on Σd = 0.

    Weights of different sizes are brought to one scale first, dᵢ = eᵢ/scaleᵢ, so that small ones lose little.
    """
    p = matrix.shape[0]
    if p <= 1:
        return np.zeros(p)
    scale = np.sqrt(np.maximum(np.abs(matrix).max(axis=1), 1e-300))
    matrix = matrix / scale[:, None] / scale
    # dividing rounds twice
    doubt = (float(np.linalg.norm(off / scale[:, None] / scale)) + 8.0 * UNIT * float(np.linalg.norm(matrix))) * UP
    # a Householder reflection that takes the plane's normal to a multiple of the first unit vector
    mirror = 1.0 / scale
    mirror /= np.linalg.norm(mirror)
    mirror[0] += 1.0
    mirror /= np.linalg.norm(mirror)
    image = matrix @ mirror
    update = 2.0 * (image - float(mirror @ image) * mirror)
    plane = (matrix - np.outer(mirror, update) - np.outer(update, mirror))[1:, 1:]
    # two reflections from either side: Higham (2002), Lemma 19.3
    doubt += 50.0 * UNIT * (p + 4) * float(np.linalg.norm(matrix))
    added, step = 0.0, 2.0 * doubt
    for _ in range(80):
        if _is_semidefinite(plane + added * np.eye(p - 1), doubt):
            return np.asarray(added * scale * scale * UP)
        added, step = added + step, 4.0 * step
    return None


@dataclass(frozen=True, eq=False)
class _Dual:
    """Mode refit: c, h and H − Δ of the weights that are not pruned above, with errors.

    inside : those weights;  kept : of them, the ones kept above, whose entries of a point follow the others'
    """

    constant: float
    constant_off: float
    slope: FloatArray
    slope_off: FloatArray
    hessian: FloatArray
    split: FloatArray
    reach: FloatArray
    entry: float
    inside: IndexArray
    kept: IndexArray
    p: int

    @staticmethod
    def of(
        block: BlockProblem, curvature: _Curvature, first: FloatArray, split: FloatArray, start: Signs, kept: IndexArray
    ) -> "_Dual | None":
        """The dual of a split, lowered until H − Δ is proved semidefinite."""
        constant, constant_off, gradient, gradient_off = _expansion(block, np.zeros(block.p))
        inside = np.flatnonzero(start != 0)
        hessian = curvature.matrix[np.ix_(inside, inside)]
        hessian[np.diag_indices(inside.size)] += block.form.ridge[inside]
        diagonal = hessian.diagonal()
        if (diagonal <= 0.0).any():
            return None
        reach = np.sqrt(diagonal) * UP
        entry = curvature.entry + 2.0 * UNIT
        held = np.isin(inside, kept)
        for share in SHARES if kept.size else SHRINKS:
            trial = (1.0 - share) * split[inside]
            trial[held] = 0.5 * share * first[inside][held]
            if (trial <= 0.0).any():
                return None
            unit = 1.0 / reach
            scaled = hessian * unit[:, None] * unit - np.diag(trial * unit * unit)
            if _is_semidefinite(scaled, inside.size * (entry + 8.0 * UNIT)):
                return _Dual(
                    constant, constant_off, -gradient[inside], gradient_off[inside], hessian, trial, reach, entry,
                    inside, np.flatnonzero(held), block.p,
                )  # fmt: skip
        return None

    def costs(self, points: FloatArray) -> _Costs:
        """The dual at points v (r, p) as costs of the kept weights."""
        v = points[:, self.inside]
        if self.kept.size:
            v = self._followed(v)
        size = self.inside.size
        rest = v @ self.hessian - v * self.split
        rho = self.slope - rest
        span = np.abs(v) @ self.reach
        off = np.outer(span, (self.entry + (size + 8) * UNIT) * self.reach)
        off += self.slope_off + 4.0 * UNIT * (np.abs(self.slope) + np.abs(v) * self.split + np.abs(rho))
        off *= UP
        gains = (np.abs(rho) + off) ** 2 / self.split * UP_GAIN
        halves = 0.5 * v * rest
        doubt = self.constant_off + 0.5 * (np.abs(v) * off).sum(axis=1)
        doubt += (size + 16) * UNIT * (np.abs(halves).sum(axis=1) + abs(self.constant))
        costs = np.zeros((points.shape[0], self.p))
        costs[:, self.inside] = -0.5 * gains
        return _Costs(self.constant - halves.sum(axis=1), doubt * UP, costs, kept=True)

    def _followed(self, v: FloatArray) -> FloatArray:
        """The points with the entries of the kept weights where they are best; near enough is good enough."""
        others = np.setdiff1d(np.arange(self.inside.size), self.kept)
        system = self.hessian[np.ix_(self.kept, self.kept)] - np.diag(self.split[self.kept])
        right = self.slope[self.kept] - v[:, others] @ self.hessian[np.ix_(others, self.kept)]
        try:
            # ρ² / Δ falls to Δ v² where the weight is at its best: (H_kk) v_k = h_k − H_ko v_o
            solved = np.linalg.solve(system + np.diag(self.split[self.kept]), right.T).T
        except np.linalg.LinAlgError:
            return v
        out = v.copy()
        out[:, self.kept] = solved
        return out


UP_GAIN = 1.0 + 8.0 * UNIT
"""Squaring, dividing and adding round three times."""
