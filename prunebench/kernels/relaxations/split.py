"""The perspective relaxation of mode refit and the diagonal split with the best root bound.

With H = K + diag(Δ), K positive semidefinite, and Σm = keep

    f >= min over w, m of  ½ w'Kw − h'w + ½ Σ Δᵢ wᵢ²/mᵢ,

and for any v, with ρ = h − Kv, a bound is −½ v'Kv − ½ (sum of the keep largest ρᵢ²/Δᵢ).
Pilanci, Wainwright, El Ghaoui: Sparse learning via Boolean relaxations, Math. Programming 151
(2015), §3. Dong, Chen, Linderoth: Regularization vs. relaxation, arXiv:1510.06083, §3: the split
that maximises the bound. The split is found by a barrier method whose Newton matrix holds the
relaxation's own curvature in Δ; every iterate is a valid split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.relaxations.programs import HALF_ULP, RefitProgram
from prunebench.kernels.relaxations.shift import _cholesky, _inverse

NEWTON_STEPS = 80
"""Most Newton steps; normally the requested accuracy is reached earlier."""
START_SHARE = 0.9
"""Weight of a given start in the first split; the rest is a multiple of the identity, well inside the barrier."""
START_WEIGHT = 0.1
"""Factor of the barrier's first weight if a start is given, as that is already some way along the central path."""
WEIGHT_STEP = 0.2
"""Factor of the barrier's weight once the iterate is near enough to the central path."""
MOST_FAILURES = 2
"""More consecutive steps that do not raise the merit, each with a smaller weight, end the search."""


@dataclass(frozen=True, eq=False)
class RelaxedPoint:
    """A point of the relaxation, with the split scaled to the identity: y = √Δ w.

    y, rho : (p,);  level : τ, the threshold of |ρ|;  tied : bool (p,), 0 < m < 1;  inside : bool (p,), m = 1
    value : the bound at this point, without allowance for rounding
    """

    y: FloatArray
    rho: FloatArray
    level: float
    tied: BoolArray
    inside: BoolArray
    value: float


Relaxation = Callable[[FloatArray, FloatArray, int, RelaxedPoint | None], RelaxedPoint]


@dataclass(frozen=True, eq=False)
class Split:
    """delta : Δ (p,);  value : the root bound, rounding not subtracted;  point : where it is attained;  iterations."""

    delta: FloatArray
    value: float
    point: RelaxedPoint
    iterations: int


def relaxation(matrix: FloatArray, linear: FloatArray, keep: int, start: RelaxedPoint | None = None) -> RelaxedPoint:
    """The relaxation's optimum for K = matrix, h = linear, Δ = 1, by pattern iterations in numpy. O(b³) each.

    If the patterns do not converge, the best point seen is returned; its bound is valid anyway.
    """
    p = linear.size
    inside = _largest(np.abs(linear), keep) if start is None else start.inside.copy()
    tied = np.zeros(p, dtype=np.bool_) if start is None else start.tied.copy()
    sign = np.where((linear if start is None else start.rho) < 0.0, -1.0, 1.0)
    best: RelaxedPoint | None = None
    for _ in range(60):
        held = np.flatnonzero(inside | tied)
        system = matrix[np.ix_(held, held)]
        system[np.diag_indices(held.size)] += inside[held]
        ties = np.where(tied[held], sign[held], 0.0)
        factor = _cholesky(system)
        if factor is None:
            break
        both, _ = lapack.dpotrs(factor, np.column_stack([linear[held], ties]), lower=1)
        level = 0.0
        if tied.any():
            level = float(ties @ both[:, 0]) / (keep - int(inside.sum()) + float(ties @ both[:, 1]))
        y = np.zeros(p)
        y[held] = both[:, 0] - level * both[:, 1]
        rho = linear - matrix @ y
        size = np.abs(rho)
        order = np.sort(size)[::-1]
        value = -0.5 * float(y @ (linear - rho)) - 0.5 * float(order[:keep] @ order[:keep])
        settled = not tied.any() and float(size[inside].min()) >= float(size[~inside].max(initial=0.0)) * (1 - 1e-10)
        if not tied.any():
            level = 0.5 * (float(order[keep - 1]) + float(order[min(keep, p - 1)]))
        if best is None or value > best.value:
            best = RelaxedPoint(y, rho, level, tied.copy(), inside.copy(), value)
        share = np.where(tied, sign * y, 0.0) / max(level, 1e-300)
        grown, shrunk = tied & (share > 1 + 1e-9), tied & (share < -1e-9)
        joining = (inside & (size < level * (1 - 1e-9))) | (~inside & ~tied & (size > level * (1 + 1e-9)))
        if settled or not (grown.any() or shrunk.any() or joining.any()):
            break
        inside, tied = (inside | grown) & ~joining, (tied & ~grown & ~shrunk) | joining
        sign = np.where(joining, np.where(rho < 0.0, -1.0, 1.0), sign)
        inside, tied = _legal(inside, tied, size, keep)
    assert best is not None
    return best


