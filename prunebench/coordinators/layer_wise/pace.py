"""How long layers take that are still to be pruned: their operations, at the pace of those that are done.

Layers differ: the first of those with common inputs pays for gathering them, and long rows for their decomposition.
"""

from collections.abc import Sequence

PASS, PRODUCTS = 2.0, 4.0
"""Operations of gathering: for each input vector and weight of the layers passed on the way, and for each input vector
and entry of the Gram matrix. Two of a multiplication and an addition each, for the pruned and the dense network."""
ROWS, DECOMPOSED = 10.0, 4.0
"""Operations of solving: for each weight and input of its row, and, once for common inputs, for each entry of a Gram
matrix and input. Those of sparsegpt; other solvers' are taken to be in proportion."""


class Pace:
    """Seconds and operations of gathering inputs and of solving, so far.

    Parameters
    ----------
    order : group of common inputs, and layer, step by step
    shapes : rows and columns of each layer
    """

    def __init__(self, order: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, int]]) -> None:
        self._order, self._shapes = order, shapes
        self.inputs = 0
        """Input vectors of the group at hand, which the others are taken to have too."""
        self._spent = [0.0, 0.0]
        self._done = [0.0, 0.0]

    def note(self, step: int, gathering: float, solving: float) -> None:
        """A step is done. gathering, solving : its seconds

        Those of the first are left out where others follow: it pays for what happens once.
        """
        if step == 0 and len(self._order) > 1:
            return
        for kind, (seconds, work) in enumerate(zip((gathering, solving), self._work(step), strict=True)):
            self._spent[kind] += seconds
            self._done[kind] += work

    def left(self, done: int) -> float | None:
        """Seconds of all steps but the first `done`; None until inputs were gathered and a layer was solved."""
        if self._done[1] == 0.0 or (self._done[0] == 0.0 and any(self._work(step)[0] for step in self._ahead(done))):
            return None
        total = 0.0
        for kind in (0, 1):
            work = sum(self._work(step)[kind] for step in self._ahead(done))
            total += work * (self._spent[kind] / self._done[kind] if self._done[kind] else 0.0)
        return total

    def _ahead(self, done: int) -> range:
        return range(done, len(self._order))

    def _work(self, step: int) -> tuple[float, float]:
        """Operations of gathering and of solving in a step."""
        group, layer = self._order[step]
        rows, columns = self._shapes[layer]
        solving = ROWS * rows * columns**2
        if step and self._order[step - 1][0] == group:
            return 0.0, solving
        passed = sum(_size(self._shapes[other]) for held, other in self._order if held == group - 1)
        gathering = self.inputs * (PASS * passed + PRODUCTS * columns**2)
        return gathering, solving + DECOMPOSED * columns**3


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
