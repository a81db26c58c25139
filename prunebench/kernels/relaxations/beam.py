"""Beam search over a quadratic program of binaries: masks that a triangular factor leads to, weight after weight.

With the quadratic made positive definite, f(x) = constant + ½‖R(x − x°)‖² for an upper triangular R, and the last rows
of R ask for the last variables alone: fixed one after another, each adds a square to the cost, and the sum so far is
what the rest costs at least. Of all partly fixed masks a level keeps the `width` cheapest. This is the decoder of
multi-antenna receivers (the M-algorithm: Anderson, Mohan: Sequential Coding Algorithms, IEEE Trans. Commun. 32, 1984),
in the order of Wübben et al. (Efficient algorithm for decoding layered space-time codes, Electron. Lett. 37, 2001): the
variable of the smallest pivot is eliminated first, hence decided last.

A diagonal shift changes no value at binaries (x² = x) but the cost of what is left open. The closer the shifted
quadratic is to singular, the more that cost says, up to where rounding takes over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core import lapack
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.stop import Stop, StopCheck, never
from prunebench.kernels.relaxations.programs import SelectProgram

RIDGES = (1e-3, 1e-4, 3e-3, 3e-4, 1e-2, 3e-5)
"""Ridges beside a shift, in means of the shifted diagonal: which is best differs by two orders from block to block."""
BEST_RIDGES = 3
"""Ridges with which beams are widened: those that found most."""
PANEL = 32
"""Variables that are eliminated, or decided, between two products of matrices: with fewer, calls take longest."""
PLANE = 10.0
"""Weight of the term that holds the count: times the quadratic's Frobenius norm over p, so that it dominates."""
SMALLEST = 1e-13
"""Least pivot, as a share of the largest: a smaller one is rounding."""


def sorted_factor(matrix: FloatArray, stop: StopCheck = never) -> tuple[FloatArray, IndexArray] | Stop | None:
    """R upper triangular (p, p) and an order (p,) with matrix[order][:, order] = R'R, small pivots first. O(p³)

    None where the matrix is not positive definite; why `stop`, which is asked once a panel, ended it.
    """
    p = matrix.shape[0]
    rest, pivots = np.array(matrix), matrix.diagonal().copy()
    least = SMALLEST * float(pivots.max(initial=0.0))
    rows, order = np.zeros((p, p)), np.empty(p, dtype=np.int64)
    open_pivots = pivots.copy()
    for begin in range(0, p, PANEL):
        end = min(begin + PANEL, p)
        if ended := stop(0.0):
            return ended
        for step in range(begin, end):
            chosen = int(open_pivots.argmin())
            pivot = float(open_pivots[chosen])
            if not pivot > least:
                return None
            column = rest[chosen] - rows[begin:step, chosen] @ rows[begin:step]
            column /= np.sqrt(pivot)
            column[order[:step]] = 0.0
            column[chosen] = np.sqrt(pivot)
            rows[step], order[step] = column, chosen
            open_pivots -= column * column
            open_pivots[chosen] = np.inf
        rest -= rows[begin:end].T @ rows[begin:end]
    return rows[:, order], order


@dataclass(frozen=True, eq=False)
class Found:
    """Complete assignments of a beam, the cheapest first.

    ones : bool (r, p);  costs : what each costs above the program's free optimum (r,)
    decided : how often a variable was given a value
    """

    ones: BoolArray
    costs: FloatArray
    decided: float


