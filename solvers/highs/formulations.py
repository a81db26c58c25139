"""The block as mixed-integer linear programs for HiGHS; column j < p is 1 if weight j is kept.

The count is one row, a quota one row per group. All else that is derived from the total count (the plane,
the shift, the room below the incumbent) also holds with a quota, whose masks have that count too. Each
formulation has a model, lists rows that a solution violates, and bounds the error of its relaxation's
objective, as rows and integers hold only up to a tolerance.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.keeping import Quota
from prunebench.kernels.relaxations.programs import HALF_ULP, RefitProgram, SelectProgram
from prunebench.solvers.highs.model import Model, Rows


class Formulation(Protocol):
    """A model whose optimum plus `offset` is a lower bound on the program, exact once no row is violated."""

    model: Model
    offset: float
    curved: bool

    @property
    def slack(self) -> float:
        """How far HiGHS' dual bound may exceed the optimum."""
        ...

    def violated(self, point: FloatArray, every: bool = False) -> Rows:
        """Rows that cut off a point whose curved parts are too low; with `every`, all tangents at the point."""
        ...

    def point_of(self, mask: BoolArray) -> FloatArray:
        """All columns for a mask, for warm starts and for tangents that are exact there."""
        ...


class Pairs:
    """Select: a product column for every pair, with the count times each variable (RLT) as equalities.

    Fortet 1960, McCormick 1976; Adams, Sherali: A tight linearization and an algorithm for zero-one
    quadratic programming problems, Management Science 32 (1986), for the strengthening. `plain`
    omits the strengthening: the textbook model, kept for comparison.
    """

    curved = False

    def __init__(self, program: SelectProgram, threads: int, plain: bool = False, quota: Quota | None = None) -> None:
        p = program.linear.size
        keep = p - program.count
        # x = 1 − m: f = Σg + ½ΣQ − (g + Q1)'m + ½ m'Qm, and mᵢ² = mᵢ
        matrix = program.quadratic
        rise = matrix.sum(axis=1)
        self.first, self.second = np.triu_indices(p, 1)
        couplings = matrix[self.first, self.second]
        cost = np.concatenate([-(program.linear + rise) + 0.5 * matrix.diagonal(), couplings])
        self.offset = float(program.linear.sum() + 0.5 * rise.sum())
        self._lost, self._multipliers = summing(program), float(np.abs(cost).sum())
        count = couplings.size
        self.model = Model(cost, np.zeros(p + count), np.ones(p + count), p, threads)
        self.p = p
        rows = Rows()
        add_count(rows, p, keep, quota)
        for a in range(count):
            i, j, y = int(self.first[a]), int(self.second[a]), p + a
            if plain or couplings[a] > 0.0:
                rows.add((y, i, j), (1.0, -1.0, -1.0), lower=-1.0)
            if plain or couplings[a] < 0.0:
                rows.add((y, i), (1.0, -1.0), upper=0.0)
                rows.add((y, j), (1.0, -1.0), upper=0.0)
        if not plain:
            pair = np.zeros((p, p), dtype=np.int64)
            pair[self.first, self.second] = p + np.arange(count)
            pair += pair.T
            for i in range(p):
                for members, count in _groups(p, keep, quota):
                    others = [int(pair[i, j]) for j in members if j != i]
                    own = count - 1.0 if len(others) < len(members) else float(count)
                    rows.add([*others, i], [*np.ones(len(others)), -own], 0.0, 0.0)
        self.model.add(rows)

    @property
    def slack(self) -> float:
        """Covers the rounding of the arrays and HiGHS' tolerances."""
        return self._lost + self.model.slack(self._multipliers)

    def violated(self, point: FloatArray, every: bool = False) -> Rows:
        """None: the model is exact at every binary point."""
        return Rows()

    def point_of(self, mask: BoolArray) -> FloatArray:
        """The mask and its products."""
        m = mask.astype(np.float64)
        return np.concatenate([m, m[self.first] * m[self.second]])


