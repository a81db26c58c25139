"""The coordinator contract: a state machine that asks for blocks to be solved and is told the solutions."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.core import options as option_tools
from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.errors import InvalidInput
from prunebench.core.levels import Levels
from prunebench.core.problem import ProblemLike
from prunebench.core.recovery import Division, Recovery
from prunebench.core.registry import register_coordinator
from prunebench.core.solution import Solution
from prunebench.core.solver import SolverLike

register = register_coordinator


@dataclass(frozen=True)
class Task:
    """One block to be solved. `position` counts tasks from 0; with the run's seed it fixes the solver's seed."""

    position: int
    label: str
    block: BlockProblem


@dataclass(frozen=True)
class Move:
    """The outcome of a step.

    accepted : whether any change was applied;  predicted_change : of the loss, by the quadratic model of the
    proposed change, None if there is no model;  changed : how many mask entries changed;
    details : further values for the log
    """

    accepted: bool
    predicted_change: float | None
    changed: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Initial state of a coordinator. mask : bool (p,); weights : float64 (p,), zero where the mask is false."""

    mask: BoolArray
    weights: FloatArray


@dataclass(frozen=True)
class LeftDense:
    """Layers that a coordinator cannot prune and leaves as they are.

    reason : what of them stands against it;  names : of the parameters;  weights : how many they have together
    """

    reason: str
    names: tuple[str, ...]
    weights: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything a coordinator is given: the problem, the request, and the data it may use."""

    problem: ProblemLike
    solver: SolverLike
    """The solver of the blocks. A coordinator reads its facts (modes, quotas, largest block) and never runs it."""

    density: float
    mode: Mode
    options: Any = None
    """An instance of the coordinator's `options_class`."""

    seed: int = 0
    scope: str = "network"
    """For coordinators that take "scope": "network" solves one block in all, "layer" one per layer."""

    curvature: Mapping[str, Any] = field(default_factory=dict)
    """For coordinators that take "curvature": fields of prunebench.curvature.fisher.FisherOptions by name."""

    network: Any = None
    """A prunebench.networks.network.PrunableNetwork with its dense weights; None before work begins or without one."""

    block: BlockProblem | None = None
    """The whole problem as one block if it is not a network; None before work begins."""

    recovery: tuple[Recovery, ...] = ()
    """Recovery steps to run after stages; only coordinators with `recovers_between` need them."""

    movable: Any = None
    """For those: the network as a prunebench.recovery.movable.MovableNetwork; None before work begins."""

    left_dense: tuple[LeftDense, ...] = ()
    """Layers that are prunable, and that `Coordinator.narrowed` took out of the network."""

    found: Any = None
    """What `Coordinator.narrowed` found out of the network, for `begin`."""

    load_start: Callable[[Any], Start] | None = None
    """For those that take "start": loads an earlier run's weights into the given network; returns mask and weights."""

    say: Callable[[str], None] = lambda _line: None
    """Prints one line of progress for the user."""

    @property
    def name(self) -> str:
        """The problem's name, for messages."""
        return self.problem.name


