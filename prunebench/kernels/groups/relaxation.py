"""The relaxation of a group block: a quadratic function of masks below f, chosen so that its own bound is large.

With x = 1 for dropped groups, P = A⁻¹ and W = P·E of everything not dropped so far,

    f(x) = f(0) + max over u of  Σ x_g tr(u_gᵀ W_g) − ½ Σ x_g x_h tr(u_gᵀ P_gh u_h),

hence every u gives a quadratic function E of x below f, whose minimum over x is bounded by the semidefinite programme
of `kernels.relaxations.shift`. The best u is found by its dual: over second moments M of x (M = xxᵀ of a distribution)

    maximise over u of the bound = minimise over M of  φ(M) = f(0) + ½ tr((x∘W)ᵀ (M∘P)⁻¹ (x∘W)),   x = diag M,

which is convex in M; M∘P multiplies each block of a pair of groups by their moment. It is minimised by Frank–Wolfe
steps over the moments that the programme allows (Jaggi: Revisiting Frank–Wolfe, ICML 2013), each of which gives a
bound, with the weights of all moments so far corrected in between. φ is never below the bound, so once φ is below the
value to be proved, this relaxation cannot prove it.

Outputs share one x, and u has a value for every input and output: a diagonal (or block) split of A into a separable and
a convex part, as for single weights, gives one bound for each output and adds them, which is far weaker.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.group_form import GroupForm
from prunebench.core.group_proof import GroupRelaxation
from prunebench.core.group_state import GroupState
from prunebench.kernels.relaxations.shift import plane_shift

TARGET = 1000.0
"""Size of the objective that the interior-point method is given, in its own units."""
RAISED = 1e-7
"""Share by which the diagonal of M∘P is raised, as moments of few masks are singular."""
LEAST_WEIGHT = 1e-9
"""Least weight of a moment in the mixture, so that none is lost for good."""
CORRECTIONS = 3
"""Corrections of the weights between two steps."""
TRIALS = 8
"""Most step lengths tried in one correction."""
POINT_STEPS = 60
"""Most steps to the point at which the tangent is taken: some milliseconds for 64 groups."""
POINT_ACCURACY = 1e-4
"""The tangent may lie below the minimum by this share of it."""
ATOMS = 24
"""Most moments in the mixture; those of least weight are merged beyond."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """E of one u: value φ of the mixture, linear a (m,), pairs K (m, m), both without f(0)."""

    value: float
    linear: FloatArray
    pairs: FloatArray


@dataclass(frozen=True, eq=False)
class Reduced:
    """The problem that fixed groups leave: which `count` of the m free groups leave too.

    free : int64 (m,);  base : f with all free groups kept
    inverse : P of their inputs (s, s);  weights : W (s, r);  own : int64 (s,), the free group of each input
    """

    free: IndexArray
    count: int
    base: float
    inverse: FloatArray
    weights: FloatArray
    own: IndexArray

    @staticmethod
    def of(form: GroupForm, keep: int, kept: BoolArray, dropped: BoolArray) -> "Reduced":
        """What is left once `kept` stay and `dropped` are gone. bool (C,), bool (C,). O(p³)"""
        state = GroupState(form, ~dropped)
        free = ~kept & ~dropped
        rows = form.parts.rows_of(free)
        own = np.repeat(np.arange(int(free.sum())), form.sizes[free])
        inverse = -state.table[np.ix_(rows, rows)]
        count = int((~dropped).sum()) - keep
        return Reduced(np.flatnonzero(free), count, state.value, inverse, state.right[rows], own)

    def quadratic(self, moments: FloatArray) -> Quadratic | None:
        """E of the u that moments (m, m) make the best; None if M∘P is not positive definite."""
        system = moments[np.ix_(self.own, self.own)]
        system *= self.inverse
        system[np.diag_indices_from(system)] *= 1.0 + RAISED
        right = moments.diagonal()[self.own][:, None] * self.weights
        factor, info = lapack.dpotrf(system, lower=1, clean=0)
        if info != 0:
            return None
        dual, _ = lapack.dpotrs(factor, right, lower=1)
        begins = np.flatnonzero(np.diff(self.own, prepend=-1))
        linear = np.add.reduceat(np.einsum("ij,ij->i", dual, self.weights), begins)
        products = dual @ dual.T
        products *= self.inverse
        pairs = np.add.reduceat(np.add.reduceat(products, begins, axis=0), begins, axis=1)
        return Quadratic(0.5 * float(np.einsum("ij,ij->", dual, right)), linear, 0.5 * (pairs + pairs.T))


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A node's relaxation.

    bound : float, not yet certified;  ceiling : φ, above which this relaxation cannot prove anything
    record : what the bound is certified from;  share : float64 (m,), how much of each free group leaves
    moments : float64 (m, m);  weights : float64 (m,), what dropping a group changes E by, for branching
    """

    bound: float
    ceiling: float
    record: GroupRelaxation
    moments: FloatArray
    share: FloatArray
    weights: FloatArray


