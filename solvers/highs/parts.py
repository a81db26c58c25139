"""Proving a select program by HiGHS in parts: does any mask have all its tangents below the incumbent?

A part fixes some variables. Its model has binaries only, with the count and one row for each of some
tangents of the convexified objective (Duran, Grossmann: An outer-approximation algorithm for a class
of mixed-integer nonlinear programs, Math. Programming 36, 1986), each to be below the incumbent's
value. Every better mask satisfies all rows, so if HiGHS finds no point, the part has no better mask,
whatever tangents were chosen. To need few of them, they are taken at the optima of relaxations in a
small tree, until that tree closes. A part whose tree does not close is split at the variable on which
the tree branched, and probing fixes what it can in both halves.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.masks import top_mask
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.relaxations.programs import HALF_ULP
from prunebench.kernels.trees.dives import RefitTree, SelectTree
from prunebench.kernels.trees.points import descend, repair, rounded
from prunebench.kernels.trees.select_node import FREE, Pattern
from prunebench.solvers.highs.formulations import refit_doubts, refitted
from prunebench.solvers.highs.model import FEASIBILITY, SAFETY, TOLERANCES, Model, Rows, stopped
from prunebench.solvers.highs.points import refit_points, relaxation_points
from prunebench.solvers.highs.probing import Reduced, probe
from prunebench.solvers.highs.proof import ROOT, End, Trail

NODES_OF_THE_WHOLE = 400
"""Most nodes in a tree whose tangents form one model of the whole block."""
NODES_OF_A_PART = 16
"""Most nodes in a tree whose tangents form a part's model: HiGHS' time grows faster than their number."""
PROMISE = 0.3
"""A variable is probed if its estimate promises this share of the rise in the bound that would fix it."""
NEGLIGIBLE = 1e-8
"""HiGHS drops coefficients below this, relative to 1; they are removed from the row first and accounted for."""
LOOSE = 1e-7
"""Tangents are too steep if the rows' tolerance costs more than this share of the objective."""
DUAL_FEASIBILITY = 1e-7
"""HiGHS' default dual feasibility tolerance."""
QUIET = (
    ("mip_heuristic_effort", 0.0),
    ("mip_heuristic_run_feasibility_jump", False),
    ("mip_heuristic_run_rins", False),
    ("mip_heuristic_run_rens", False),
    ("mip_heuristic_run_root_reduced_cost", False),
    ("mip_detect_symmetry", False),
    ("mip_allow_restart", False),
)
"""No heuristics, since normally there is no better mask to find."""


