"""Bounds that relaxations prove at their points, from the block's arrays: sums of costs over weights.

select, x = 1 − m (1 = pruned): F(x) = f((1 − x)·w̄) + ½ Σ (sᵢ − ridgeᵢ w̄ᵢ²)(xᵢ² − xᵢ), plus the quota's
penalty weight·Σ_g (Σ_g x − pruned_g)², equals f on masks that keep the count (and the quota). If its curvature
M is positive semidefinite on Σd = 0, F lies above its tangent at any x with Σx = p − keep. If a relaxation was
used only below some fixed weights, M and d of the free ones suffice.

refit: f(w) >= c − ½ v'(H − Δ)v − ½ Σ_kept (h − (H − Δ)v)²/Δ for any v, where c = f(0), h = −∇f(0), and
H − Δ is positive semidefinite. If a relaxation was used only below some fixed weights, those pruned there leave
H, and those kept there get a small share of the first relaxation's Δ.

Both are a constant plus one cost for every pruned (select) or kept (refit) weight, so the minimum over the
masks of a record is a sum of smallest costs. Rounding is bounded: errors of sums by Higham, Accuracy and
Stability of Numerical Algorithms, (3.5); semidefiniteness by Rump, Verification of positive definiteness,
BIT 46 (2006), Theorem 2.3.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput

UNIT = 2.0**-53
"""Unit roundoff of float64: the largest relative error of one operation."""
UP = 1.0 + 1e-6
"""Factor on error bounds, which are themselves computed in floating point, to far more than six digits."""
SHARES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
"""Tried in turn: share of the first split for weights kept above a relaxation, and share its own split gives up."""
SHRINKS = (0.0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2, 0.1, 0.5)
"""Tried in turn: the share of the split given up so that H − Δ is proved semidefinite."""
UP_GAIN = 1.0 + 8.0 * UNIT
"""Covers the three roundings of squaring, dividing and adding."""

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Costs:
    """Lower bounds start − doubt + Σ costs over the chosen weights, for r records.

    start, doubt : (r,);  costs : (r, p);  kept : whether the chosen weights are the kept ones
    """

    start: FloatArray
    doubt: FloatArray
    costs: FloatArray
    kept: bool


@dataclass(frozen=True, eq=False)
class Curvature:
    """C, the curvature without its ridge, and bounds entry·scale_i·scale_j on the errors of its entries.

    matrix : C (p, p);  scale : at least √C_ii (p,);  entry : float
    """

    matrix: FloatArray
    scale: FloatArray
    entry: float

    @staticmethod
    def of(block: BlockProblem) -> "Curvature":
        """The block's curvature.

        Raises
        ------
        InvalidInput   the block is a whole layer
        """
        form = block.form
        if form.hessian is not None:
            # entry_error is not 0 if C was formed from a factor, for which the bound must also hold
            matrix, entry = np.array(form.hessian), form.entry_error
        elif form.factor is not None:
            factor = form.factor.astype(np.float64)
            matrix, entry = factor.T @ factor, (factor.shape[0] + 4) * UNIT * UP
        else:
            raise InvalidInput(f"{block.name}: a proof is of one row's weights, not of a whole layer")
        return Curvature(matrix, np.sqrt(np.abs(matrix.diagonal())) * UP, entry)


def times(matrix: FloatArray, vector: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """matrix @ vector and its error, for a vector with errors up to `error`."""
    size = (matrix.shape[1] + 4) * UNIT
    return matrix @ vector, np.abs(matrix) @ (error + size * np.abs(vector)) * UP


def expansion(block: BlockProblem, point: FloatArray) -> tuple[float, float, FloatArray, FloatArray]:
    """f and ∇f at a point, from the block's own arrays, each with an error bound."""
    form = block.form
    move = point - form.centre
    error = UNIT * np.abs(move)
    if form.hessian is not None:
        product, off = times(form.hessian, move, error)
        scale = np.sqrt(np.abs(form.hessian.diagonal())) * UP
        off = off + form.entry_error * scale * float(scale @ np.abs(move)) * UP
        curved = float(product @ move)
        lost = float(off @ np.abs(move) + np.abs(product) @ error)
    else:
        assert form.factor is not None
        factor = form.factor.astype(np.float64)
        image, image_off = times(factor, move, error)
        product, off = times(factor.T, image, image_off)
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