def relax(
    reduced: Reduced, known: list[FloatArray], cutoff: float, steps: int, thorough: bool = False
) -> Relaxed | None:
    """The best bound of up to `steps` steps; fewer once it reaches `cutoff` or cannot. None if nothing is found.

    known : second moments (m, m) to begin with, such as those of the node above and of good masks
    thorough : take all steps for the sake of the bound, even where it cannot reach `cutoff`
    """
    if not reduced.weights.any():
        return _constant(reduced)
    mixture = _Mixture(reduced, [_uniform(reduced), *known])
    best: Relaxed | None = None
    for _ in range(steps):
        if mixture.now is None:
            return best
        # rounded first, so that the bound is that of the numbers which the proof will hold
        moments = mixture.moments().astype(np.float32).astype(np.float64)
        found = reduced.quadratic(moments) or mixture.now
        made, atom = _bounded(reduced, found, moments, cutoff)
        if best is None or made.bound > best.bound:
            best = made
        if best.bound >= cutoff or (made.ceiling < cutoff and not thorough):
            return best
        mixture.add(atom)
        for _ in range(CORRECTIONS):
            if not mixture.correct():
                break
    return best


def _bounded(reduced: Reduced, found: Quadratic, moments: FloatArray, cutoff: float) -> tuple[Relaxed, FloatArray]:
    """The bound of E with its certificate, and the moments at which the programme attains it."""
    scale = TARGET / max(abs(found.value), abs(cutoff - reduced.base), 1e-300)
    upper = max(found.value, cutoff - reduced.base) * scale
    made = plane_shift(-found.pairs * scale, found.linear * scale, reduced.count, upper * (1.0 + 1e-9) + 1e-9)
    shift = made.diagonal / scale
    matrix, linear = -found.pairs, found.linear - 0.5 * shift
    matrix[np.diag_indices_from(matrix)] += shift
    share, lowest = _lowest_point(matrix, linear, reduced.count, np.clip(made.point, 0.0, 1.0))
    record = GroupRelaxation(moments.astype(np.float32), shift, share)
    slopes = np.abs(found.pairs.diagonal())
    bound = reduced.base + lowest
    return Relaxed(bound, reduced.base + found.value, record, moments, moments.diagonal().copy(), slopes), made.moments


def _lowest_point(matrix: FloatArray, linear: FloatArray, count: int, point: FloatArray) -> tuple[FloatArray, float]:
    """Where linear'x + ½x'·matrix·x has its highest tangent, near its minimum over 0 <= x <= 1, Σx = count.

    Projected gradient steps with momentum (Beck, Teboulle: A fast iterative shrinkage-thresholding algorithm, SIAM J.
    Imaging Sci. 2, 2009). Returns the point and the tangent's minimum over masks, a lower bound where the matrix is
    positive semidefinite on Σd = 0.
    """
    length = 1.0 / max(float(np.abs(matrix).sum(axis=1).max()), 1e-300)
    ahead, momentum = point, 1.0
    best, highest = point, -np.inf
    for _ in range(POINT_STEPS):
        curved = matrix @ point
        slope = linear + curved
        value = float(linear @ point) + 0.5 * float(point @ curved)
        tangent = value - float(slope @ point) + float(np.sort(slope)[:count].sum())
        if tangent > highest:
            best, highest = point, tangent
        if value - highest <= POINT_ACCURACY * abs(value):
            break
        moved = _onto_slice(ahead - length * (linear + matrix @ ahead), count)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum * momentum))
        ahead = moved + (momentum - 1.0) / following * (moved - point)
        point, momentum = moved, following
    return best, highest