def best_split(
    program: RefitProgram,
    upper: float,
    relax: Relaxation = relaxation,
    accuracy: float = 1e-2,
    stop: StopCheck = never,
    start: FloatArray | None = None,
    steps: int = NEWTON_STEPS,
) -> Split | None:
    """The diagonal split to `accuracy` of upper − bound, or the best so far after `steps` or once `stop` says so.

    It starts near `start`, a split of the same program, or from the best multiple of the identity.
    None if H is not positive definite in floating point. O(p³) an iteration.
    """
    own = program.hessian.diagonal()
    barrier = _Barrier.of(program, relax)
    if barrier is None:
        return None
    delta = np.full(own.size, 0.5 * barrier.lowest)
    if start is not None:
        # from the barrier's edge it would take many steps to get away
        delta = START_SHARE * start / own + (1.0 - START_SHARE) * delta
    at = barrier.iterate(delta, None)
    if at is None:
        return None
    best = Split(delta, at.point.value, at.point, 0)
    weight = max(upper - at.point.value, 1e-3 * abs(upper), 1e-12) / (2 * own.size)
    if start is not None:
        weight *= START_WEIGHT
    failures = 0
    for iteration in range(1, steps + 1):
        step, decrement = barrier.newton_step(at, weight)
        moved = None if step is None else barrier.line_search(at, step, weight)
        if moved is not None:
            at = moved
            if at.point.value > best.value:
                best = Split(at.delta, at.point.value, at.point, iteration)
        failures = failures + 1 if moved is None else 0
        if best.value >= upper or stop(0.0) or failures > MOST_FAILURES:
            break
        if moved is None or decrement < weight:
            if weight * own.size <= accuracy * (upper - best.value):
                break
            weight *= WEIGHT_STEP
    return Split(best.delta * own, best.value, best.point, iteration)


@dataclass(frozen=True, eq=False)
class _Iterate:
    """A split inside the barrier: Δ (p,), the Cholesky factor of H − Δ, and the relaxation's point for Δ."""

    delta: FloatArray
    lower: FloatArray
    point: RelaxedPoint

    def merit(self, weight: float) -> float:
        """bound(Δ) + weight·(log det(H − Δ) + Σ log Δ)."""
        inside = 2.0 * float(np.log(self.lower.diagonal()).sum()) + float(np.log(self.delta).sum())
        return self.point.value + weight * inside


@dataclass(frozen=True, eq=False)
class _Barrier:
    """The barrier problem, scaled to unit diagonal.

    matrix : H (p, p);  slope : h (p,), in the same scale;  keep : how many weights are kept
    lowest : the smallest eigenvalue of H;  room : how much of it H − Δ must keep, to be safely positive definite
    relax : solves the relaxation for a split
    """

    matrix: FloatArray
    slope: FloatArray
    keep: int
    lowest: float
    room: float
    relax: Relaxation

    @staticmethod
    def of(program: RefitProgram, relax: Relaxation) -> "_Barrier | None":
        """The barrier problem of a program; None if H is not positive definite in floating point."""
        own = program.hessian.diagonal()
        if (own <= 0.0).any():
            return None
        unit = 1.0 / np.sqrt(own)
        matrix = program.hessian * unit[:, None] * unit
        lowest = float(np.linalg.eigvalsh(matrix)[0])
        floor = 64.0 * own.size * HALF_ULP
        if lowest <= floor:
            return None
        return _Barrier(matrix, program.slope * unit, program.keep, lowest, 0.25 * min(lowest, 4.0 * floor), relax)

    def iterate(self, delta: FloatArray, start: RelaxedPoint | None) -> _Iterate | None:
        """The iterate at a split; None if H − Δ is not positive definite. start : the point of a nearby split"""
        corner = np.diag_indices(delta.size)
        rest = self.matrix.copy()
        rest[corner] -= delta + self.room
        lower = _cholesky(rest)
        if lower is None:
            return None
        root = 1.0 / np.sqrt(delta)
        rest = self.matrix.copy()
        rest[corner] -= delta
        return _Iterate(delta, lower, self.relax(rest * root[:, None] * root, self.slope * root, self.keep, start))

    def newton_step(self, at: _Iterate, weight: float) -> tuple[FloatArray | None, float]:
        """The Newton step for the merit, and its decrement; None if the system is singular."""
        delta, point = at.delta, at.point
        w = point.y / np.sqrt(delta)
        ties = np.flatnonzero(point.tied)
        gradient = np.zeros(delta.size)
        inverse = _inverse(at.lower)
        system = weight * inverse * inverse
        system[np.diag_indices(delta.size)] += weight / delta**2
        if ties.size and point.level > 0.0:
            size, sign, own = np.abs(w[ties]), np.sign(w[ties]), delta[ties]
            share = np.clip(size * np.sqrt(own) / point.level, 1e-9, 1.0)
            gradient[ties] = 0.5 * w[ties] ** 2 * (1.0 / share - 1.0)
            system[np.ix_(ties, ties)] -= _tie_curvature(self.matrix, point, self.keep, own, size, sign)
        gradient += weight / delta - weight * inverse.diagonal()
        scale = 1.0 / np.sqrt(np.maximum(system.diagonal(), 1e-300))
        scaled = system * scale[:, None] * scale
        factor = _cholesky(scaled)
        if factor is None:
            scaled[np.diag_indices(delta.size)] += 1e-6
            factor = _cholesky(scaled)
            if factor is None:
                return None, np.inf
        step, _ = lapack.dpotrs(factor, gradient * scale, lower=1)
        step = np.asarray(step * scale)
        return step, float(gradient @ step)

    def line_search(self, at: _Iterate, step: FloatArray, weight: float) -> _Iterate | None:
        """The first of the successively halved steps that stays inside and does not lower the merit."""
        before = at.merit(weight)
        falling = step < 0.0
        length = min(1.0, 0.95 * float((at.delta[falling] / -step[falling]).min(initial=np.inf)))
        while length > 1e-4:
            moved = self.iterate(at.delta + length * step, at.point)
            if moved is not None and moved.merit(weight) >= before - 1e-12 * abs(before):
                return moved
            length *= 0.5
        return None


