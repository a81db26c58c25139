"""Greedy elimination: prune one weight at a time, always the one whose loss is smallest, with all couplings.

Backward elimination repeats the selection step of Optimal Brain Damage after every removal and includes
the pair terms that it neglects (Le Cun, Denker, Solla, NeurIPS 1989, §2; Yu et al.: The Combinatorial
Brain Surgeon, ICML 2022, §4, for the objective).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, times
from prunebench.core.block import BlockProblem
from prunebench.core.qubo import Qubo
from prunebench.core.solver import Incumbent, Solver, Stop, register

LOOK_EVERY = 16
"""Removals between two looks at the clock."""


@register
@dataclass(frozen=True, kw_only=True)
class Greedy(Solver):
    """Change one weight at a time until exactly `keep` are kept, the cheapest first.

    Solves mode select; in mode refit the mask is refitted. Proves nothing; deterministic. Each
    removal or addition costs p on a matrix and 2np on the factor. When the time is used up, the rest is
    decided by the current fields.
    """

    name = "greedy"
    modes = frozenset({"select"})
    baseline = True
    whole_at_limit = True
    reference = "Le Cun, Denker, Solla, NeurIPS 1989; Yu et al., ICML 2022"

    direction: Literal["backward", "forward"] = "backward"
    """backward: from all kept, prune the cheapest; forward: from none, keep the most useful."""

    def refuses(self, block: BlockProblem) -> str:
        """An unknown direction."""
        if self.direction not in ("backward", "forward"):
            return f"direction is {self.direction!r}; choose backward or forward"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """One weight at a time; when the time is used up, the rest at once."""
        mask, stop = self._descend(best)
        best.offer(mask, "greedy")
        best.details = {"greedy": best.objectives["greedy"]}
        return stop

    def _descend(self, best: Incumbent) -> tuple[BoolArray, Stop]:
        block = best.block
        qubo = block.to_qubo()
        removing = self.direction == "backward"
        mask = np.full(block.p, removing, dtype=np.bool_)
        steps = block.p - block.keep if removing else block.keep
        coupling = _Couplings(qubo)
        # field_i: change of E when weight i is added to the other kept ones
        field = qubo.linear + (coupling.sums() if removing else 0.0)
        for step in range(steps):
            stop = best.stop(step) if step % LOOK_EVERY == 0 else None
            if stop:
                _finish(mask, field, steps - step, removing)
                return mask, stop.also(f"the last {steps - step} by their fields")
            candidates = np.where(mask, -field, np.inf) if removing else np.where(mask, np.inf, field)
            at = int(np.argmin(candidates))
            mask[at] = not removing
            row = coupling.row(at)
            field = field - row if removing else field + row
        return mask, Stop.finished(f"{'pruned' if removing else 'kept'} {steps} weights one at a time")


class _Couplings:
    """Rows of J, from the matrix if it is stored, otherwise from the factor."""

    def __init__(self, qubo: Qubo) -> None:
        small = qubo.factor is None or qubo.p <= 2 * qubo.factor.shape[0] or qubo.p <= 2048
        self._matrix = qubo.couplings if small else None
        self._columns = None if small else qubo.scaled_factor()

    def row(self, at: int) -> FloatArray:
        """J[at], float64 (p,), with zero at position `at`."""
        if self._matrix is not None:
            return np.asarray(self._matrix[at])
        assert self._columns is not None
        out = self._columns.T @ self._columns[:, at]
        out[at] = 0.0
        return np.asarray(out)

    def sums(self) -> FloatArray:
        """J·1, float64 (p,)."""
        if self._matrix is not None:
            return np.asarray(self._matrix.sum(axis=1))
        assert self._columns is not None
        whole = times(self._columns, np.ones(self._columns.shape[1]))
        own = np.einsum("ij,ij->j", self._columns, self._columns)
        return np.asarray(self._columns.T @ whole - own)


def _finish(mask: BoolArray, field: FloatArray, count: int, removing: bool) -> None:
    """Make the remaining decisions at once, by the current fields."""
    if count == 0:
        return
    candidates = np.where(mask, -field, np.inf) if removing else np.where(mask, np.inf, field)
    mask[np.argpartition(candidates, count - 1)[:count]] = not removing
