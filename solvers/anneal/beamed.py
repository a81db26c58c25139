"""Masks that beams over the relaxation find (`prunebench.kernels.relaxations.beam`), for the annealer's pool."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.relaxations.beam import RIDGES, Beams
from prunebench.kernels.relaxations.programs import SelectProgram

WIDTHS = (64, 512, 4096, 32768)
"""Widths of the beams, each with every ridge: a wider one rarely finds less, and takes as much longer."""
MOST_BYTES = 2**28
"""Most memory of a beam, 9 bytes a weight and mask: wider ones are left out."""
TAKEN = 8
"""Best masks of a beam that descents begin from."""
EVALUATIONS_A_DECISION = 0.02
"""What a decided variable counts as, times p: it takes as long as so many proposals, at 10 ns each."""
EVALUATIONS_A_CUBE = 0.01
"""The same of a factor, as a share of p³."""


@dataclass
class Beamed:
    """Beams of growing width, as long as they are asked for.

    program : the block's;  shift : (p,) of the relaxation
    spent : evaluations that the beams so far count as
    """

    program: SelectProgram
    shift: FloatArray
    spent: float = 0.0
    _plan: Iterator[tuple[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        p = self.shift.size
        self._beams = Beams(self.program, self.shift)
        self._plan = iter((width, ridge) for width in WIDTHS if 9 * width * p <= MOST_BYTES for ridge in RIDGES)
        self.spent += len(RIDGES) * EVALUATIONS_A_CUBE * p**3

    def masks(self, stop: StopCheck) -> BoolArray | None:
        """Masks of the next beam, bool (r, p), best first; none where it was stopped; None where all are done."""
        following = next(self._plan, None)
        if following is None:
            return None
        found = self._beams.search(following[1], following[0], stop)
        if found is None or isinstance(found, Stop):
            return np.zeros((0, self.shift.size), dtype=np.bool_)
        self.spent += EVALUATIONS_A_DECISION * found.decided * self.shift.size
        return ~found.ones[:TAKEN]
