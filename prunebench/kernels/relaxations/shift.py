"""The diagonal shift with the best root bound for mode select, by a primal-dual interior-point method.

As xᵢ² = xᵢ, ½x'Qx + g'x equals ½x'(Q + diag s)x + (g − s/2)'x on binaries. The shift that
maximises the continuous relaxation's value, subject to Q + diag(s) being positive semidefinite on
the plane Σd = 0 of equal counts, solves a semidefinite program of dimension p:

    max θ   subject to   W' [−2θ, (g − s/2)'; g − s/2, Q + diag s] W >= 0,    W a basis of {(1, x): Σx = count}.

Billionnet, Elloumi, Plateau: Improving the performance of standard solvers for quadratic 0-1
programs by a tight convex reformulation: the QCR method, Discrete Appl. Math. 157 (2009), §3.
Helmberg, Rendl, Vanderbei, Wolkowicz: An interior-point method for semidefinite programming, SIAM
Optim. 6 (1996): the search direction, here with Mehrotra's predictor-corrector (SIAM J.
Optim. 2, 1992). Every iterate is dual feasible, so the method may be stopped early.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import FloatArray
from prunebench.core.stop import StopCheck, never
from prunebench.kernels.relaxations.programs import HALF_ULP

ITERATIONS = 80
"""Most interior-point iterations; normally the requested accuracy is reached earlier."""
SECONDS_A_CUBE = 1.2e-8
"""Seconds that the method takes, divided by p³: twenty iterations of 6e-10, measured at p = 512 to 1024 on one core."""


def seconds_of(p: int) -> float:
    """About how many seconds `plane_shift` takes, for a caller with a limit: an iteration is indivisible."""
    return SECONDS_A_CUBE * float(p) ** 3


@dataclass(frozen=True, eq=False)
class Shift:
    """diagonal : s (p,);  value : θ, the relaxation's value (not a proof, as it includes rounding); iterations.

    point : x (p,), first moments of the primal solution: near the relaxation's optimum, Σx = count
    moments : (p, p), its second moments: near xx' averaged over some distribution of masks
    """

    diagonal: FloatArray
    value: float
    iterations: int
    point: FloatArray
    moments: FloatArray


def plane_shift(
    quadratic: FloatArray,
    linear: FloatArray,
    count: int | None,
    upper: float,
    accuracy: float = 1e-3,
    stop: StopCheck = never,
) -> Shift:
    """The best shift to `accuracy` of upper − θ, or the best so far once `stop` says so. O(p³) an iteration.

    Parameters
    ----------
    quadratic : (p, p) symmetric, definite or not
    linear : (p,)
    count : 1 to p − 1      Σx; None: any, and Q + diag(s) is then semidefinite everywhere
    upper : float           the incumbent's value
    """
    cone = _Cone(quadratic, linear, count) if count is not None else _WholeCone(quadratic, linear)
    shift, theta, dual, lower = cone.start(upper)
    primal = cone.uniform_point()
    size = dual.shape[0]
    gap = float(np.vdot(primal, dual))
    iterations = 0
    while iterations < ITERATIONS:
        iterations += 1
        inverse = _inverse(lower)
        newton = cone.newton(inverse, primal)
        if newton is None:
            break
        # predictor: full step towards the boundary, which tells how much centring this iterate needs
        step = newton.solve(np.zeros_like(inverse))
        dual_step = cone.reduced(step[1:], step[0])
        image = dual_step @ inverse
        primal_step = -primal - _symmetric(primal @ image)
        dual_length, primal_length = _step_length(dual, dual_step), _step_length(primal, primal_step)
        left = float(np.vdot(primal + primal_length * primal_step, dual + dual_length * dual_step))
        centring = min(1.0, max(left / gap, 0.0) ** 3)
        # corrector: adds the product of the predictor's steps that its linearisation neglected
        target = centring * gap / size * inverse - _symmetric(primal_step @ image)
        step = newton.solve(target)
        if not np.isfinite(step).all():
            break
        dual_step = cone.reduced(step[1:], step[0])
        primal_step = target - primal - _symmetric(primal @ (dual_step @ inverse))
        dual_length = _damped(_step_length(dual, dual_step))
        primal_length = _damped(_step_length(primal, primal_step))
        if max(dual_length, primal_length) < 1e-6:
            break
        moved = dual + dual_length * dual_step
        factor = _cholesky(moved)
        if factor is None:
            break
        shift, theta = shift + dual_length * step[1:], theta + dual_length * step[0]
        dual, lower = moved, factor
        primal = primal + primal_length * primal_step
        gap = float(np.vdot(primal, dual))
        if gap <= accuracy * max(upper - theta, 1e-9 * abs(upper)) or theta >= upper or stop(0.0):
            break
    moments = 2.0 * cone.whole(primal)
    return Shift(shift, theta, iterations, moments[0, 1:], moments[1:, 1:])


def certified_shift(quadratic: FloatArray, shift: FloatArray, everywhere: bool = False) -> FloatArray:
    """`shift` raised uniformly until Q + diag(shift) is proved positive semidefinite on the plane Σd = 0.

    everywhere : off the plane too.

    The proof is a Cholesky factorisation that succeeds after a bound on its rounding was subtracted
    (Rump: Verification of positive definiteness, BIT 46 (2006), Theorem 2.3).
    """
    p = shift.size
    matrix = np.array(quadratic)
    matrix[np.diag_indices(p)] += shift
    normal = np.full(p, 1.0 / np.sqrt(p))
    normal[0] += 1.0
    normal /= np.linalg.norm(normal)
    size = float(np.linalg.norm(matrix))
    doubt = 40.0 * HALF_ULP * (p + 4) * size + float(np.finfo(np.float64).tiny)
    added = 0.0
    raise_by = 2.0 * doubt
    rotated = matrix if everywhere else _reflect(matrix, normal)[1:, 1:]
    diagonal = np.arange(rotated.shape[0])
    while True:
        trial = rotated.copy()
        trial[diagonal, diagonal] += added - doubt
        if _cholesky(trial) is not None:
            # `doubt` covers p times the diagonal's own rounding
            return np.asarray(shift + added)
        added = added + raise_by
        raise_by *= 4.0


class _Cone:
    """The matrices of the semidefinite program in coordinates of the count's plane."""

    def __init__(self, quadratic: FloatArray, linear: FloatArray, count: int) -> None:
        p = linear.size
        base = self._lay_out(quadratic, linear)
        self.count = count
        normal = np.ones(p + 1)
        normal[0] = -float(count)
        normal /= np.linalg.norm(normal)
        normal[0] -= 1.0
        self.mirror = normal / np.linalg.norm(normal)
        self.base: FloatArray = _reflect(base, self.mirror)[1:, 1:]
        self.spread = float(np.abs(quadratic).max(initial=0.0)) + float(np.ptp(linear))

    def _lay_out(self, quadratic: FloatArray, linear: FloatArray) -> FloatArray:
        """The matrix of the objective in (1, x). (p + 1, p + 1)"""
        self.size = linear.size
        self.entries = np.arange(1, self.size + 1)
        base = np.zeros((self.size + 1, self.size + 1))
        base[1:, 1:] = quadratic
        base[0, 1:] = base[1:, 0] = linear
        return base

    def reduced(self, shift: FloatArray, theta: float) -> FloatArray:
        """W'(the part linear in s and θ)W."""
        return _reflect(self._moved(shift, theta), self.mirror)[1:, 1:]

    def _moved(self, shift: FloatArray, theta: float) -> FloatArray:
        matrix = np.zeros((self.size + 1, self.size + 1))
        matrix[self.entries, self.entries] = shift
        matrix[0, 1:] = matrix[1:, 0] = -0.5 * shift
        matrix[0, 0] = -2.0 * theta
        return matrix

    def whole(self, matrix: FloatArray) -> FloatArray:
        """W matrix W', (p + 1, p + 1)."""
        out = np.zeros((self.size + 1, self.size + 1))
        out[1:, 1:] = matrix
        return _reflect(out, self.mirror)

    def start(self, upper: float) -> tuple[FloatArray, float, FloatArray, FloatArray]:
        """A strictly feasible s and θ, their matrix and its Cholesky factor."""
        level = 0.02 * self.spread + 1e-3 * abs(upper) + 1e-12
        drop = abs(upper) + level
        while True:
            shift = np.full(self.size, level)
            theta = upper - drop
            matrix = self.base + self.reduced(shift, theta)
            lower = _cholesky(matrix)
            if lower is not None:
                return shift, theta, matrix, lower
            drop *= 3.0
            level *= 1.3

    def uniform_point(self) -> FloatArray:
        """Half the second moments of (1, x) for uniformly random x: strictly feasible."""
        share = self.count / self.size
        moments = self._moments(share, share * (self.count - 1) / max(self.size - 1, 1))
        return _reflect(0.5 * moments, self.mirror)[1:, 1:]

    def _moments(self, share: float, pair: float) -> FloatArray:
        """E of (1, x)(1, x)' where every x is 1 with probability `share`, and two of them with `pair`."""
        moments = np.full((self.size + 1, self.size + 1), pair)
        moments[self.entries, self.entries] = share
        moments[0, 1:] = moments[1:, 0] = share
        moments[0, 0] = 1.0
        return moments

    def newton(self, inverse: FloatArray, primal: FloatArray) -> "_Newton | None":
        """The factored HKM system at (primal, inverse of the dual matrix); None if singular to rounding."""
        dual_inner, dual_mixed, dual_outer, dual_row, dual_corner = _blocks(self.whole(inverse))
        inner, mixed, outer, row, corner = _blocks(self.whole(primal))
        p = self.size
        system = np.empty((p + 1, p + 1))
        cross = mixed * dual_mixed.T
        system[1:, 1:] = 0.25 * (cross + cross.T + outer * dual_inner + inner * dual_outer)
        system[0, 0] = 4.0 * corner * dual_corner
        system[0, 1:] = system[1:, 0] = -(row * (dual_row - dual_corner) + (row - corner) * dual_row)
        scale = 1.0 / np.sqrt(np.maximum(system.diagonal(), 1e-300))
        factor = _cholesky(system * scale[:, None] * scale)
        return None if factor is None else _Newton(self, factor, scale)