def is_semidefinite(matrix: FloatArray, doubt: float) -> bool:
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
class Tangent:
    """Mode select: constant, linear (p,) and matrix M (p, p) of F, with errors, and the cost of leaving Σx = count.

    start : int8 (p,), what is fixed wherever F is used; M is semidefinite on Σd = 0 of the free weights
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
        block: BlockProblem, curvature: Curvature, shift: FloatArray, penalty: float, start: Signs
    ) -> "Tangent | None":
        """F of a shift, which is raised if that makes F provably convex on the count's plane."""
        dense, ridge, p = block.dense_weights, block.form.ridge, block.p
        free = np.flatnonzero(start < 0)
        # x² − x is 0 at a fixed weight, whatever its factor
        shift = np.where(start < 0, shift, 0.0)
        value, value_off, slope, slope_off = expansion(block, dense)
        matrix = curvature.matrix * dense[:, None] * dense
        scale = curvature.scale * np.abs(dense)
        off = (curvature.entry + 4.0 * UNIT) * np.outer(scale, scale) + 4.0 * UNIT * np.abs(matrix)
        linear = 0.5 * ridge * dense * dense - dense * slope
        linear_off = np.abs(dense) * slope_off + 8.0 * UNIT * (ridge * dense * dense + np.abs(dense * slope))
        if penalty > 0.0:
            group = block.keeping.group
            pruned = (block.keeping.sizes - block.keeping.counts).astype(np.float64)
            same = group[:, None] == group
            matrix = matrix + 2.0 * penalty * same
            off = off + 4.0 * UNIT * (np.abs(matrix) + 2.0 * penalty * same)
            linear = linear - 2.0 * penalty * pruned[group]
            linear_off = linear_off + 4.0 * UNIT * (np.abs(linear) + 4.0 * penalty * pruned[group])
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
        return Tangent(value, value_off, linear, matrix, doubt, p - block.keep, start)

    def costs(self, points: FloatArray) -> Costs:
        """The tangents at points x (r, p) as costs of the pruned weights; x of a fixed weight is its fixed value.

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
        # M is semidefinite on the plane only: a point off it by t·1 costs at most t·|1'Md| and ½t²·|1'M1|
        aside = np.abs(self.count - points.sum(axis=1)) / max(int(free.sum()), 1) + UNIT * p
        rows = np.abs(self.matrix[:, free].sum(axis=1)) + self.doubt
        astray = aside * rows[free].sum() * (1.0 + aside)
        doubt = self.constant_off + 1.5 * self.doubt.sum() + (p + 16) * UNIT * np.abs(halves).sum(axis=1) + astray
        return Costs(start, doubt * UP, gradient, kept=False)


def _missing_on_plane(matrix: FloatArray, off: FloatArray) -> FloatArray | None:
    """How much to raise the diagonal (p,) until all matrices within `off` are proved semidefinite on Σd = 0.

    Weights are first scaled to equal size, dᵢ = eᵢ/scaleᵢ, so that small ones lose little.
    """
    p = matrix.shape[0]
    if p <= 1:
        return np.zeros(p)
    scale = np.sqrt(np.maximum(np.abs(matrix).max(axis=1), 1e-300))
    matrix = matrix / scale[:, None] / scale
    # each entry is divided, hence rounded, twice
    doubt = (float(np.linalg.norm(off / scale[:, None] / scale)) + 8.0 * UNIT * float(np.linalg.norm(matrix))) * UP
    # Householder reflection that maps the plane's normal to a multiple of the first unit vector
    mirror = 1.0 / scale
    mirror /= np.linalg.norm(mirror)
    mirror[0] += 1.0
    mirror /= np.linalg.norm(mirror)
    image = matrix @ mirror
    update = 2.0 * (image - float(mirror @ image) * mirror)
    plane = (matrix - np.outer(mirror, update) - np.outer(update, mirror))[1:, 1:]
    # error of two reflections from each side: Higham (2002), Lemma 19.3
    doubt += 50.0 * UNIT * (p + 4) * float(np.linalg.norm(matrix))
    added, step = 0.0, 2.0 * doubt
    for _ in range(80):
        if is_semidefinite(plane + added * np.eye(p - 1), doubt):
            return np.asarray(added * scale * scale * UP)
        added, step = added + step, 4.0 * step
    return None


@dataclass(frozen=True, eq=False)
class Dual:
    """Mode refit: c, h and H − Δ of the weights that are not pruned above, with errors.

    inside : those weights;  kept : which of them are kept above; their entries of a point follow from the others
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
        block: BlockProblem, curvature: Curvature, first: FloatArray, split: FloatArray, start: Signs, kept: IndexArray
    ) -> "Dual | None":
        """The dual of a split, reduced until H − Δ is proved semidefinite."""
        constant, constant_off, gradient, gradient_off = expansion(block, np.zeros(block.p))
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
            if is_semidefinite(scaled, inside.size * (entry + 8.0 * UNIT)):
                return Dual(
                    constant, constant_off, -gradient[inside], gradient_off[inside], hessian, trial, reach, entry,
                    inside, np.flatnonzero(held), block.p,
                )  # fmt: skip
        return None

    def costs(self, points: FloatArray) -> Costs:
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
        return Costs(self.constant - halves.sum(axis=1), doubt * UP, costs, kept=True)

    def _followed(self, v: FloatArray) -> FloatArray:
        """The points with the kept weights' entries optimised, approximately, as any point is valid."""
        others = np.setdiff1d(np.arange(self.inside.size), self.kept)
        system = self.hessian[np.ix_(self.kept, self.kept)] - np.diag(self.split[self.kept])
        right = self.slope[self.kept] - v[:, others] @ self.hessian[np.ix_(others, self.kept)]
        try:
            # ρ²/Δ is smallest, Δv², where the weight minimises f: H_kk v_k = h_k − H_ko v_o
            solved = np.linalg.solve(system + np.diag(self.split[self.kept]), right.T).T
        except np.linalg.LinAlgError:
            return v
        out = v.copy()
        out[:, self.kept] = solved
        return out
