"""The bound that a proof proves for a group block, derived from the block and the records alone.

With S the inputs that are not dropped above a record, P = A_SS⁻¹ and W = P·E, dropping further groups D from S costs

    f(S∖D) = f(S) + max over u of  tr(u_Dᵀ W_D) − ½ tr(u_Dᵀ P_DD u_D),

so for any u, with x = 1 for dropped free groups, f is at least the function of x

    E(x) = f(S) + Σ a_g x_g − ½ Σ K_gh x_g x_h,    a_g = tr(u_gᵀ W_g),    K_gh = tr(u_gᵀ P_gh u_h).

u is what the record's moments M make the best one, (M∘P)u = diag(M)∘W. E is a quadratic form of masks with a count, so
its bound is that of a block in mode select (`prunebench.proofs.relaxations.Tangent`).

Rounding is bounded by norms: with ‖I − A·P̃‖ <= ρ the computed inverse P̃ is within ‖P̃‖ρ/(1 − ρ) of P.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.group_proof import GroupProof, GroupRelaxation
from prunebench.core.quadratic import QuadraticForm
from prunebench.proofs.relaxations import UNIT, UP, Curvature, Tangent

RAISED = 1e-7
"""Share by which the diagonal of M∘P is raised before it is solved: moments in float32 may be indefinite by that."""
FACTOR_STEPS = 60
"""Times (p + q) units of rounding: what forming E from cross and weight may lose, as a share of its norm. QR and the
eigenvalue decomposition lose less (Higham 2002, Theorem 19.4; LAPACK Users' Guide, §4.7)."""


def proved_group_bound(block: GroupBlock, proof: GroupProof) -> float:
    """The lower bound that the records prove for the block; −inf if nothing is proved. O(records·p³)

    Raises
    ------
    InvalidInput   the proof is of another block, or its records do not make a tree
    """
    relaxations = _require_tree(block, proof)
    inherited: list[float] = []
    fixed: list[tuple[BoolArray, BoolArray]] = []
    bound = np.inf
    for record in range(proof.records):
        kept, dropped = _fixed(block, proof, fixed, record)
        fixed.append((kept, dropped))
        above = inherited[int(proof.parent[record])] if record else -np.inf
        own = -np.inf
        if not _empty(block, kept, dropped) and (proof.branch[record] < 0 or relaxations[record] is not None):
            own = record_bound(block, kept, dropped, relaxations[record])
        inherited.append(max(own, above))
        if proof.branch[record] < 0 and not _empty(block, kept, dropped):
            bound = min(bound, inherited[record])
    return float(bound)


def record_bound(block: GroupBlock, kept: BoolArray, dropped: BoolArray, relaxation: GroupRelaxation | None) -> float:
    """A lower bound on f over the sets that keep `kept`, drop `dropped`, and keep `block.keep` groups in all.

    bool (C,), bool (C,); −inf if nothing is proved. Where only one such set is left, its own f.
    """
    form = block.form
    free = np.flatnonzero(~kept & ~dropped)
    count = int(free.size - (block.keep - int(kept.sum())))
    if count == free.size:
        return _value_bound(form, kept)
    if count == 0:
        return _value_bound(form, ~dropped)
    if relaxation is None:
        return -np.inf
    state = _Inverse.of(form, ~dropped)
    if state is None:
        return -np.inf
    return _relaxed_bound(form, state, free, count, relaxation)


def _relaxed_bound(
    form: GroupForm, state: "_Inverse", free: IndexArray, count: int, relaxation: GroupRelaxation
) -> float:
    places = np.concatenate([np.arange(*form.parts.starts[[group, group + 1]]) for group in free])
    at = np.searchsorted(state.rows, places)
    own = np.repeat(np.arange(free.size), form.sizes[free])
    inverse, weights = state.inverse[np.ix_(at, at)], state.weights[at]
    moments = relaxation.moments.astype(np.float64)
    system = moments[np.ix_(own, own)] * inverse
    system[np.diag_indices_from(system)] *= 1.0 + RAISED
    try:
        dual = np.linalg.solve(system, moments.diagonal()[own][:, None] * weights)
    except np.linalg.LinAlgError:
        return -np.inf
    if not np.isfinite(dual).all():
        return -np.inf
    begins = np.concatenate(([0], np.cumsum(form.sizes[free])[:-1]))
    linear = np.add.reduceat((dual * weights).sum(axis=1), begins)
    products = inverse * (dual @ dual.T)
    pairs = np.add.reduceat(np.add.reduceat(products, begins, axis=0), begins, axis=1)
    pairs = 0.5 * (pairs + pairs.T)
    size = float(np.linalg.norm(dual))
    steps = (places.size + dual.shape[1] + 16) * UNIT
    doubt = state.doubt + size * (state.weights_off + steps * float(np.linalg.norm(weights)))
    doubt += 0.5 * size * size * (state.inverse_off + 2.0 * steps * state.norm)
    lowest = _select_bound(state.value, linear, pairs, count, relaxation)
    return lowest - doubt * UP if np.isfinite(lowest) and np.isfinite(doubt) else -np.inf


def _select_bound(
    value: float, linear: FloatArray, pairs: FloatArray, count: int, relaxation: GroupRelaxation
) -> float:
    """A lower bound on value + linear'x − ½x'·pairs·x over binaries with `count` ones."""
    size = linear.size
    if not (np.isfinite(linear).all() and np.isfinite(pairs).all() and np.isfinite(relaxation.shift).all()):
        return -np.inf
    ones = np.ones(size)
    try:
        form = QuadraticForm(hessian=-pairs, linear=-linear, centre=ones, constant=value)
        block = BlockProblem(form, ones, size - count, "select")
    except InvalidInput:
        return -np.inf
    start = np.full(size, -1, dtype=np.int8)
    tangent = Tangent.of(block, Curvature.of(block), relaxation.shift, 0.0, start)
    if tangent is None:
        return -np.inf
    costs = tangent.costs(relaxation.point[None])
    chosen = np.sort(costs.costs[0])[:count]
    sizes = float(np.abs(costs.costs[0]).sum()) + abs(float(costs.start[0]))
    doubt = (float(costs.doubt[0]) + (3 * size + 32) * UNIT * sizes) * UP
    return float(costs.start[0]) + float(chosen.sum()) - doubt


def _value_bound(form: GroupForm, kept: BoolArray) -> float:
    """A lower bound on f of one set, rounding included."""
    state = _Inverse.of(form, kept)
    return -np.inf if state is None else state.value - state.doubt * UP


@dataclass(frozen=True, eq=False)
class _Inverse:
    """P, W and f of the inputs of some groups, with bounds on their errors.

    rows : places of the inputs (s,);  inverse (s, s), weights (s, r), value
    inverse_off : on ‖P̃ − P‖₂;  weights_off : on ‖W̃ − W‖_F;  doubt : on the error of `value`;  norm : at least ‖P̃‖_F
    """

    rows: IndexArray
    inverse: FloatArray
    weights: FloatArray
    value: float
    inverse_off: float
    weights_off: float
    doubt: float
    norm: float

    @staticmethod
    def of(form: GroupForm, kept: BoolArray) -> "_Inverse | None":
        """The inverse of the kept groups' inputs; None if it is too ill-conditioned to be bounded."""
        rows = np.flatnonzero(np.repeat(kept, form.sizes))
        if rows.size == 0:
            return _Inverse(rows, np.empty((0, 0)), np.empty((0, 1)), form.constant, 0.0, 0.0, 0.0, 0.0)
        matrix, right = form.parts.matrix[np.ix_(rows, rows)], form.parts.right[rows]
        try:
            inverse = np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            return None
        size, outputs = right.shape
        # a step of Newton's: what is left of I − A·P is then rounding alone, nearly the same on every machine
        inverse = inverse + inverse @ (np.eye(size) - matrix @ inverse)
        inverse = 0.5 * (inverse + inverse.T)
        norm = float(np.linalg.norm(inverse)) * UP
        steps = (size + 8) * UNIT
        # the diagonal of A is a rounded sum, and the products of the residuals round
        lost = steps * float(np.linalg.norm(matrix)) * UP
        rest = (float(np.linalg.norm(np.eye(size) - matrix @ inverse)) + lost * norm + 4.0 * UNIT * size) * UP
        if not rest < 0.5:
            return None
        inverse_off = norm * rest / (1.0 - rest)
        largest = (norm + inverse_off) * UP
        weights = inverse @ right
        reach, length = float(np.linalg.norm(right)) * UP, float(np.linalg.norm(weights)) * UP
        off = FACTOR_STEPS * (form.p + form.q) * UNIT * float(np.linalg.norm(form.parts.right)) * UP
        # at weights W with residual R = E − A·W, f of the best weights is c − ½⟨E, W⟩ − ½⟨R, W⟩ − ½⟨R, A⁻¹R⟩
        residual = right - matrix @ weights
        apart = float(np.linalg.norm(residual)) * UP
        residual_off = (lost * length + 4.0 * UNIT * (reach + apart) + off) * UP
        weights_off = largest * (apart + residual_off)
        products = float(np.einsum("ij,ij->", right, weights)) + float(np.einsum("ij,ij->", residual, weights))
        value = form.constant - 0.5 * products
        doubt = 0.5 * length * (off + residual_off) + 0.5 * largest * (apart + residual_off) ** 2
        doubt += (size * outputs + 8) * UNIT * (abs(form.constant) + (reach + apart) * length)
        return _Inverse(rows, inverse, weights, value, inverse_off, weights_off, doubt, norm)


# --- the records as a tree ---


def _require_tree(block: GroupBlock, proof: GroupProof) -> list[GroupRelaxation | None]:
    """Refuse records that do not fit the block or each other; their relaxations otherwise."""
    if proof.block != block.hash:
        raise InvalidInput("the proof was made for another block: the hashes differ")
    count = proof.records
    if count == 0 or any(getattr(proof, name).shape != (count,) for name in ("value", "branch", "relaxed")):
        raise InvalidInput("the proof's arrays do not have one entry a record")
    order = np.arange(count)
    if proof.parent[0] != -1 or (proof.parent[1:] < 0).any() or (proof.parent >= order).any():
        raise InvalidInput("the proof's records do not make one tree: every parent stands before its child")
    if proof.value[0] != -1 or not np.isin(proof.value[1:], (0, 1)).all():
        raise InvalidInput("the proof's 'value' holds numbers other than 0 and 1")
    if int(proof.branch.max()) >= block.p or int(proof.branch.min()) < -1 or int(proof.relaxed.max()) > 1:
        raise InvalidInput(f"the proof's 'branch' or 'relaxed' holds numbers outside the block's {block.p} groups")
    children = np.zeros((count, 2), dtype=np.int64)
    np.add.at(children, (proof.parent[1:], proof.value[1:].astype(np.int64)), 1)
    expected = np.repeat((proof.branch >= 0)[:, None], 2, axis=1).astype(np.int64)
    if not np.array_equal(children, expected):
        raise InvalidInput("a record of the proof does not have the two children of its branch")
    return _unpacked(block, proof)


def _unpacked(block: GroupBlock, proof: GroupProof) -> list[GroupRelaxation | None]:
    depth = np.zeros(proof.records, dtype=np.int64)
    for record in range(1, proof.records):
        depth[record] = depth[proof.parent[record]] + 1
    if int(depth.max()) > block.p:
        raise InvalidInput("the proof branches more often than the block has groups")
    sizes = np.where(proof.relaxed == 1, block.p - depth, 0)
    if proof.points.size != 2 * int(sizes.sum()) or proof.moments.size != int((sizes * (sizes + 1) // 2).sum()):
        raise InvalidInput("the proof's relaxations do not fit its records")
    out: list[GroupRelaxation | None] = []
    moment, point = 0, 0
    for size, held in zip(sizes.tolist(), proof.relaxed.tolist(), strict=True):
        if not held:
            out.append(None)
            continue
        lower = np.zeros((size, size), dtype=np.float32)
        lower[np.tril_indices(size)] = proof.moments[moment : moment + size * (size + 1) // 2]
        moments = lower + np.tril(lower, -1).T
        shift, share = proof.points[point : point + size], proof.points[point + size : point + 2 * size]
        if not (np.isfinite(moments).all() and np.isfinite(shift).all() and ((share >= 0.0) & (share <= 1.0)).all()):
            raise InvalidInput("a relaxation of the proof holds numbers that are not finite, or shares outside [0, 1]")
        out.append(GroupRelaxation(moments, shift, share))
        moment, point = moment + size * (size + 1) // 2, point + 2 * size
    return out


def _fixed(
    block: GroupBlock, proof: GroupProof, fixed: list[tuple[BoolArray, BoolArray]], record: int
) -> tuple[BoolArray, BoolArray]:
    """What a record fixes: kept and dropped groups."""
    if record == 0:
        return np.zeros(block.p, dtype=np.bool_), np.zeros(block.p, dtype=np.bool_)
    parent = int(proof.parent[record])
    kept, dropped = (part.copy() for part in fixed[parent])
    group = int(proof.branch[parent])
    if kept[group] or dropped[group]:
        raise InvalidInput("a record of the proof branches on a group that it has fixed")
    (kept if proof.value[record] == 1 else dropped)[group] = True
    return kept, dropped


def _empty(block: GroupBlock, kept: BoolArray, dropped: BoolArray) -> bool:
    """Whether no set of the right count satisfies what is fixed."""
    return int(kept.sum()) > block.keep or block.p - int(dropped.sum()) < block.keep
