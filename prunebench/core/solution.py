"""A solver's answer: mask, weights, objective, bound, why it stopped, and its history."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, RealArray, frozen
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.group_proof import GroupProof
from prunebench.core.proof import Proof
from prunebench.core.stop import Stop, StopKind

Progress = Callable[[float, float, float], None]
"""Called with (seconds, objective, lower bound) whenever the incumbent or the bound improves."""


class Status(StrEnum):
    """What the answer is worth; why the solver stopped is `Solution.stop`."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIME_LIMIT = "time_limit"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, eq=False)
class Solution:
    """A feasible answer to a block problem.

    mask : bool (p,)                 exactly `keep` ones, or within the block's budget
    weights : float64 (p,)           zero off the mask
    objective : float                f(weights), evaluated by the block in float64
    lower_bound : float              proven bound on the block's optimum; −inf if nothing is proved
    status : Status                  "optimal" only with a proven bound
    stop : Stop                      why the solver stopped: a kind, and a text for people
    trace : float64 (r, 3)           rows (seconds, objective, lower bound); seconds rise, objectives fall
    timings : dict                   seconds by phase: build, queue, solve, decode, polish, …
    details : dict                   further measurements of the solver; JSON-able
    alternatives : bool (s, p)       other distinct feasible masks, best first, for re-ranking by true loss
    proof : Proof                    from which the bound can be derived again, if the solver was asked for one
    bridges : tuple of str           how the block was rewritten for the solver (prunebench.bridges), in order
    """

    mask: BoolArray
    weights: FloatArray
    objective: float
    lower_bound: float
    status: Status
    stop: Stop
    trace: FloatArray
    timings: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    alternatives: BoolArray | None = None
    proof: Proof | GroupProof | None = None
    bridges: tuple[str, ...] = ()

    @property
    def stop_reason(self) -> str:
        """Why the solver stopped, for people."""
        return self.stop.text

    @staticmethod
    def from_mask(
        block: BlockProblem,
        mask: npt.NDArray[np.bool_],
        *,
        status: Status,
        stop_reason: str,
        lower_bound: float = -np.inf,
        **extra: Any,
    ) -> "Solution":
        """The solution of a mask (refitted in mode refit), for solvers that use no `Incumbent`.

        The kind of stop follows from the status. `extra` may give trace, timings, details and alternatives. A
        bound that exceeds the recomputed objective by no more than rounding is lowered to it; one that exceeds
        it by more is kept, and `solve` then refuses the solution.
        """
        weights = block.weights_of(mask)
        objective = block.evaluate(weights, mask)
        bound = without_rounding(block, lower_bound, objective, weights)
        return Solution(
            mask=frozen(np.array(mask, dtype=np.bool_)),
            weights=frozen(weights),
            objective=objective,
            lower_bound=bound,
            status=status,
            stop=Stop(kind_of(status), stop_reason),
            **{"trace": frozen(np.array([[0.0, objective, bound]])), **extra},
        )


def kind_of(status: Status) -> StopKind:
    """The kind of stop implied by a status, for solvers that give only a text and for older files."""
    return {Status.TIME_LIMIT: StopKind.TIME, Status.INTERRUPTED: StopKind.INTERRUPTED}.get(status, StopKind.FINISHED)


def without_rounding(block: BlockProblem, lower_bound: float, objective: float, weights: RealArray) -> float:
    """The bound, lowered to the objective if it exceeds it by no more than rounding."""
    bound = float(lower_bound)
    return objective if objective < bound <= objective + block.rounding_of(weights) else bound


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop. Using up a budget is a normal end, never an exception.

    seconds : wall-clock seconds of solving, without imports, compilation and building;
    cpu : whether they are processor seconds of this process instead, of all its threads, so that other work on the
          machine counts less. Programs that a solver starts, and devices, are not part of this process;
    evaluations : objective evaluations or moves tried, as the solver counts them;
    gap : stop once (objective − bound)/|objective| is proved to be at most this.
    """

    seconds: float = float("inf")
    evaluations: float = float("inf")
    gap: float = 0.0
    cpu: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        """What the seconds are read from."""
        return process_time if self.cpu else perf_counter

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluations", "gap"):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or value != value or value < 0:
                raise InvalidInput(f"budget: {name} is {value!r}; expected a number that is not negative")