class Coordinator(ABC):
    """Repeats ask, solve, tell until `ask` returns nothing. It knows no executors, files or clocks.

    A subclass describes itself by class attributes, as a solver does, and is made by `begin`. Every random draw is
    seeded by the setting's seed and the step number, so a run resumed from a checkpoint gives the same result.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One sentence."""

    reference: ClassVar[str] = ""
    """The paper it follows."""

    options_class: ClassVar[type | None] = None
    """A frozen dataclass of its options, each documented; None if it has none."""

    flags: ClassVar[Mapping[str, str]] = {}
    """Options that get a command-line argument of their own, with the placeholder of the value."""

    needs_network: ClassVar[bool] = False
    """Whether it prunes networks only, not problems that are just a quadratic form."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Which inputs it takes beside its options: "scope", "curvature", "start"."""

    default_mode: ClassVar[Mode | None] = None
    """The mode if none is requested; None means the solver's preferred mode."""

    validate_every: ClassVar[int] = 0
    """Every how many steps the network is evaluated for the log if nothing is requested; 0 means never."""

    recovers_between: ClassVar[bool] = False
    """Whether recovery may run between its stages (`stage_keeps`, `stages_done`, `take`), not only at the end."""

    default_recovery: ClassVar[tuple[str, ...]] = ()
    """Recovery if none is requested; in mode select, without steps that move weights."""

    replaced_options: ClassVar[Mapping[str, str]] = {}
    """Options of earlier versions, with the text of the error that names their replacement."""

    protocol_options: ClassVar[tuple[str, ...]] = ()
    """Options that are texts of training protocols (`prunebench.recovery.training.protocol.parse`)."""

    large_blocks: ClassVar[bool] = False
    """Whether its blocks are few and large: solvers may then use all threads, and Ctrl-C interrupts a running solve."""

    shares_passes: ClassVar[bool] = False
    """Whether workers compute its passes of the network over samples, not only its blocks."""

    of_groups: ClassVar[bool] = False
    """Whether its variables are groups of the network, which it makes smaller, and not weights; `density` is then a
    part of what the network costs."""

    mask: BoolArray
    """The current mask; round(density·p) ones once the run is done. bool (p,)"""

    weights: RealArray
    """The current prunable weights, zero where the mask is false. float (p,)"""

    @classmethod
    def usual_solver(cls, options: Mapping[str, Any], mode: str | None) -> str:  # noqa: ARG003  # for subclasses
        """The solver where neither the user nor a recipe names one.

        options : its own options as they were asked for;  mode : the mode, None if none is named
        """
        return "swap"

    @classmethod  # noqa: B027  # the default refuses nothing
    def require(cls, setting: Setting) -> None:
        """Refuse an impossible request before any work and before the network is loaded.

        Raises
        ------
        InvalidInput   with the remedy
        """

    @classmethod
    def narrowed(cls, setting: Setting) -> Setting:
        """The setting with the part of its network that this kind of coordinator can prune: by default all of it.

        Raises
        ------
        InvalidInput   nothing would be left
        """
        return setting

    @classmethod
    @abstractmethod
    def begin(cls, setting: Setting) -> "Coordinator":
        """A new coordinator for the setting's network or block.

        Raises
        ------
        InvalidInput   a request that can only be refused once the network is loaded
        """

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its own options for the command line's --samples, --batch-size, --ridge, --gradient-scale and --store.

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
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """Reduced counts, by option, for options that exceed the available calibration samples.

        By default only option `samples` is checked; a coordinator that divides its samples overrides this.

        Parameters
        ----------
        asked : the request's options; for those not given, the defaults are checked
        total : number of calibration samples
        fixed : options that must not be reduced, because the user set them
        """
        return fewer(cls.options_class, "samples", asked, total, fixed)

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """Splits `total` calibration samples into those that judge recovery and those that recovery may use.

        Raises
        ------
        InvalidInput   there are too few
        """
        return Division.of(total, setting.seed)

    @classmethod
    def last_training(cls, _options: Any) -> str | None:
        """The protocol by which what is kept was trained last, as `prunebench.recovery.training.protocol.parse` takes
        it; None where nothing is trained.

        _options : the coordinator's, of `options_class`
        """
        return None

    @classmethod
    def unmovable(cls, _options: Any) -> str:
        """Why recovery and training may not move the weights it ends with, such as "bits=4"; "" where they may.

        _options : the coordinator's, of `options_class`
        """
        return ""

    def levels(self) -> Levels | None:
        """The levels and scales that the weights of `best` are made of; None where they are plain floats."""
        return None

    def network_facts(self) -> dict[str, Any]:
        """Entries of run.json on the network beside what is not pruned: "gradients" and "unreached", JSON-able.

        Called once, before the first step.
        """
        return {}

    def place(self, network: Any, weights: RealArray) -> None:
        """Write weights into the network that is to be evaluated. float (p,)"""
        network.assign(weights)

    def best(self) -> tuple[BoolArray, RealArray]:
        """The mask and weights that the run returns; by default the current ones."""
        return self.mask, self.weights

    @property
    def total_steps(self) -> int | None:
        """How many steps there will be, or None if unknown."""
        return None

    @property
    def seconds_left(self) -> float | None:
        """How long the steps that are left will take, by what those done took and what each costs.

        None where the steps are alike, so that their number says it.
        """
        return None

    @abstractmethod
    def ask(self, count: int = 1) -> list[Task]:
        """At most `count` tasks that may be solved in parallel; [] when no work is left."""

    @abstractmethod
    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take the solution of a task, None if it failed. Returns the step's Move after its last solution."""

    def advance(self) -> Move | None:
        """Make a step that needs no solver; None when no work is left.

        Called when `ask` returns nothing and no task is being solved.
        """
        return None

    @property
    def stage_keeps(self) -> Sequence[int]:
        """For coordinators with `recovers_between`: how many weights each stage keeps."""
        return ()

    @property
    def stages_done(self) -> int:
        """How many of these stages are done."""
        return 0

    def take(self, weights: FloatArray) -> None:
        """Continue from other values of the kept weights, with the same mask. float64 (p,)"""
        raise NotImplementedError(f"coordinator {self.name} does not recover between stages")

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the mask already has the requested density; this may be before the last step."""

    def check(self) -> None:  # noqa: B027  # the count is checked for all; the default needs nothing more
        """Raise PrunebenchError if the mask, as far as the work is done, violates the request."""

    @abstractmethod
    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able values from which a new coordinator of the same request continues the run."""

    @abstractmethod
    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        InvalidInput   it does not fit the request: a shape, count, quota or step number, or weights off the mask
        """


def fewer(
    options: type | None, name: str, asked: Mapping[str, Any], most: int, fixed: Collection[str]
) -> dict[str, int]:
    """{name: most} if the requested or default count is larger and may be reduced; else {}.

    options : the dataclass with the default, None for no options
    """
    count = count_of(options, name, asked)
    return {name: max(1, most)} if count is not None and count > most and name not in fixed else {}


def count_of(options: type | None, name: str, asked: Mapping[str, Any]) -> int | None:
    """The requested or default count; None if it is open or not a whole number."""
    held = dataclasses.fields(options) if options is not None and dataclasses.is_dataclass(options) else ()
    usual = next((item.default for item in held if item.name == name), None)
    try:
        return int(asked.get(name, usual))
    except (TypeError, ValueError):
        return None


OF_GRAMS = ("bits", "group_size")
"""Options of coordinators that have the Gram matrix of each layer's inputs."""