class _WholeCone(_Cone):
    """The same where no count confines x: W is the identity."""

    def __init__(self, quadratic: FloatArray, linear: FloatArray) -> None:
        self.base = self._lay_out(quadratic, linear)
        # off the plane a constant part of the linear term counts
        self.spread = float(np.abs(quadratic).max(initial=0.0)) + float(np.abs(linear).max())

    def reduced(self, shift: FloatArray, theta: float) -> FloatArray:
        """The part linear in s and θ."""
        return self._moved(shift, theta)

    def whole(self, matrix: FloatArray) -> FloatArray:
        """The matrix itself."""
        return matrix

    def uniform_point(self) -> FloatArray:
        """Half the second moments of (1, x) where every x is 0 or 1 with the same probability."""
        return 0.5 * self._moments(0.5, 0.25)


@dataclass(frozen=True, eq=False)
class _Newton:
    """The Newton system of one iterate, for several right-hand sides."""

    cone: _Cone
    factor: FloatArray
    scale: FloatArray

    def solve(self, target: FloatArray) -> FloatArray:
        """(dθ, ds) for which the primal matrix target − sym(primal·dual step·inverse) is feasible."""
        whole = self.cone.whole(target)
        right = np.empty(self.scale.size)
        right[0] = 1.0 - 2.0 * whole[0, 0]
        right[1:] = whole.diagonal()[1:] - whole[0, 1:]
        step, _ = lapack.dpotrs(self.factor, right * self.scale, lower=1)
        return np.asarray(step * self.scale)


