"""What every coordinator is: a pure state machine that asks for blocks to be solved and is told the answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
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


@dataclass(frozen=True)
class Start:
    """Where a coordinator begins. mask : bool (p,); weights : float64 (p,), zero where the mask is false."""

    mask: BoolArray
    weights: FloatArray


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

    @property
    def complete(self) -> bool:
        """Whether the mask is of the density asked for; it may be before the last step."""
        ...

    def check(self) -> None:
        """Raise PrunebenchError where the mask, as far as the work is done, breaks what was asked for."""
        ...

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able values that, loaded into a new coordinator of the same request, continue the run."""
        ...

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises
        ------
        InvalidInput   it is not of this request: shapes, counts, a quota, weights off the mask, a step there is not
        """
        ...


def checked_state(
    arrays: Mapping[str, npt.NDArray[Any]], size: int, mask_name: str = "mask", weights_name: str = "weights"
) -> tuple[BoolArray, RealArray]:
    """Mask and weights of a checkpoint. -> bool (p,), float (p,)

    size : p, of the network

    Raises
    ------
    InvalidInput   one is missing, of another shape or type, not finite, or not zero off the mask
    """
    mask, weights = checked_array(arrays, mask_name, (size,), "b"), checked_array(arrays, weights_name, (size,), "f")
    if not np.isfinite(weights).all():
        raise InvalidInput(f"{weights_name} holds NaN or infinity")
    if stray := int((weights[~mask] != 0.0).sum()):
        raise InvalidInput(f"{weights_name} has {stray} weights that are not zero where {mask_name} is false")
    return mask, weights


def checked_array(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...], kinds: str
) -> npt.NDArray[Any]:
    """An array of a checkpoint.

    kinds : the letters of numpy's dtype.kind that are taken

    Raises
    ------
    InvalidInput   it is missing, or of another shape or type
    """
    if name not in arrays:
        raise InvalidInput(f"the array {name} is missing")
    held = arrays[name]
    if held.shape != shape or held.dtype.kind not in kinds:
        raise InvalidInput(f"{name} is {held.dtype} {held.shape} where {shape} is expected")
    return held


def checked_number(info: Mapping[str, Any], name: str, least: int = 0, most: int | None = None) -> int:
    """A whole number of a checkpoint within [least, most].

    Raises
    ------
    InvalidInput   it is missing or something else
    """
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        raise InvalidInput(f"{name} is {value!r} where a whole number from {least} to {most} is expected")
    return value


def task_seed(seed: int, position: int) -> int:
    """The solver's seed for the task at `position`: independent of who solves it and when."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(1, position)).generate_state(1, np.uint64)[0])


def calibration_seed(seed: int) -> np.random.SeedSequence:
    """The seed sequence that draws calibration samples, apart from every solver's."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(0,))