class Residuals:
    """Select: columns r = √λ v'x for the eigenvectors of the shifted curvature, and s >= tangents of r².

    Without a shift r is the residual A diag(w̄) x of the pruned weights. The diagonal `shift` (QCR) raises
    the relaxation's bound, and the rank.
    """

    curved = True

    def __init__(
        self, program: SelectProgram, shift: FloatArray, upper: float, threads: int, quota: Quota | None = None
    ) -> None:
        p = program.linear.size
        matrix = np.array(program.quadratic)
        matrix[np.diag_indices(p)] += shift
        # on the count's plane any multiple of 11' is constant; adding one makes the matrix definite everywhere
        centre = np.eye(p) - 1.0 / p
        image = matrix @ np.full(p, program.count / p)
        flat = centre @ matrix @ centre
        values, vectors = np.linalg.eigh(0.5 * (flat + flat.T))
        held = values > 1e-9 * max(float(values[-1]), 1e-300)
        self.rays = (vectors[:, held] * np.sqrt(values[held])).T
        # points leave the count's plane by at most √p, and the eigenvectors reproduce the matrix up to rounding
        lost = (float(np.abs(values[~held]).sum()) + 8.0 * p * HALF_ULP * float(np.linalg.norm(matrix))) * p
        lost += summing(program) + 8.0 * p * HALF_ULP * float(np.abs(shift).sum())
        rank = int(held.sum())
        base = np.full(p, program.count / p)
        linear = program.linear - 0.5 * shift + centre @ image
        self.offset = float(linear.sum()) + 0.5 * float(base @ image) - float(base @ (centre @ image))
        self._lost, self.p, self.rank = lost, p, rank
        # nothing better than the incumbent has a larger residual, as the linear part is at least its smallest terms
        least = float(np.sort(linear)[: program.count].sum()) + self.offset - float(linear.sum())
        largest = float(np.sqrt(max(2.0 * (upper - least), 0.0))) * 1.001 + 1e-3
        reach = np.minimum(np.abs(self.rays).sum(axis=1), largest)
        cost = np.concatenate([-linear, np.zeros(rank), np.full(rank, 0.5)])
        low = np.concatenate([np.zeros(p), -reach, np.zeros(rank)])
        high = np.concatenate([np.ones(p), reach, reach**2])
        # ‖r‖ <= largest, so no slope in x exceeds |linear| + largest·‖ray‖
        slopes = np.abs(linear) + largest * np.sqrt((self.rays**2).sum(axis=0))
        self._multipliers = rank + float(np.sqrt(rank) * largest + slopes.sum())
        self.model = Model(cost, low, high, p, threads)
        rows = Rows()
        add_count(rows, p, p - program.count, quota)
        for k in range(rank):
            # r = rays (1 − m), taken from the centred point: rays @ 1 = 0
            rows.add([*range(p), p + k], [*self.rays[k], 1.0], 0.0, 0.0)
        self.model.add(rows)

    @property
    def slack(self) -> float:
        """Covers the rounding of the arrays and HiGHS' tolerances."""
        return self._lost + self.model.slack(self._multipliers)

    def violated(self, point: FloatArray, every: bool = False) -> Rows:
        """Tangents of r² where s is below the square."""
        r, s = point[self.p : self.p + self.rank], point[self.p + self.rank :]
        rows = Rows()
        for k in np.flatnonzero(every | (s < r * r - 1e-7 * (1.0 + r * r))):
            rows.add((self.p + self.rank + k, self.p + k), (1.0, -2.0 * r[k]), lower=-float(r[k] ** 2))
        return rows

    def point_of(self, mask: BoolArray) -> FloatArray:
        """The mask, its residuals and their squares."""
        m = mask.astype(np.float64)
        r = -self.rays @ m
        return np.concatenate([m, r, r * r])


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A refit program with split scaled to 1, and an ellipsoid with the weights of all masks not worse than the best.

    matrix : K (p, p), linear : h (p,);  f = ½y'(K + 1)y − h'y
    sizes : (2, p), entries have errors up to `accuracy` times their size
    free : (p,), the computed unconstrained minimiser;  lowest : its value
    room : bound on the best mask's value minus the true minimum;  limit : (p,), bound on |y| for such masks
    doubt : bound on the change of f by the errors of K and h within the limits

    With K proved positive semidefinite, the true minimum is within ‖residual‖ of `free`, and half the squared
    distance from it is at most the increase of f.
    """

    matrix: FloatArray
    linear: FloatArray
    sizes: FloatArray
    accuracy: float
    free: FloatArray
    lowest: float
    room: float
    limit: FloatArray
    doubt: float

    @staticmethod
    def of(program: RefitProgram, delta: FloatArray, upper: float) -> "Ellipsoid":
        """delta : a split that is proved (`certified_split`);  upper : the incumbent's value."""
        p = delta.size
        root = 1.0 / np.sqrt(delta)
        matrix = np.array(program.hessian)
        matrix[np.diag_indices(p)] -= delta
        matrix = matrix * root[:, None] * root
        linear = program.slope * root
        sizes = np.stack((program.reach * root, program.height * root))
        accuracy = program.relative + HALF_ULP * (4 * p + 32)
        whole = matrix + np.eye(p)
        free = np.asarray(np.linalg.solve(whole, linear), dtype=np.float64)
        inverse = np.linalg.inv(whole)
        along = float(sizes[0] @ np.abs(free))
        residual = np.abs(whole @ free - linear) + accuracy * (sizes[0] * along + sizes[1] + np.abs(free))
        off = float(np.linalg.norm(residual))
        lowest = 0.5 * float(free @ (whole @ free)) - float(linear @ free)
        below = off**2 + accuracy * (along**2 + float(free @ free) + float(sizes[1] @ np.abs(free)))
        room = max(upper - lowest, 0.0) * 1.001 + 1e-6 + 1e-12 * abs(lowest) + 2.0 * (below + program.rounding)
        # `free` is not exactly the minimiser, so f can first fall a little from there
        room += 2.0 * off * np.sqrt(2.0 * room)
        # the inverse's diagonal is at most 1, and at most the computed one plus its proved error
        gap = np.abs(np.eye(p) - whole @ inverse)
        gap += accuracy * (sizes[0][:, None] * (sizes[0] @ np.abs(inverse)) + np.abs(inverse))
        spread = np.minimum(1.0, np.maximum(inverse.diagonal(), 0.0) + float(np.linalg.norm(gap)))
        limit = np.abs(free) + off + np.sqrt(2.0 * room * spread) + 1e-6
        reach = float(sizes[0] @ limit)
        doubt = accuracy * (reach**2 + float(limit @ limit) + float(sizes[1] @ limit))
        return Ellipsoid(matrix, linear, sizes, accuracy, free, lowest, room, limit, doubt)


