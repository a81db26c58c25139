"""Masks that beams over the relaxation find (`prunebench.kernels.relaxations.beam`), for the annealer's pool."""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.stop import Stop, StopCheck
from prunebench.kernels.relaxations.beam import RIDGES, Beams
from prunebench.kernels.relaxations.programs import SelectProgram

WIDTHS = (64, 512, 4096, 32768)
"""Widths of the beams: a wider one rarely finds less, and takes as much longer."""
MOST_BYTES = 2**28
"""Most memory of a beam, 9 bytes a weight and mask: wider ones are left out."""
TAKEN = 8
"""Best masks of a beam that descents begin from."""
EVALUATIONS_A_DECISION = 0.02
"""What a decided variable counts as, times p: it takes as long as so many proposals, at 10 ns each."""
EVALUATIONS_A_CUBE = 0.01
"""The same of a factor, as a share of p³."""


class Beamed:
    """Beams of growing width, as long as they are asked for.

    program : the block's;  shift : (p,) of the relaxation, or zeros
    relaxed : which of the two; without a relaxation beams are narrow
    """

    def __init__(self, program: SelectProgram, shift: FloatArray, *, relaxed: bool) -> None:
        p = shift.size
        widths = [width for width in (WIDTHS if relaxed else WIDTHS[:1]) if 9 * width * p <= MOST_BYTES]
        self._size = p
        self._beams = Beams(program, shift, widths)
        self.spent = len(RIDGES) * EVALUATIONS_A_CUBE * p**3
        """Evaluations that the beams so far, and all factors, count as."""

    def masks(self, stop: StopCheck) -> BoolArray | None:
        """Masks of the next beam, bool (r, p), best first; none where it was stopped; None where all are done."""
        found = self._beams.following(stop)
        if found is None:
            return None
        if isinstance(found, Stop):
            return np.zeros((0, self._size), dtype=np.bool_)
        self.spent += EVALUATIONS_A_DECISION * found.decided * self._size
        return ~found.ones[:TAKEN]
