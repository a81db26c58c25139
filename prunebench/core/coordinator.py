"""What every coordinator is: a pure state machine that asks for blocks to be solved and is told the answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.core import options as option_tools
from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import ProblemLike
from prunebench.core.recovery import Division, Recovery
from prunebench.core.registry import register_coordinator
from prunebench.core.solution import Solution
from prunebench.core.solver import SolverLike

register = register_coordinator


@dataclass(frozen=True)
class Task:
    """One block to be solved. `position` counts tasks from 0 and, with the run's seed, fixes the solver's seed."""

    position: int
    label: str
    block: BlockProblem


@dataclass(frozen=True)
class Move:
    """What became of a step.

    accepted : whether anything was applied;  predicted_change : of the loss, by the quadratic model, for
    what was proposed, None where there is no model;  changed : weights whose mask bit changed;
    details : what else is logged
    """

    accepted: bool
    predicted_change: float | None
    changed: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Where a coordinator begins. mask : bool (p,); weights : float64 (p,), zero where the mask is false."""

    mask: BoolArray
    weights: FloatArray


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a coordinator begins with: the problem, what is asked of it, and what of it may be looked at."""

    problem: ProblemLike
    solver: SolverLike
    """Who will solve the blocks: for its facts (modes, quotas, largest block); a coordinator never runs it."""

    density: float
    mode: Mode
    options: Any = None
    """An instance of the coordinator's `options_class`."""

    seed: int = 0
    scope: str = "network"
    """For coordinators that take "scope": one block of the whole "network", or one a "layer"."""

    curvature: Mapping[str, Any] = field(default_factory=dict)
    """For those that take "curvature": options of prunebench.curvature.fisher.FisherOptions by name."""

    network: Any = None
    """A prunebench.networks.network.PrunableNetwork with its dense weights; None until work begins, and without one."""

    block: BlockProblem | None = None
    """The whole problem as one block, where it is no network; None until work begins."""

    recovery: tuple[Recovery, ...] = ()
    """What is done to the network after stages; coordinators that do not recover between theirs need not look."""

    movable: Any = None
    """For those that do: the network as a prunebench.recovery.movable.MovableNetwork; None until work begins."""

    load_start: Callable[[Any], Start] | None = None
    """For those that take "start": puts the network of an earlier run into the given one; mask and weights."""

    say: Callable[[str], None] = lambda _line: None
    """Tells the user a line of progress."""

    @property
    def name(self) -> str:
        """The problem's name, for messages."""
        return self.problem.name