class Perspective:
    """Refit: weights, tangents of w²/m for the split's share Δ, and of r² for the rest, |w| <= limit·m.

    The residuals r are taken from the unconstrained optimum, where the objective is small. Scaled by the
    incumbent's distance from there, HiGHS' absolute tolerances are meaningful.

    Günlük, Linderoth: Perspective reformulations of mixed integer nonlinear programs with indicator
    variables, Math. Programming 124 (2010), eq. (6).
    """

    curved = True

    def __init__(
        self, program: RefitProgram, split: FloatArray, upper: float, threads: int, quota: Quota | None = None
    ) -> None:
        p = split.size
        held_in = Ellipsoid.of(program, split, upper)
        matrix, lowest, room = held_in.matrix, held_in.lowest, held_in.room
        self.linear, self.free, self.limit = held_in.linear, held_in.free, held_in.limit
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        held = values > 1e-9 * max(float(values[-1]), 1e-300)
        self.rays = (vectors[:, held] * np.sqrt(values[held])).T
        self.matrix, self.p, self.rank = matrix, p, int(held.sum())
        # f = lowest + slope at `free`, which is nearly zero, + ½‖y − free‖² + ½ (y − free)'K(y − free)
        self.offset = 0.5 * float(self.free @ self.free) + lowest
        slope = np.abs(matrix @ self.free + self.free - self.linear)
        reach = np.full(self.rank, np.sqrt(2.0 * room) + 1e-3)
        cost = np.concatenate([np.zeros(p), -self.free, np.full(p, 0.5), np.zeros(self.rank), np.full(self.rank, 0.5)])
        low = np.concatenate([np.zeros(p), -self.limit, np.zeros(p), -reach, np.zeros(self.rank)])
        high = np.concatenate([np.ones(p), self.limit, self.limit**2, reach, reach**2])
        slopes = np.abs(self.free) + self.limit + np.sqrt(2.0 * room) * np.sqrt((self.rays**2).sum(axis=0))
        self._multipliers = p + self.rank + float(np.sqrt(2.0 * room * self.rank))
        self._multipliers += float(slopes.sum() + slopes @ self.limit)
        # half the squared distance from the minimum is at most the room; from `free`, at most four times that
        lost = float(np.abs(values[~held]).sum()) + 8.0 * p * HALF_ULP * float(np.linalg.norm(matrix))
        self._lost = 4.0 * lost * room + held_in.doubt + float(slope @ (self.limit + np.abs(self.free)))
        self.model = Model(cost, low, high, p, threads)
        rows = Rows()
        add_count(rows, p, program.keep, quota)
        for i in range(p):
            rows.add((p + i, i), (1.0, -self.limit[i]), upper=0.0)
            rows.add((p + i, i), (1.0, self.limit[i]), lower=0.0)
        for k in range(self.rank):
            at = -float(self.rays[k] @ self.free)
            rows.add([*range(p, 2 * p), 3 * p + k], [*(-self.rays[k]), 1.0], at, at)
        self.model.add(rows)

    @property
    def slack(self) -> float:
        """Covers the rounding of the arrays and HiGHS' tolerances."""
        return self._lost + self.model.slack(self._multipliers)

    def violated(self, point: FloatArray, every: bool = False) -> Rows:
        """Tangents of w²/m and r² where their columns are too low."""
        p = self.p
        m, y, t = point[:p], point[p : 2 * p], point[2 * p : 3 * p]
        r, s = point[3 * p : 3 * p + self.rank], point[3 * p + self.rank :]
        rows = Rows()
        held = m > 1e-6
        slope = np.divide(y, m, out=np.zeros(p), where=held)
        for i in np.flatnonzero((every & held) | (t < slope * y - 1e-7 * (1.0 + slope * y))):
            rows.add((2 * p + i, p + i, i), (1.0, -2.0 * slope[i], slope[i] ** 2), lower=0.0)
        for k in np.flatnonzero(every | (s < r * r - 1e-7 * (1.0 + r * r))):
            rows.add((3 * p + self.rank + k, 3 * p + k), (1.0, -2.0 * r[k]), lower=-float(r[k] ** 2))
        return rows

    def point_of(self, mask: BoolArray) -> FloatArray:
        """The mask with its refitted weights."""
        y = refitted(self.matrix, self.linear, mask)
        r = self.rays @ (y - self.free)
        return np.concatenate([mask.astype(np.float64), y, y * y, r, r * r])


