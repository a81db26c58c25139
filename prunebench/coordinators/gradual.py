"""Gradual pruning: pruning to a rising sparsity, interleaved with fine-tuning under the mask.

Zhu, Gupta: To prune, or not to prune, 2017; the setting of WoodFisher, M-FAC and CHITA, where a solver prunes
instead of magnitude. Each pruning is a step, and so is each epoch of fine-tuning.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from prunebench.coordinators import schedules
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Task,
    calibration_seed,
    checked_number,
    checked_state,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError, unknown_name
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem, spread
from prunebench.core.solution import Solution
from prunebench.curvature.fisher import FisherOptions, network_form

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork
    from prunebench.recovery.fine_tune import Tuner

Optimizer = Literal["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"]
"""Classes of torch.optim."""

OPTIMIZER = "optimizer."
"""Prefix of the optimizer's arrays in a checkpoint, as in `prunebench.recovery.fine_tune`."""


@dataclass(frozen=True, kw_only=True)
class GradualOptions:
    """How pruning and fine-tuning alternate.

    Raises
    ------
    InvalidInput   a count, density, rate or name is invalid; the message names it
    """

    start_density: float = 0.5
    """Density of the first pruning."""

    schedule: str = "polynomial"
    """How the density falls: polynomial, exponential, geometric, linear or constant."""

    prunings: int = 7
    """How often the network is pruned."""

    epochs_between: int = 1
    """Epochs of fine-tuning after each pruning but the last."""

    epochs_end: int = 2
    """Epochs of fine-tuning after the last."""

    samples: int = 1000
    """Calibration samples whose gradients make the quadratic form of a pruning."""

    batch_size: int = 1
    """Samples whose mean gradient makes a row of it."""

    ridge: float = 0.01
    """Ridge of the form, relative to the mean of the curvature's diagonal."""

    train_samples: int | None = None
    """Calibration samples of an epoch, drawn anew for each; none: all."""

    train_batch: int = 128
    """Samples of a step of the optimizer."""

    optimizer: Optimizer = "SGD"
    """A class of torch.optim, made anew after every pruning, so that its momentum starts from zero."""

    learning_rate: float = 0.01
    """Its learning rate."""

    momentum: float | None = None
    """Its momentum; none: the optimizer's own."""

    weight_decay: float = 0.0
    """Its weight decay."""

    def __post_init__(self) -> None:
        counts = (("prunings", 1), ("epochs_between", 0), ("epochs_end", 0), ("train_batch", 1), ("train_samples", 1))
        for name, least in counts:
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidInput(f"coordinator gradual: {name} is {value!r}; choose a whole number from {least}")
        if self.schedule not in schedules.SCHEDULES:
            raise unknown_name("schedule", self.schedule, schedules.SCHEDULES)
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise InvalidInput(f"coordinator gradual: learning_rate is {self.learning_rate}; choose a positive number")
        _ = self.fisher

    @property
    def fisher(self) -> FisherOptions:
        """The options of the quadratic form."""
        return FisherOptions(samples=self.samples, batch_size=self.batch_size, ridge=self.ridge)


@dataclass(frozen=True)
class _Step:
    """A pruning (`epoch` 0), or an epoch of fine-tuning after it, counted from 1."""

    pruning: int
    keep: int
    epoch: int