@dataclass(frozen=True, eq=False)
class Beam:
    """A program whose beams can be searched with one width after another.

    triangle : R (p, p), upper;  order (p,) : the variable of each of its columns
    centre : x° (p,), in that order;  count : Σx
    """

    triangle: FloatArray
    order: IndexArray
    centre: FloatArray
    count: int

    @staticmethod
    def of(
        quadratic: FloatArray, linear: FloatArray, shift: FloatArray, count: int, stop: StopCheck = never
    ) -> "Beam | Stop | None":
        """The beam of linear'x + ½ x'quadratic x over binaries with Σx = count. O(p³)

        quadratic : (p, p) symmetric;  linear, shift : (p,), the shift is added to the diagonal and taken off again
        -> None where that is not positive definite on the plane Σd = 0, up to rounding; why `stop` ended it
        """
        # a large curvature off the plane of the count: what is left open then keeps the count, too
        weight = PLANE * float(np.linalg.norm(quadratic)) / shift.size
        matrix = quadratic + weight
        matrix[np.diag_indices_from(matrix)] += shift
        factor = sorted_factor(matrix, stop)
        if factor is None or isinstance(factor, Stop):
            return factor
        triangle, order = factor
        right = (linear - 0.5 * shift - weight * count)[order]
        centre, _ = lapack.dpotrs(triangle, -right, lower=0)
        return Beam(triangle, order, np.asarray(centre), count)

    def search(self, width: int, stop: StopCheck = never) -> Found | Stop:
        """At most `width` assignments, O(width·p²); or why `stop`, which is asked at every level, ended it."""
        triangle, centre, count, decisions = self.triangle, self.centre, self.count, 0.0
        p = centre.size
        decided = np.zeros((1, p), dtype=np.bool_)
        # what the decided variables ask of the rows above them
        asked = np.zeros((1, p))
        cost, ones = np.zeros(1), np.zeros(1, dtype=np.int64)
        for end in range(p, 0, -PANEL):
            begin = max(end - PANEL, 0)
            above = np.arange(cost.size)
            near = asked[:, begin:end].copy()
            apart = np.empty((cost.size, end - begin))
            for place in range(end - 1, begin - 1, -1):
                if ended := stop(decisions):
                    return ended
                here = place - begin
                moves = np.array([0.0, 1.0]) - centre[place]
                squares = near[:, here, None] + triangle[place, place] * moves
                costs = (cost[:, None] + 0.5 * squares * squares).T.ravel()
                sums = (ones[:, None] + np.array([0, 1])).T.ravel()
                open_ = np.flatnonzero((sums <= count) & (count - sums <= place))
                if open_.size > width:
                    open_ = open_[np.argpartition(costs[open_], width - 1)[:width]]
                decisions += 2.0 * cost.size
                value, parent = np.divmod(open_, cost.size)
                cost, ones, above = costs[open_], sums[open_], above[parent]
                apart = apart[parent]
                apart[:, here] = moves[value]
                near = near[parent, :here] + np.multiply.outer(moves[value], triangle[begin:place, place])
            asked = asked[above, :begin] + apart @ triangle[:begin, begin:end].T
            decided = decided[above]
            decided[:, begin:end] = apart + centre[begin:end] > 0.5
        order = np.argsort(cost, kind="stable")
        out = np.empty_like(decided)
        out[:, self.order] = decided[order]
        return Found(out, cost[order], decisions)


class Beams:
    """Beams of a block's program over one shift: narrow ones with every ridge, wider ones with the best of them.

    program : the block's;  shift : (p,) in the program's units, as of `shift.plane_shift`, or zeros
    widths : of the beams, rising
    """

    def __init__(self, program: SelectProgram, shift: FloatArray, widths: Sequence[int]) -> None:
        self._program, self._shift = program, shift
        self._size = float(np.abs(program.quadratic.diagonal() + shift).mean())
        self._made: dict[float, Beam | None] = {}
        self._worth: dict[float, float] = {}
        self._plan = [(widths[0], ridge) for ridge in RIDGES] if widths else []
        self._wider = list(widths[1:])

    def following(self, stop: StopCheck = never) -> Found | Stop | None:
        """The next beam, whose ones are pruned weights; why it was stopped; or None where all are done."""
        while self._plan or self._wider:
            if not self._plan:
                width, best = self._wider.pop(0), sorted(self._worth, key=self._worth.__getitem__)
                self._plan = [(width, ridge) for ridge in best[:BEST_RIDGES]]
                continue
            width, ridge = self._plan.pop(0)
            beam = self._beam(ridge, stop)
            if isinstance(beam, Stop):
                return beam
            if beam is not None:
                found = beam.search(width, stop)
                if isinstance(found, Found):
                    self._worth[ridge] = min(self._value(found.ones[0]), self._worth.get(ridge, np.inf))
                return found
        return None

    def _beam(self, ridge: float, stop: StopCheck) -> Beam | Stop | None:
        """The beam with a ridge; None where that leaves the quadratic indefinite."""
        if ridge not in self._made:
            program, shift = self._program, self._shift + ridge * self._size
            made = Beam.of(program.quadratic, program.linear, shift, program.count, stop)
            if isinstance(made, Stop):
                return made
            self._made[ridge] = made
        return self._made[ridge]

    def _value(self, ones: BoolArray) -> float:
        chosen = np.flatnonzero(ones)
        within = self._program.quadratic[np.ix_(chosen, chosen)]
        return float(self._program.linear[chosen].sum() + 0.5 * within.sum())