class Exclusion:
    """The masks m with `keep` weights whose tangents constant + slope'm are all at most `target`.

    The first tangent is minimised, which leads HiGHS to the best masks first. The target is below `cut` by
    the effect of rounding and tolerances, so that a mask that costs `cut` violates the row of its own tangent.
    With `above` it is above `cut` by that much, so that the proof reaches `cut` itself; masks between the two
    are then found and excluded one by one (`take_out`).

    Parameters
    ----------
    slopes (k, f), constants (k,) : tangents, below the objective at every such mask
    rounding : error bound of the tangents
    cut : the value that a better mask must stay below

    proven : a lower bound on every mask's cost once HiGHS finds no such mask
    """

    def __init__(
        self,
        slopes: FloatArray,
        constants: FloatArray,
        keep: int,
        rounding: float,
        cut: float,
        threads: int,
        above: bool = False,
    ) -> None:
        self.keep, self.p = keep, slopes.shape[1]
        rows, right, scales, dropped = self._rows(slopes, constants)
        # rows hold up to FEASIBILITY and are rounded; masks are integer, so the integrality tolerance costs nothing
        self.slack = 2.0 * rounding + float((scales * (SAFETY * FEASIBILITY + dropped)).max())
        self.slack += 16.0 * HALF_ULP * float((np.abs(constants) + keep * np.abs(slopes).max(axis=1)).max())
        self.target = cut + self.slack if above else cut - 2.0 * self.slack
        self.proven = self.target - self.slack
        self.model = Model(rows[0], np.zeros(self.p), np.ones(self.p), self.p, threads)
        self.model.set_options(QUIET)
        self._scale, self._offset = float(scales[0]), float(-right[0])
        held = Rows()
        held.add(range(self.p), np.ones(self.p), keep, keep)
        for k in range(right.size):
            held.add(range(self.p), rows[k], upper=(self.target + right[k]) / scales[k])
        self.model.add(held)

    def bound_of(self, dual: float) -> float:
        """The bound, implied by HiGHS' dual bound, on masks better than the target."""
        return float(self._offset + self._scale * (dual - self.p * DUAL_FEASIBILITY) - self.slack)

    def exclude(self, slope: FloatArray, constant: float) -> None:
        """Add a tangent, whose row excludes the mask where it is exact unless that is better than the target."""
        rows, right, scales, _ = self._rows(slope[None, :], np.array([constant]))
        cut = Rows()
        cut.add(range(self.p), rows[0], upper=(self.target + right[0]) / scales[0])
        self.model.add(cut)

    def take_out(self, mask: BoolArray) -> None:
        """Exclude one mask whatever its cost: not all of its kept weights may be kept."""
        cut = Rows()
        cut.add(np.flatnonzero(mask), np.ones(self.keep), upper=self.keep - 1.0)
        self.model.add(cut)

    def masks(self, points: list[FloatArray]) -> list[BoolArray]:
        """The masks of HiGHS' points, whose integers hold only up to a tolerance."""
        return [top_mask(point, self.keep) for point in points]

    def _rows(self, slopes: FloatArray, constants: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The tangents as scale·row'm − right, and the sum of entries dropped from each row."""
        # with the count fixed, multiples of 1'm are constant: centre the rows and scale the largest entry to 1
        middle = np.median(slopes, axis=1)
        centred = slopes - middle[:, None]
        scales = np.abs(centred).max(axis=1)
        scales[scales == 0.0] = 1.0
        rows = centred / scales[:, None]
        # drop entries near zero here, as HiGHS would, but such that no mask is lost
        small = np.where(np.abs(rows) < NEGLIGIBLE, rows, 0.0)
        right = -(constants + middle * self.keep) - scales * np.minimum(small, 0.0).sum(axis=1)
        return rows - small, right, scales, np.abs(small).sum(axis=1)


def select_tangents(
    matrix: FloatArray, linear: FloatArray, constant: float, points: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Slopes (k, f) and constants (k,) over m = 1 − x of constant + linear'x + ½x'Mx at points (k, f)."""
    images = points @ matrix
    gradients = images + linear
    return -gradients, constant - 0.5 * np.einsum("kp,kp->k", points, images) + gradients.sum(axis=1)


def refit_tangents(tree: RefitTree, accuracy: float, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes (k, p) and constants (k,) of −½y'Ky − ½ Σ ρᵢ² mᵢ, ρ = h − Ky, at weights y (k, p).

    Below the objective at any y, whatever the rounding of K and h: each constant is lowered by the effect at y
    of entries with relative error `accuracy`.
    """
    images = points @ tree.matrix
    rho = tree.linear - images
    constants = -0.5 * np.einsum("kp,kp->k", points, images)
    return -0.5 * rho**2, constants - refit_doubts(tree.sizes, tree.keep, accuracy, points, rho)


def prove_refit(
    tree: RefitTree, upper: float, threads: int, limit: int = NODES_OF_THE_WHOLE
) -> tuple[Exclusion, Callable[[BoolArray], tuple[FloatArray, FloatArray]]] | None:
    """The model of the masks of a whole refit program that cost at most about `upper`, and a function that gives the
    tangent at a mask. None if a tree of `limit` nodes stays open or its tangents are too steep."""
    cut = upper - tree.margin
    root = tree.root()
    points = np.empty((limit, tree.linear.size))
    held, closed = refit_points(tree.split_off(), root.pattern, root.sign, cut, points)
    if not closed:
        return None
    # a product with y and a square add rounding to the errors of the entries
    accuracy = tree.accuracy + HALF_ULP * (2 * tree.linear.size + 16)
    slopes, constants = refit_tangents(tree, accuracy, np.vstack([tree.split.point.y, points[:held]]))

    def at(mask: BoolArray) -> tuple[FloatArray, FloatArray]:
        return refit_tangents(tree, accuracy, refitted(tree.matrix, tree.linear, mask)[None, :])

    exclusion = Exclusion(slopes, constants, tree.keep, 0.0, upper, threads, above=True)
    return None if exclusion.slack > LOOSE * abs(cut) else (exclusion, at)


@dataclass(frozen=True, eq=False)
class Part:
    """Masks with some variables fixed. x (p,) : feasible;  bound : of the relaxation;  end : place in the proof."""

    x: FloatArray
    fixed: Pattern
    bound: float
    end: End = ROOT


@dataclass
class Front:
    """The open parts of a program, ordered by bound. Bounds are in the program's units, objectives in the block's.

    offer : takes a mask of the whole program, returns the incumbent's objective
    watch : called with the proved bound as it rises, in the block's units
    stop : called with the nodes so far, returns why to stop now, or None
    seconds : returns the time left
    trail : records the proof

    tolerance : how far below the incumbent a proof may end, in the block's units
    """

    whole: Reduced
    objective: float
    offer: Callable[[BoolArray], float]
    watch: Callable[[float], None]
    stop: StopCheck
    seconds: Callable[[], float]
    threads: int = 1
    trail: Trail = field(default_factory=Trail)
    nodes: int = 0
    splits: int = 0
    models: int = 0
    rounds: int = 0
    stopped: Stop | None = None
    tolerance: float = field(init=False)
    _proved: float = np.inf
    _heap: list[tuple[float, int, Part]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.program = self.whole.program
        self.tree = SelectTree(self.program, self.program.inner(self.objective), self._why, self.whole.shift)
        lost = self.tree.margin + self.tree.slack + 2.0 * self.program.rounding
        self.tolerance = self.whole.doubt + lost / self.program.scale

    @property
    def cut(self) -> float:
        """Parts with at least this bound contain nothing better than the incumbent."""
        return self.program.inner(self.objective) - self.tree.margin

    def run(self) -> None:
        """Close every part, or stop early and set `stopped`."""
        root, _, bound = self.tree.root_proof()
        end = self.trail.enter(self.tree)
        self._push(Part(root, np.full(root.size, FREE, np.int8), bound, end))
        limit = NODES_OF_THE_WHOLE
        while self._heap and not self.stopped:
            self._tell(np.inf)
            self.stopped = self.stop(self.nodes)
            if not self.stopped:
                self._take(heapq.heappop(self._heap)[2], limit)
                limit = NODES_OF_A_PART
        self._tell(np.inf)

    def _take(self, part: Part, limit: int) -> None:
        """Close a part by its bound or by HiGHS, or split it."""
        tree, x, fixed = self.tree, part.x, part.fixed
        cut = self.cut
        own, order = fixed_bound(tree, x, fixed, cut)
        bound, end = max(part.bound, own), self.trail.fix(part.end, order, fixed)
        free = np.flatnonzero(fixed == FREE)
        left = tree.count - int((fixed == 1).sum())
        if bound >= cut or left in (0, free.size):
            self._proved = min(self._proved, cut)
            self.trail.close(end)
            if bound < cut:
                # one mask is left that has not been excluded
                self._offer(np.where(fixed == FREE, left == 0, fixed == 0))
            return
        self._round(x, fixed)
        cut = self.cut
        points = np.empty((limit, x.size))
        held, closed, branch = relaxation_points(tree.convexified(), x, fixed, cut, points)
        part = Part(x, fixed, bound, end)
        if closed:
            self._prove(part, free, points[:held])
            return
        self.splits += 1
        for value, below in enumerate(self.trail.split(end, branch)):
            self._push(replace(with_fixed(tree, part, branch, value), end=below))

    def _round(self, x: FloatArray, fixed: Pattern) -> None:
        """Offer the mask found by descent from the relaxation's point."""
        chosen, gradient = np.empty(x.size), np.empty(x.size)
        rounded(x, fixed, self.tree.count, chosen)
        found = descend(self.program.quadratic, self.program.linear, chosen, gradient, x.size)
        if found < self.program.inner(self.objective):
            self._offer(chosen < 0.5)

    def _prove(self, part: Part, free: IndexArray, points: FloatArray) -> None:
        """Let HiGHS search for a better mask; the part stays open if it finds one or must stop."""
        tree, program = self.tree, self.program
        ones = part.fixed == 1
        inner = tree.matrix[:, ones].sum(axis=1)
        own = (
            tree.matrix[np.ix_(free, free)],
            (tree.linear + inner)[free],
            float((tree.linear + 0.5 * inner)[ones].sum()),
        )
        keep = free.size - (tree.count - int(ones.sum()))
        tangents = select_tangents(*own, np.vstack([part.x, points])[:, free])
        exclusion = Exclusion(*tangents, keep, tree.slack, self.cut, self.threads)
        self.models += 1
        self.tolerance = max(
            self.tolerance, self.whole.doubt + (tree.margin + 4.0 * exclusion.slack + program.rounding) / program.scale
        )
        seen: set[bytes] = set()
        before = self.objective

        def watch(dual: float) -> None:
            if np.isfinite(dual):
                self._tell(max(part.bound, min(exclusion.bound_of(dual), exclusion.proven)))

        while not self.stopped and self.objective == before:
            outcome = exclusion.model.solve(self.seconds(), None, self._why, watch)
            self.nodes += outcome.nodes
            self.rounds += 1
            if outcome.infeasible:
                self._proved = min(self._proved, exclusion.proven)
                self.trail.close(part.end, foreign=True)
                return
            fresh = [mask for mask in exclusion.masks(outcome.points) if mask.tobytes() not in seen]
            for mask in fresh:
                seen.add(mask.tobytes())
                lifted = part.fixed == 0
                lifted[free] = mask
                self._offer(lifted)
                slopes, constants = select_tangents(*own, 1.0 - mask[None, :].astype(np.float64))
                exclusion.exclude(slopes[0], constants[0])
            self.stopped = self.stop(self.nodes)
            if not self.stopped and not outcome.finished:
                self.stopped = stopped(outcome)
            if not self.stopped and not fresh:
                self.stopped = TOLERANCES
        self._push(part)

    def _offer(self, mask: BoolArray) -> None:
        self.objective = self.offer(self.whole.lift(mask))

    def _push(self, part: Part) -> None:
        self._count += 1
        heapq.heappush(self._heap, (part.bound, self._count, part))

    def _tell(self, current: float) -> None:
        """Report the proved bound, `current` being that of the present part."""
        lowest = min(current, self._proved, self._heap[0][0] if self._heap else np.inf)
        self.watch(min(self.program.outer(lowest), self.whole.cut))

    def _why(self, spent: float) -> Stop | None:
        return self.stop(self.nodes + spent)


def fixed_bound(tree: SelectTree, x: FloatArray, fixed: Pattern, cut: float) -> tuple[float, IndexArray]:
    """Fix variables by probing, in place; x becomes the relaxation's point. Returns its bound and the fixing order."""
    return probe(tree.convexified(), x, fixed, cut, PROMISE)


def with_fixed(tree: SelectTree, part: Part, i: int, value: int) -> Part:
    """The part with variable i fixed to `value`, and a feasible point of it."""
    x, fixed = part.x.copy(), part.fixed.copy()
    x[i] = fixed[i] = value
    to_count(tree.matrix, tree.linear, tree.count, x, fixed)
    return Part(x, fixed, part.bound)


def to_count(matrix: FloatArray, linear: FloatArray, count: int, x: FloatArray, fixed: Pattern) -> None:
    """Restore the count of x in place, using the cheapest free variables."""
    repair(x, fixed, linear + matrix @ x, count)


def warm_up() -> None:
    """Compile the kernels that `to_count` calls."""
    to_count(np.eye(2), np.zeros(2), 1, np.full(2, 0.5), np.full(2, FREE, np.int8))