class Coordinator(ABC):
    """ask → solve → tell, until ask gives nothing more. It knows nothing of executors, files or clocks.

    A subclass names itself by class facts, as a solver does, and is made by `begin`. All random draws come from the
    setting's seed and the number of the step, so that a checkpoint between steps continues to the same result.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One sentence."""

    reference: ClassVar[str] = ""
    """The paper it is after."""

    options_class: ClassVar[type | None] = None
    """A frozen dataclass of its options, each with its sentence; None where it has none."""

    flags: ClassVar[Mapping[str, str]] = {}
    """Options that the command line offers as arguments of their own, with the word that stands for the value."""

    needs_network: ClassVar[bool] = False
    """Whether it prunes networks only, and no problem that is a quadratic form by itself."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """What it takes beside its options: "scope", "curvature", "start"."""

    default_mode: ClassVar[Mode | None] = None
    """The mode where none is asked for; None: the solver's own."""

    validate_every: ClassVar[int] = 0
    """After how many steps the network is judged for the log where nothing is asked for; 0: never."""

    recovers_between: ClassVar[bool] = False
    """Whether recovery may run between its stages (`stage_keeps`, `stages_done`, `take`), and not at the end alone."""

    default_recovery: ClassVar[tuple[str, ...]] = ()
    """Recovery where none is asked for; in mode select without what moves weights."""

    replaced_options: ClassVar[Mapping[str, str]] = {}
    """Options that it had in earlier versions, with what is said instead."""

    large_blocks: ClassVar[bool] = False
    """Whether its blocks are few and large: a solver may then use all threads, and Ctrl-C ends a solve under way."""

    mask: BoolArray
    """The mask as it stands; round(density·p) ones once the run is done. bool (p,)"""

    weights: RealArray
    """The prunable weights as they stand, zero where the mask is false. float (p,)"""

    @classmethod  # noqa: B027  # by default nothing is refused
    def require(cls, setting: Setting) -> None:
        """Refuse, before any work and before the network is loaded, what cannot be had.

        Raises
        ------
        InvalidInput   with the remedy
        """

    @classmethod
    @abstractmethod
    def begin(cls, setting: Setting) -> "Coordinator":
        """A new coordinator over the setting's network or block.

        Raises
        ------
        InvalidInput   what can only be refused once the network is there
        """

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its options for what the command line's --samples, --batch-size, --ridge, --gradient-scale, --store say.

        Raises
        ------
        InvalidInput   it has no such option
        """
        known = {option.name for option in option_tools.options_of(cls.options_class)} if cls.options_class else set()
        for name in given:
            if name not in known:
                flag = name.replace("_", "-")
                raise InvalidInput(f"--{flag} is nothing that coordinator {cls.name} takes; leave it out")
        return dict(given)

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """Which of `total` calibration samples judge recovery, and from which it takes its own.

        Raises
        ------
        InvalidInput   there are too few
        """
        return Division.of(total, setting.seed)

    def network_facts(self) -> dict[str, Any]:
        """What run.json says of the network beside what is not pruned: "gradients" and "unreached", as JSON has them.

        Asked once, before the first step.
        """
        return {}

    def place(self, network: Any, weights: RealArray) -> None:
        """Put weights into the network to be judged. float (p,)"""
        network.assign(weights)

    def best(self) -> tuple[BoolArray, RealArray]:
        """The mask and weights that the run returns: by default those that stand."""
        return self.mask, self.weights

    @property
    def total_steps(self) -> int | None:
        """How many steps there will be, or None if it is open."""
        return None

    @abstractmethod
    def ask(self, count: int = 1) -> list[Task]:
        """At most `count` tasks that may be solved side by side; [] when there is nothing left to do."""

    @abstractmethod
    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take the answer to a task, None if it could not be had; the move of a step once its last answer is in."""

    def advance(self) -> Move | None:
        """Make a step that needs no solver; None where nothing is left to do.

        Asked for when `ask` gives nothing and no task is out.
        """
        return None

    @property
    def stage_keeps(self) -> Sequence[int]:
        """For those that recover between stages: how many weights each stage keeps."""
        return ()

    @property
    def stages_done(self) -> int:
        """How many of these stages are done."""
        return 0

    def take(self, weights: FloatArray) -> None:
        """Go on from other values of the kept weights, the mask staying as it is. float64 (p,)"""
        raise NotImplementedError(f"coordinator {self.name} does not recover between stages")

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the mask is of the density asked for; it may be before the last step."""

    def check(self) -> None:  # noqa: B027  # by default the count, which is looked at anyway, is all
        """Raise PrunebenchError where the mask, as far as the work is done, breaks what was asked for."""

    @abstractmethod
    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able values that, loaded into a new coordinator of the same request, continue the run."""

    @abstractmethod
    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave.

        Raises
        ------
        InvalidInput   it is not of this request: shapes, counts, a quota, weights off the mask, a step there is not
        """


def require_current(kind: type[Coordinator], names: Iterable[str]) -> None:
    """Refuse options by the names of an earlier version.

    Raises
    ------
    InvalidInput   the message says what takes their place
    """
    for name in names:
        if name in kind.replaced_options:
            raise InvalidInput(
                f"coordinator {kind.name}: option {name} is now said by recovery: {kind.replaced_options[name]} "
                "(--recover on the command line, recover=(...) in Python; 'prunebench coordinators' lists recoveries)"
            )


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