def certified_split(program: RefitProgram, delta: FloatArray) -> FloatArray | None:
    """`delta` shrunk until K = H − diag(Δ) is proved positive semidefinite, including the rounding of H.

    Scaled so that every reach is 1 and the diagonal of H at most 1, each entry of H has an error of at most
    `relative`. K is proved if Cholesky succeeds after subtracting this error and the rounding of Cholesky
    itself (Rump, BIT 46 (2006)). None if not even a thousandth of `delta` can be proved.
    """
    unit = 1.0 / program.reach
    matrix = program.hessian * unit[:, None] * unit
    p = unit.size
    doubt = p * (program.relative + 4.0 * HALF_ULP * (p + 4))
    factor = 1.0
    while factor > 1e-3:
        rest = matrix.copy()
        rest[np.diag_indices(p)] -= factor * delta * unit**2 + doubt
        if _cholesky(rest) is not None:
            return np.asarray(factor * delta)
        factor *= 1.0 - max(1e-9, (1.0 - factor) * 3.0)
    return None


def _tie_curvature(
    matrix: FloatArray, point: RelaxedPoint, keep: int, own: FloatArray, size: FloatArray, sign: FloatArray
) -> FloatArray:
    """The second derivative of the relaxation's value in the Δ of the tied weights, with the pattern fixed."""
    held = np.flatnonzero(point.inside | point.tied)
    at = np.flatnonzero(point.tied[held])
    left = keep - int(point.inside.sum())
    ties = np.zeros(held.size)
    ties[at] = sign * np.sqrt(own)
    system = matrix[np.ix_(held, held)]
    system[at, at] -= own
    system += np.outer(ties, ties) / left
    total = float((np.sqrt(own) * size).sum()) / left
    rate = size / (2.0 * np.sqrt(own))
    pure = np.outer(rate, rate) / left - np.diag(total * size / (4.0 * own**1.5))
    mixed = np.outer(rate, ties) / left
    mixed[np.arange(at.size), at] += sign * (total / (2.0 * np.sqrt(own)) - size)
    factor = _cholesky(system)
    if factor is None:
        return np.zeros_like(pure)
    solved, _ = lapack.dpotrs(factor, mixed.T, lower=1)
    curvature = pure - mixed @ solved
    return np.asarray(0.5 * (curvature + curvature.T))


def _largest(values: FloatArray, count: int) -> BoolArray:
    mask = np.zeros(values.size, dtype=np.bool_)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def _legal(inside: BoolArray, tied: BoolArray, size: FloatArray, keep: int) -> tuple[BoolArray, BoolArray]:
    """The nearest pattern that has a threshold: |inside| < keep < |inside| + |tied|, or no ties and |inside| = keep."""
    count, ties = int(inside.sum()), int(tied.sum())
    if count > keep:
        weakest = np.flatnonzero(inside)[np.argsort(size[inside], kind="stable")[: count - keep + 1]]
        inside, tied = inside.copy(), tied.copy()
        inside[weakest], tied[weakest] = False, True
    elif count == keep:
        tied = np.zeros_like(tied)
    elif count + ties <= keep:
        inside = inside | tied
        tied = np.zeros_like(tied)
        rest = np.where(inside, -1.0, size)
        inside = inside | _largest(rest, keep - int(inside.sum()))
    return inside, tied