def require_current(kind: type[Coordinator], names: Iterable[str]) -> None:
    """Refuse options that are named as in an earlier version, and those that need what this kind does not have.

    Raises
    ------
    InvalidInput   the message names their replacement, or the coordinator that has them
    """
    known = {option.name for option in option_tools.options_of(kind.options_class)} if kind.options_class else set()
    for name in names:
        if name in OF_GRAMS and name not in known:
            raise InvalidInput(
                f"coordinator {kind.name}: {name} rounds weights by the Gram matrix of each layer's inputs, which this "
                "coordinator does not gather; use coordinator layer-wise"
            )
        if name in kind.replaced_options:
            raise InvalidInput(
                f"coordinator {kind.name}: option {name} is now said by recovery: {kind.replaced_options[name]} "
                "(--recover on the command line, recover=(...) in Python; 'prunebench coordinators' lists recoveries)"
            )


def checked_state(
    arrays: Mapping[str, npt.NDArray[Any]], size: int, mask_name: str = "mask", weights_name: str = "weights"
) -> tuple[BoolArray, RealArray]:
    """Mask and weights of a checkpoint. -> bool (p,), float (p,)

    size : p, the network's number of prunable weights

    Raises
    ------
    InvalidInput   one is missing, has another shape or type, is not finite, or is not zero off the mask
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

    kinds : accepted letters of numpy's dtype.kind

    Raises
    ------
    InvalidInput   it is missing or has another shape or type
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
    InvalidInput   it is missing or not such a number
    """
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        raise InvalidInput(f"{name} is {value!r} where a whole number from {least} to {most} is expected")
    return value


def task_seed(seed: int, position: int) -> int:
    """The solver's seed for the task at `position`, whichever worker solves it and when."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(1, position)).generate_state(1, np.uint64)[0])


def calibration_seed(seed: int) -> np.random.SeedSequence:
    """The seed sequence for drawing calibration samples; independent of all solvers' seeds."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(0,))
