"""Beam search: weights are decided one after another, and of all partly decided masks the most promising go on.

The block's convex relaxation says what is left open costs at least (`prunebench.kernels.relaxations.beam`, with the
papers); its diagonal shift comes from the semidefinite relaxation where that is affordable (Billionnet, Elloumi,
Plateau: Improving the performance of standard solvers for quadratic 0-1 programs by a tight convex reformulation: the
QCR method, Discrete Appl. Math. 157, 2009).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.kernels.relaxations.beam import Beams
from prunebench.kernels.relaxations.programs import SelectProgram
from prunebench.kernels.relaxations.shift import plane_shift

MAX_SIZE = 4096
"""Most weights: the program is then 134 MB, its factor as much."""
FIRST_WIDTH = 64
"""Width of the first beams; each round's is this many times the last one's."""
WIDENING = 8
"""Factor from one width to the next."""
RELAXED_SIZE = 1024
"""Most weights for which the semidefinite relaxation is solved: some 8 CPU seconds there, and O(p³)."""
RELAXED_SHARE = 0.5
"""Share of a time limit after which the relaxation must have ended; it is cut there, which leaves a weaker shift."""
ACCURACY = 0.1
"""Of the relaxation, as a share of its gap to the best mask: beams are as good with .1 as with .001."""
DESCENTS = 4
"""Best masks of a beam from which swap descents begin."""
ALTERNATIVES = 16
"""Most other masks in a solution."""


@register
@dataclass(frozen=True, kw_only=True)
class BeamSearch(Solver):
    """Beams of growing width over the convex relaxation, with several ridges, and swap descents from their best masks.

    The first beams take milliseconds at p = 128 and often hold the optimum there, as the order in which weights are
    decided leaves the small pivots, which tune the objective, to the end; all take less than a second. Proves no bound;
    deterministic; ends by itself. A beam costs O(width·p²) and memory of width·p numbers, its factor O(p³), the
    relaxation, up to p = 1024, O(p³) an iteration.
    """

    name = "beam"
    modes = frozenset({"select"})
    max_size = MAX_SIZE
    reference = "Anderson, Mohan: Sequential Coding Algorithms, IEEE Trans. Commun. 32, 1984"

    width: int = 4096
    """Partly decided masks that the last beams keep."""

    def refuses(self, block: BlockProblem) -> str:
        """A width below one, or more weights than a matrix is formed for."""
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'anneal' or 'swap'"
        return "" if self.width >= 1 else f"width is {self.width}; choose at least 1"

    def warm_up(self, block: BlockProblem) -> None:
        """Load or compile the descent."""
        from prunebench.kernels.local_search import polish

        polish.warm(False)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best mask of all beams, or the incumbent if that is better."""
        search = _Search(self, best)
        try:
            return search.go()
        finally:
            search.tell()


class _Search:
    """One solve: the program, the masks found, counters."""

    def __init__(self, options: BeamSearch, best: Incumbent) -> None:
        from prunebench.kernels.local_search.descent import SwapDescent

        self._options, self._best = options, best
        with best.building():
            self._program = SelectProgram.of(best.block, best.objective)
            self._descent = SwapDescent(best.block)
        self._held: dict[bytes, tuple[float, BoolArray]] = {}
        self._decided = 0.0
        """Variables decided in all partly decided masks: what this solver counts as evaluations."""

    def go(self) -> Stop:
        """Narrow beams over no relaxation, the relaxation, and beams over it."""
        p, widths = self._best.block.p, self._widths()
        # where a limit ends the first factor, the start is improved at least
        self._descend(self._best.mask[None])
        plain = np.full(p, self._missing())
        if p > RELAXED_SIZE:
            return self._beams(plain, widths)
        if (stop := self._beams(plain, widths[:1])).kind is not StopKind.FINISHED:
            return stop
        return self._beams(self._relaxed(), widths)

    def tell(self) -> None:
        """Write the other masks and the counters into the answer."""
        best = self._best
        ranked = sorted(self._held.values(), key=lambda pair: pair[0])
        others = [mask for _, mask in ranked if not np.array_equal(mask, best.mask)]
        best.alternatives = np.array(others[:ALTERNATIVES]) if others else None
        best.details = {"evaluations": self._decided, **best.details}

    def _widths(self) -> list[int]:
        widths, width = [], FIRST_WIDTH
        while width < self._options.width:
            widths.append(width)
            width *= WIDENING
        return [*widths, self._options.width]

    def _missing(self) -> float:
        """What the quadratic's diagonal lacks to be semidefinite: 0 for a convex block."""
        quadratic = self._program.quadratic
        if self._best.block.form.strong_convexity is not None:
            return 0.0
        if quadratic.shape[0] <= RELAXED_SIZE:
            return max(0.0, -float(np.linalg.eigvalsh(quadratic)[0]))
        # Gershgorin's circles: too much, but at once
        return max(0.0, float((np.abs(quadratic).sum(axis=1) - 2.0 * quadratic.diagonal()).max()))

    def _relaxed(self) -> FloatArray:
        """The shift (p,) of the semidefinite relaxation, as far as half of the time limit leads."""
        best, program = self._best, self._program
        until = RELAXED_SHARE * best.budget.seconds

        def late(_spent: float) -> Stop | None:
            return best.time_limit() if best.seconds >= until else best.stop(self._decided)

        found = plane_shift(
            program.quadratic, program.linear, program.count, program.inner(best.objective), ACCURACY, late
        )
        best.details["relaxation_iterations"] = found.iterations
        return found.diagonal

    def _beams(self, shift: FloatArray, widths: Sequence[int]) -> Stop:
        best, beams = self._best, Beams(self._program, shift, widths)
        while (found := beams.following(best.stop_after(self._decided))) is not None:
            if isinstance(found, Stop):
                return found
            self._decided += found.decided
            self._descend(~found.ones[:DESCENTS])
            if stop := best.stop(self._decided):
                return stop
        best.details["width"] = widths[-1]
        return Stop.finished(f"finished beams of {widths[-1]} masks")

    def _descend(self, masks: BoolArray) -> None:
        """Offer the masks and the local optima below them."""
        for mask in masks:
            if mask.tobytes() in self._held:
                continue
            self._best.offer(mask, "beam")
            self._held[mask.tobytes()] = self._best.objectives["beam"], mask
            if self._best.stop(self._decided):
                return
            found = self._descent.run(mask, self._best).mask
            if found.tobytes() not in self._held:
                self._best.offer(found, "descent")
                self._held[found.tobytes()] = self._best.objectives["descent"], found
