"""What every coordinator is: a pure state machine that asks for blocks to be solved and is told the answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, RealArray
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Solution


@dataclass(frozen=True)
class Task:
    """One block to be solved. `position` counts tasks from 0 and, with the run's seed, fixes the solver's seed."""

    position: int
    label: str
    block: BlockProblem


@dataclass(frozen=True)
class Move:
    """What became of a step's tasks.

    accepted : whether anything was applied;  predicted_change : of the loss, by the quadratic model,
    for what was proposed;  changed : weights whose mask bit changed;  details : what else is logged
    """

    accepted: bool
    predicted_change: float
    changed: int
    details: Mapping[str, Any] = field(default_factory=dict)


class Coordinator(Protocol):
    """ask → solve → tell, until ask gives nothing more. It knows nothing of executors, files or clocks."""

    @property
    def mask(self) -> BoolArray:
        """The network's mask as it stands; round(density·p) ones once the run is done. bool (p,)."""
        ...

    @property
    def weights(self) -> RealArray:
        """The network's prunable weights as they stand. float (p,)."""
        ...

    def best(self) -> tuple[BoolArray, RealArray]:
        """The mask and weights that the run returns."""
        ...

    @property
    def total_steps(self) -> int | None:
        """How many steps there will be, or None if it is open."""
        ...

    def ask(self, count: int = 1) -> list[Task]:
        """At most `count` tasks that may be solved side by side; [] when there is nothing left to do."""
        ...

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take the answer to a task, None if it could not be had; the move of a step once its last answer is in."""
        ...

    def check(self) -> None:
        """Raise PrunebenchError where the mask, as far as the work is done, breaks what was asked for."""
        ...

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able values that, loaded into a new coordinator of the same request, continue the run."""
        ...

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        ...


def task_seed(seed: int, position: int) -> int:
    """The solver's seed for the task at `position`: independent of who solves it and when."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(1, position)).generate_state(1, np.uint64)[0])


def calibration_seed(seed: int) -> np.random.SeedSequence:
    """The seed sequence that draws calibration samples, apart from every solver's."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(0,))