def _blocks(matrix: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Products of P with eᵢ and bᵢ = eᵢ − e₀: e'Pe, b'Pe, b'Pb, the row of e₀ and its corner."""
    row, corner = matrix[0, 1:], float(matrix[0, 0])
    inner = matrix[1:, 1:]
    mixed = inner - row[None, :]
    return inner, mixed, mixed - row[:, None] + corner, row, corner


def _reflect(matrix: FloatArray, mirror: FloatArray) -> FloatArray:
    """(I − 2vv') matrix (I − 2vv') for a symmetric matrix, O(p²)."""
    image = matrix @ mirror
    update = 2.0 * (image - float(mirror @ image) * mirror)
    return np.asarray(matrix - np.outer(mirror, update) - np.outer(update, mirror))


def _cholesky(matrix: FloatArray) -> FloatArray | None:
    if not np.isfinite(matrix).all():
        return None
    lower, info = lapack.dpotrf(matrix, lower=1, clean=0)
    return np.asarray(lower) if info == 0 else None


def _inverse(lower: FloatArray) -> FloatArray:
    half, _ = lapack.dpotri(lower, lower=1)
    half = np.tril(half)
    return np.asarray(half + np.tril(half, -1).T)


def _symmetric(matrix: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (matrix + matrix.T))


def _step_length(matrix: FloatArray, step: FloatArray) -> float:
    """A length in [0, 1] that keeps matrix + length·step positive definite; at least 0.9 of the largest."""
    if _cholesky(matrix + step) is not None:
        return 1.0
    above, length = 1.0, 0.6
    while _cholesky(matrix + length * step) is None:
        above, length = length, 0.6 * length
        if length < 1e-7:
            return 0.0
    for _ in range(3):
        middle = 0.5 * (length + above)
        if _cholesky(matrix + middle * step) is None:
            above = middle
        else:
            length = middle
    return length


def _damped(length: float) -> float:
    """Stays short of the boundary, unless the full step is inside."""
    return length if length == 1.0 else 0.95 * length