class MaskCuts:
    """Refit: a column η above cuts in the mask alone, η >= −½v'Kv − Σ ½ρᵢ² mᵢ with v the weights of a mask.

    Bertsimas, Van Parys: Sparse high-dimensional regression: exact scalable algorithms and phase
    transitions, Annals of Statistics 48 (2020), §3, with the diagonal split in place of the ridge.
    """

    curved = True

    def __init__(self, program: RefitProgram, split: FloatArray, threads: int, quota: Quota | None = None) -> None:
        p = split.size
        root = 1.0 / np.sqrt(split)
        matrix = np.array(program.hessian)
        matrix[np.diag_indices(p)] -= split
        self.matrix = matrix * root[:, None] * root
        self.linear = program.slope * root
        self._sizes = np.stack((program.reach * root, program.height * root))
        self._keep, self._accuracy = program.keep, program.relative + HALF_ULP * (4 * p + 32)
        free = np.asarray(np.linalg.solve(self.matrix + np.eye(p), self.linear), dtype=np.float64)
        # below every value, whatever the rounding of `free`: −½‖h − Ky‖² − ½y'Ky at any y
        rho = self.linear - self.matrix @ free
        lowest = -0.5 * float(free @ (self.linear - rho)) - 0.5 * float(rho @ rho)
        lowest -= float(refit_doubts(self._sizes, p, self._accuracy, free[None, :], rho[None, :])[0]) + 1e-9
        self.p, self.offset = p, 0.0
        self._multipliers = 1.0 + abs(lowest)
        cost = np.append(np.zeros(p), 1.0)
        low, high = np.append(np.zeros(p), 1.01 * lowest), np.append(np.ones(p), 1.0)
        self.model = Model(cost, low, high, p, threads)
        rows = Rows()
        add_count(rows, p, program.keep, quota)
        self.model.add(rows)

    @property
    def slack(self) -> float:
        """Covers HiGHS' tolerances; the cuts themselves cover the rounding of the arrays."""
        return self.model.slack(self._multipliers)

    def violated(self, point: FloatArray, every: bool = False) -> Rows:
        """The cut for the optimal weights at the point's m, fractional or not."""
        m = np.clip(point[: self.p], 0.0, 1.0)
        held = m > 1e-6
        y = np.zeros(self.p)
        system = self.matrix[np.ix_(held, held)] + np.diag(1.0 / m[held])
        y[held] = np.linalg.solve(system, self.linear[held])
        rho = self.linear - self.matrix @ y
        self._multipliers = max(self._multipliers, float(rho @ rho))
        constant = -0.5 * float(y @ (self.linear - rho))
        constant -= float(refit_doubts(self._sizes, self._keep, self._accuracy, y[None, :], rho[None, :])[0])
        rows = Rows()
        if every or point[self.p] < constant - 0.5 * float(rho**2 @ m) - 1e-7 * (1.0 + abs(constant)):
            rows.add([*range(self.p), self.p], [*(0.5 * rho**2), 1.0], lower=constant)
        return rows

    def point_of(self, mask: BoolArray) -> FloatArray:
        """The mask and its value."""
        y = refitted(self.matrix, self.linear, mask)
        return np.append(mask.astype(np.float64), -0.5 * float(self.linear @ y))