def _onto_slice(point: FloatArray, count: int) -> FloatArray:
    """The nearest point with 0 <= x <= 1 and Σx = count: all entries moved by one number and cut off. (m,)"""
    low, high = float(point.min()) - 1.0, float(point.max())
    for _ in range(40):
        middle = 0.5 * (low + high)
        if np.clip(point - middle, 0.0, 1.0).sum() > count:
            low = middle
        else:
            high = middle
    return np.clip(point - high, 0.0, 1.0)


def _constant(reduced: Reduced) -> Relaxed:
    """The relaxation where no free group has any weight, so that all masks have one value."""
    moments = _uniform(reduced)
    share = moments.diagonal().copy()
    record = GroupRelaxation(moments.astype(np.float32), np.zeros(share.size), share)
    return Relaxed(reduced.base, reduced.base, record, moments, share, np.ones(share.size))


class _Mixture:
    """Second moments as a mixture of some, with weights that are corrected towards the least φ."""

    def __init__(self, reduced: Reduced, atoms: list[FloatArray]) -> None:
        self.reduced = reduced
        self.atoms = atoms
        self.weights = np.full(len(atoms), 1.0 / len(atoms))
        self.now = reduced.quadratic(self.moments())
        self._length = 0.0

    def moments(self) -> FloatArray:
        """The mixture's moments. (m, m)"""
        return np.asarray(np.tensordot(self.weights, np.array(self.atoms), 1))

    def add(self, atom: FloatArray) -> None:
        """Take further moments in, by the best of a few weights."""
        if len(self.atoms) >= ATOMS:
            self._merge()
        before, now = self.weights, self.now
        self.atoms.append(atom)
        for weight in (0.5, 0.2, 0.07, 0.02):
            self.weights = np.append(before * (1.0 - weight), weight)
            found = self.reduced.quadratic(self.moments())
            if found is not None and now is not None and found.value < now.value:
                self.now = found
                return
        self.weights = np.append(before * (1.0 - 1e-3), 1e-3)
        self.now = self.reduced.quadratic(self.moments())

    def correct(self) -> bool:
        """One exponentiated-gradient step of the weights; whether it lowered φ."""
        now = self.now
        if now is None:
            return False
        atoms = np.array(self.atoms)
        slopes = np.einsum("tii,i->t", atoms, now.linear) - 0.5 * np.einsum("tij,ij->t", atoms, now.pairs)
        slopes -= slopes.min()
        if not slopes.any():
            return False
        length = self._length or 2.0 / float(slopes.std())
        held = self.weights
        for _ in range(TRIALS):
            trial = held * np.exp(-np.minimum(length * slopes, 300.0))
            trial = np.maximum(trial / trial.sum(), LEAST_WEIGHT)
            self.weights = trial / trial.sum()
            found = self.reduced.quadratic(self.moments())
            if found is not None and found.value < now.value:
                self.now, self._length = found, 1.6 * length
                return True
            length *= 0.3
        self.weights, self._length = held, length
        return False

    def _merge(self) -> None:
        """The lighter half of the moments becomes one."""
        order = np.argsort(self.weights)
        light, heavy = order[: len(order) // 2], order[len(order) // 2 :]
        total = float(self.weights[light].sum())
        merged = np.tensordot(self.weights[light] / total, np.array(self.atoms)[light], 1)
        self.atoms = [*(self.atoms[at] for at in heavy), merged]
        self.weights = np.append(self.weights[heavy], total)


def _uniform(reduced: Reduced) -> FloatArray:
    """The moments of all sets of the right count, equally likely. (m, m)"""
    size, count = reduced.free.size, reduced.count
    share = count / size
    moments = np.full((size, size), share * (count - 1) / max(size - 1, 1))
    moments[np.diag_indices(size)] = share
    return moments
