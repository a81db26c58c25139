"""What a solver gives back: mask, weights, objective, bound, why it stopped, and the incumbent's history."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, frozen
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.proof import Proof

Progress = Callable[[float, float, float], None]
"""Called with (seconds, objective, lower bound) whenever the incumbent or the bound improves."""


class Status(StrEnum):
    """What one holds; why the solver stopped is `Solution.stop_reason`."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIME_LIMIT = "time_limit"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, eq=False)
class Solution:
    """A feasible answer to a block problem.

    mask : bool (p,)                 exactly `keep` ones
    weights : float64 (p,)           zero off the mask
    objective : float                f(weights), evaluated by the block in float64
    lower_bound : float              proven bound on the block's optimum; −inf where nothing is proved
    status : Status                  "optimal" only with a proven bound
    stop_reason : str                why the solver stopped, for people
    trace : float64 (r, 3)           rows (seconds, objective, lower bound); seconds rise, objectives fall
    timings : dict                   seconds by phase: build, queue, solve, decode, polish, …
    details : dict                   whatever else the solver measured; JSON-able
    alternatives : bool (s, p)       other distinct feasible masks, best first, for re-ranking by true loss
    proof : Proof                    what the bound can be derived from again, where the solver was asked for it
    """

    mask: BoolArray
    weights: FloatArray
    objective: float
    lower_bound: float
    status: Status
    stop_reason: str
    trace: FloatArray
    timings: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    alternatives: BoolArray | None = None
    proof: Proof | None = None

    @staticmethod
    def from_mask(
        block: BlockProblem,
        mask: npt.NDArray[np.bool_],
        *,
        status: Status,
        stop_reason: str,
        recorder: "Recorder | None" = None,
        lower_bound: float = -np.inf,
        **extra: Any,
    ) -> "Solution":
        """The solution that a mask stands for: in refit mode its weights are re-optimised.

        `extra` may give timings, details and alternatives. A bound above the recomputed objective
        by rounding is lowered to it; one that is further above stays, for `solve` to refuse.
        """
        weights = block.weights_of(mask)
        objective = block.evaluate(weights, mask)
        recorder = recorder or Recorder(Budget())
        bound = float(lower_bound)
        if objective < bound <= objective + block.form.rounding_of(weights):
            bound = objective
        return Solution(
            mask=frozen(np.array(mask, dtype=np.bool_)),
            weights=frozen(weights),
            objective=objective,
            lower_bound=bound,
            status=status,
            stop_reason=stop_reason,
            trace=frozen(recorder.table(objective, bound)),
            timings={"build": recorder.built, "solve": recorder.seconds, **extra.pop("timings", {})},
            **extra,
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop. A budget that runs out is a normal end, never an exception.

    seconds : wall-clock seconds of solving, after imports, compilation and building;
    evaluations : objective evaluations or moves tried, as the solver counts them;
    gap : stop once (objective − bound)/|objective| is proved at most this.
    """

    seconds: float = float("inf")
    evaluations: float = float("inf")
    gap: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluations", "gap"):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or value != value or value < 0:
                raise InvalidInput(f"budget: {name} is {value!r}; expected a number that is not negative")


class Recorder:
    """The clock and the incumbent's history of one solve. Starts when it is made; building stops it."""

    def __init__(self, budget: Budget, progress: Progress | None = None) -> None:
        self.budget = budget
        self.objective = float("inf")
        self.lower_bound = -float("inf")
        self._progress = progress
        self._rows: list[tuple[float, float, float]] = []
        self.built = 0.0
        """Seconds that went into `building`."""
        self._start = perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the solve began, without those of `building`."""
        return perf_counter() - self._start

    @contextmanager
    def building(self) -> Iterator[None]:
        """The clock stands still: a model, matrix or circuit is made of the block, and nothing is decided."""
        began = perf_counter()
        try:
            yield
        finally:
            spent = perf_counter() - began
            self.built += spent
            self._start += spent

    @property
    def remaining(self) -> float:
        """Seconds left; inf without a limit, never negative."""
        return max(0.0, self.budget.seconds - self.seconds)

    def record(self, objective: float = float("inf"), lower_bound: float = -float("inf")) -> bool:
        """Note an incumbent or a bound; True if either improved."""
        better = objective < self.objective or lower_bound > self.lower_bound
        if better:
            self.objective = min(self.objective, objective)
            self.lower_bound = max(self.lower_bound, lower_bound)
            row = (self.seconds, self.objective, self.lower_bound)
            self._rows.append(row)
            if self._progress is not None:
                self._progress(*row)
        return better

    def expired(self, evaluations: float = 0) -> str:
        """Why to stop now, or "" to go on."""
        if self.seconds >= self.budget.seconds:
            return f"time limit of {self.budget.seconds:g} s"
        if evaluations >= self.budget.evaluations:
            return f"evaluation limit of {self.budget.evaluations:g}"
        if np.isfinite(self.lower_bound) and np.isfinite(self.objective):
            excess = self.objective - self.lower_bound
            if self.budget.gap > 0.0 and excess <= self.budget.gap * abs(self.objective):
                return f"relative gap of {self.budget.gap:g}"
        return ""

    def table(self, objective: float, lower_bound: float) -> FloatArray:
        """The history with (objective, lower_bound) as its last row, monotone throughout. float64 (r, 3)."""
        rows = [row for row in self._rows if np.isfinite(row[1])]
        out = np.array([*rows, (self.seconds, objective, lower_bound)], dtype=np.float64)
        out[:, 1] = np.minimum.accumulate(np.maximum(out[:, 1], objective))
        out[:, 2] = np.maximum.accumulate(np.minimum(out[:, 2], lower_bound))
        out[-1, 1:] = objective, lower_bound
        return out
