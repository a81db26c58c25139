"""The best answer of one solve so far, with its clock and its history."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, RealArray, fixed, frozen
from prunebench.core.block import BlockProblem
from prunebench.core.group_proof import GroupProof
from prunebench.core.optimality import is_proved
from prunebench.core.proof import Proof
from prunebench.core.rows import RowsForm
from prunebench.core.solution import Budget, Progress, Solution, Status, without_rounding
from prunebench.core.stop import Stop, StopCheck, StopKind

START = "start"
"""The source of the mask that a search starts from."""


class Incumbent:
    """Collects a solver's masks and bounds, watches the budget, and builds the solution.

    Every objective is the block's own. The clock starts when the incumbent is made and stands still during `building`.
    Until a mask is offered, the objective is infinite and `source` is "".
    """

    def __init__(self, block: BlockProblem, budget: Budget | None = None, progress: Progress | None = None) -> None:
        self.block = block
        self.budget = budget or Budget()
        self.objective = float("inf")
        self.lower_bound = -float("inf")
        self.source = ""
        """Which part of the solver proposed the best mask."""
        self._mask: BoolArray | None = None
        self.weights: RealArray = np.empty(0)
        """The weights of `mask`; empty until a mask is offered."""
        self.objectives: dict[str, float] = {}
        """The objective of the last mask from each source."""
        self.evaluations = 0.0
        """Masks evaluated here; a solver may add evaluations of its own."""
        self.details: dict[str, Any] = {}
        """Further measurements of the solver; kept if it is interrupted."""
        self.timings: dict[str, float] = {}
        """Seconds by phase."""
        self.alternatives: BoolArray | None = None
        """Other distinct feasible masks, best first. bool (s, p)"""
        self.proof: Proof | GroupProof | None = None
        self.built = 0.0
        """Seconds spent in `building`."""
        self.clock = self.budget.clock
        """What the budget's seconds are read from: code that measures its own work for the budget uses it too."""
        self._progress = progress
        self._rows: list[tuple[float, float, float]] = []
        self._start = self.clock()

    @property
    def mask(self) -> BoolArray:
        """The best mask; until one is offered, the block's own start. bool (p,)"""
        return self.block.incumbent if self._mask is None else self._mask

    @property
    def seconds(self) -> float:
        """Seconds since the solve began, without `building`."""
        return self.clock() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left; inf without a limit, never negative."""
        return max(0.0, self.budget.seconds - self.seconds)

    @property
    def wall_remaining(self) -> float:
        """Wall-clock seconds left, for a program with a clock of its own; inf for a budget of processor seconds.

        Such a program then has to be stopped by asking `stop`.
        """
        return float("inf") if self.budget.cpu else self.remaining

    @contextmanager
    def building(self) -> Iterator[None]:
        """Stops the clock while the block is turned into a model, matrix or circuit; nothing may be searched here."""
        began = self.clock()
        try:
            yield
        finally:
            spent = self.clock() - began
            self.built += spent
            self._start += spent

    def begin(self) -> None:
        """Offer the block's start mask, or magnitude pruning if it has none."""
        self.offer(self.block.incumbent, START)

    def offer(
        self, mask: BoolArray, source: str, weights: RealArray | None = None, objective: float | None = None
    ) -> bool:
        """Take a mask if it is better than the best so far, and return whether it was. Ties keep the earlier mask.

        Parameters
        ----------
        mask : bool (p,)          feasible
        source : str              which part of the solver proposes it
        weights : float (p,)      of the mask; the block's own (refitted in mode refit) by default
        objective : float         if the block has already evaluated mask and weights
        """
        if objective is None:
            weights = self.block.weights_of(mask) if weights is None else weights
            if isinstance(self.block.form, RowsForm):
                # a layer's value is not computed again for weights that cannot change
                weights = fixed(weights)
            objective = self.block.evaluate(weights, mask)
            self.evaluations += 1.0
        self.objectives[source] = objective
        if self.source and not objective < self.objective:
            return False
        self.weights = self.block.weights_of(mask) if weights is None else weights
        whole = isinstance(self.block.form, RowsForm)
        self._mask = fixed(np.asarray(mask)) if whole else np.array(mask, dtype=np.bool_)
        self.objective, self.source = objective, source
        self._note()
        return True

    def bound(self, value: float) -> bool:
        """Take a proven lower bound, capped at the objective; returns whether it is the best so far."""
        value = min(float(value), self.objective)
        if not value > self.lower_bound:
            return False
        self.lower_bound = value
        self._note()
        return True

    def stop(self, spent: float = 0.0) -> Stop | None:
        """Why to stop now, or None to go on. spent : evaluations so far, as the solver counts them"""
        if self.seconds >= self.budget.seconds:
            return self.time_limit()
        if spent >= self.budget.evaluations:
            return Stop(StopKind.EVALUATIONS, f"evaluation limit of {self.budget.evaluations:g}")
        if np.isfinite(self.lower_bound) and np.isfinite(self.objective):
            excess = self.objective - self.lower_bound
            if self.budget.gap > 0.0 and excess <= self.budget.gap * abs(self.objective):
                return Stop(StopKind.GAP, f"relative gap of {self.budget.gap:g}")
        return None

    def stop_after(self, spent: float) -> StopCheck:
        """The stop check for a part of the search that counts its own evaluations; `spent` were made before it."""
        return lambda made: self.stop(spent + made)

    def time_limit(self) -> Stop:
        """The stop for a used-up time limit."""
        return Stop(StopKind.TIME, f"time limit of {self.budget.seconds:g} s")

    def solution(self, stop: Stop, *, whole: bool = False) -> Solution:
        """The best answer. `whole` : the method's answer is complete although a limit ended the search."""
        if not self.source:
            self.begin()
        bound = without_rounding(self.block, self.lower_bound, self.objective, self.weights)
        status = Status.FEASIBLE
        if stop.kind is StopKind.INTERRUPTED:
            status = Status.INTERRUPTED
        elif np.isfinite(bound) and is_proved(self.objective, bound):
            status = Status.OPTIMAL
        elif stop.at_limit and not whole:
            status = Status.TIME_LIMIT
        return Solution(
            mask=frozen(self.mask),
            weights=frozen(self.weights),
            objective=self.objective,
            lower_bound=bound,
            status=status,
            stop=stop,
            trace=frozen(self.history(bound)),
            timings={"build": self.built, "solve": self.seconds, **self.timings},
            details={"best_from": self.source, "objectives": dict(self.objectives), **self.details},
            alternatives=self.alternatives,
            proof=self.proof,
        )

    def history(self, lower_bound: float) -> FloatArray:
        """Rows (seconds, objective, bound), monotone; the last is the present, with `lower_bound`. float64 (r, 3)"""
        rows = [row for row in self._rows if np.isfinite(row[1])]
        out = np.array([*rows, (self.seconds, self.objective, lower_bound)], dtype=np.float64)
        out[:, 1] = np.minimum.accumulate(np.maximum(out[:, 1], self.objective))
        out[:, 2] = np.maximum.accumulate(np.minimum(out[:, 2], lower_bound))
        out[-1, 1:] = self.objective, lower_bound
        return out

    def _note(self) -> None:
        row = (self.seconds, self.objective, self.lower_bound)
        self._rows.append(row)
        if self._progress is not None:
            self._progress(*row)