@register
class Gradual(Coordinator):
    """Asks for a block, prunes, trains for some epochs, and repeats.

    Parameters of the network that are not pruned are trained too and are part of the state.
    """

    name: ClassVar[str] = "gradual"
    summary: ClassVar[str] = "Pruning to a rising sparsity, with fine-tuning under the mask between."
    reference: ClassVar[str] = "Zhu, Gupta: To prune, or not to prune, 2017"
    options_class: ClassVar[type] = GradualOptions
    flags: ClassVar[Mapping[str, str]] = {"prunings": "T", "learning_rate": "X"}
    needs_network: ClassVar[bool] = True
    default_mode: ClassVar[Mode] = "refit"
    validate_every: ClassVar[int] = 1
    large_blocks: ClassVar[bool] = True
    shares_passes: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._setting, self.options = setting, setting.options
        self._network: PrunableNetwork = setting.network
        self.weights: FloatArray = self._network.weights()
        self.mask: BoolArray = np.ones(self.weights.size, dtype=np.bool_)
        self._rng = np.random.default_rng(setting.seed)
        self._plan = _plan(setting.options, setting.density, self.weights.size)
        self._done = 0
        self._asked_from: Mapping[str, Any] | None = None
        """The random generator's state before the present block was asked for; None if no block is out."""
        self._tuner: Tuner | None = None

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse an unknown schedule, or densities that rise."""
        options: GradualOptions = setting.options
        schedules.densities(options.schedule, options.start_density, setting.density, options.prunings)

    @classmethod
    def begin(cls, setting: Setting) -> "Gradual":
        """Over a network, whose present weights are the dense ones.

        Raises
        ------
        InvalidInput   the optimizer does not accept the options
        """
        made = cls(setting)
        made._new_tuner()
        return made

    def network_facts(self) -> dict[str, Any]:
        """How gradients are computed, and which weights no calibration sample reaches."""
        from prunebench.curvature import reach
        from prunebench.curvature.gradient_ways import way_of

        network, problem, options = self._network, self._problem, self.options
        calibration = problem.calibration()
        count = min(options.samples, len(calibration))
        looked = spread(len(calibration), count, np.random.default_rng(calibration_seed(self._setting.seed)))
        way = way_of(network, problem.loss, calibration, looked, batch_size=options.batch_size)
        reached = reach.reached_by_gradients(network, problem.loss, calibration, looked)
        return {"gradients": asdict(way), "unreached": reach.unreached(network.layers, reached, count).as_json()}

    @property
    def total_steps(self) -> int | None:
        """Number of prunings and epochs."""
        return len(self._plan)

    def ask(self, count: int = 1) -> list[Task]:
        """The whole network as one block if a pruning is next; else []."""
        if self._asked_from is not None or self._done == len(self._plan) or self._plan[self._done].epoch:
            return []
        step = self._plan[self._done]
        self._network.assign(self.weights)
        self._asked_from = self._rng.bit_generator.state
        form = network_form(self._problem, self._network, self.options.fisher, self._rng)
        label = f"pruning {step.pruning + 1}"
        name = f"{self._setting.name}/{label}"
        block = BlockProblem(form, self.weights, step.keep, self._setting.mode, problem=name)
        return [Task(step.pruning, label, block)]

    def tell(self, task: Task, solution: Solution | None) -> Move:
        """Write the pruned weights into the network.

        Raises
        ------
        PrunebenchError   there is no solution to continue from
        """
        if solution is None:
            raise PrunebenchError(f"{task.block.name} was not solved; there is no answer to go on with")
        step, before = self._plan[self._done], self.mask
        self._network.assign(solution.weights)
        self.mask, self.weights = solution.mask, self._network.weights()
        self._done, self._asked_from, self._tuner = self._done + 1, None, None
        change = solution.objective - task.block.form.constant
        return Move(True, change, int((self.mask != before).sum()), self._details(step, "prune"))

    def advance(self) -> Move | None:
        """Train one epoch if one is next.

        Raises
        ------
        PrunebenchError   the loss is no longer finite
        """
        if self._done == len(self._plan) or not self._plan[self._done].epoch:
            return None
        clock, step = perf_counter(), self._plan[self._done]
        self._network.assign(self.weights)
        if self._tuner is None:
            self._tuner = self._new_tuner()
        drawn = np.random.SeedSequence(entropy=self._setting.seed, spawn_key=(6, self._done)).generate_state(1)
        loss = self._tuner.epoch(self._rng, self.options.train_samples, int(drawn[0]))
        self.weights = self._network.weights()
        self._done += 1
        more = {"epoch": step.epoch, "training_loss": loss, "seconds": perf_counter() - clock}
        return Move(True, None, 0, {**self._details(step, "train"), **more})

    @property
    def complete(self) -> bool:
        """Whether the last pruning is done."""
        return all(step.epoch for step in self._plan[self._done :])

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights, the model's other tensors, the optimizer's state, and the random generator's."""
        from prunebench.recovery.fine_tune import other_tensors

        remembered = self._tuner.state() if self._tuner is not None and self._within_epochs else {}
        arrays = {"mask": self.mask, "weights": self.weights, **other_tensors(self._network), **remembered}
        drawn = self._asked_from if self._asked_from is not None else self._rng.bit_generator.state
        return arrays, {"done": self._done, "draws": dict(drawn), "optimizer": list(remembered)}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished steps."""
        from prunebench.recovery.fine_tune import load_other_tensors

        mask, weights = checked_state(arrays, self.weights.size)
        done = checked_number(info, "done", most=len(self._plan))
        due = self._plan[done - 1].keep if done else self.weights.size
        if (kept := int(mask.sum())) != due:
            raise InvalidInput(f"{kept} weights are kept where {due} are due after {done} steps")
        names = {name for name in arrays if name.startswith(OPTIMIZER)}
        if names != set(info["optimizer"]):
            raise InvalidInput("what the optimizer remembers is not what the checkpoint says that it does")
        self._rng.bit_generator.state = info["draws"]
        load_other_tensors(self._network, arrays)
        self._network.assign(weights)
        self.mask, self.weights, self._done = mask.astype(np.bool_), weights.astype(np.float64), done
        self._asked_from, self._tuner = None, None
        if self._within_epochs:
            self._tuner = self._new_tuner()
            self._tuner.load({name: arrays[name] for name in names})

    @property
    def _problem(self) -> NetworkProblem:
        problem = self._setting.problem
        assert isinstance(problem, NetworkProblem)
        return problem

    @property
    def _within_epochs(self) -> bool:
        """Whether some epochs after the present pruning are done and others are not: the optimizer then continues."""
        if not 0 < self._done < len(self._plan):
            return False
        return self._plan[self._done - 1].epoch > 0 and self._plan[self._done].epoch > 0

    def _new_tuner(self) -> "Tuner":
        from prunebench.recovery.fine_tune import Tuner

        options = self.options
        settings = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
        settings |= {} if options.momentum is None else {"momentum": options.momentum}
        return Tuner(
            self._problem,
            self._network,
            self.mask,
            optimizer=options.optimizer,
            settings=settings,
            batch_size=options.train_batch,
        )

    def _details(self, step: _Step, kind: str) -> dict[str, Any]:
        return {"stage": step.pruning + 1, "kind": kind, "density": step.keep / self.weights.size}


def _plan(options: GradualOptions, density: float, size: int) -> list[_Step]:
    """Every pruning and the epochs after it."""
    out: list[_Step] = []
    parts = schedules.densities(options.schedule, options.start_density, density, options.prunings)
    for number, part in enumerate(parts):
        keep = keep_count(part, size)
        epochs = options.epochs_end if number == len(parts) - 1 else options.epochs_between
        out += [_Step(number, keep, epoch) for epoch in range(epochs + 1)]
    return out