def refit_doubts(sizes: FloatArray, keep: int, accuracy: float, points: FloatArray, rho: FloatArray) -> FloatArray:
    """Error bound of −½y'Ky − ½ Σ ρᵢ² mᵢ at weights y, for any mask of `keep` ones. (k, p), (k, p) -> (k,)

    sizes (2, p) : errors are at most accuracy·sizes₀ᵢ·sizes₀ⱼ for K_ij and accuracy·sizes₁ᵢ for hᵢ
    """
    along = np.abs(points) @ sizes[0]
    moved = accuracy * (sizes[0] * along[:, None] + sizes[1])
    gains = np.abs(rho) * moved + 0.5 * moved**2
    kept = np.sort(gains, axis=1)[:, gains.shape[1] - keep :].sum(axis=1)
    return np.asarray(1.01 * (accuracy * along**2 + kept))


def summing(program: SelectProgram) -> float:
    """Bound on the rounding of summing a select program's terms, for any mask."""
    size = float(np.abs(program.quadratic).sum() + np.abs(program.linear).sum())
    return 8.0 * HALF_ULP * (program.linear.size + 8) * size


def add_count(rows: Rows, p: int, keep: int, quota: Quota | None) -> None:
    """Add Σm = keep, or every group's count."""
    for members, count in _groups(p, keep, quota):
        rows.add(members, np.ones(len(members)), count, count)


def _groups(p: int, keep: int, quota: Quota | None) -> list[tuple[list[int], int]]:
    if quota is None:
        return [(list(range(p)), keep)]
    return [(quota.members(g).tolist(), int(count)) for g, count in enumerate(quota.counts)]


def refitted(matrix: FloatArray, linear: FloatArray, mask: BoolArray) -> FloatArray:
    """argmin ½ y'(matrix + 1)y − linear'y subject to y = 0 off the mask."""
    kept = np.flatnonzero(mask)
    y = np.zeros(linear.size)
    y[kept] = np.linalg.solve(matrix[np.ix_(kept, kept)] + np.eye(kept.size), linear[kept])
    return y
