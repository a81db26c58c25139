"""Multi-stage pruning: the density falls in stages, each from new gradients about the current weights.

Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 1 (CHITA++). Beyond the paper: every stage solves
several models of its one set of gradients (ridge and scale of the linear term) and takes the one
with the lowest true loss on samples that no model sees; or it ranks by what each layer's inputs say and
refits the layers to their dense outputs (`layer_samples`). After it, and at the end, the kept weights
alone may be settled by steps of the same kind from more samples, or follow many small ones (`follow`),
each the minimum of a model of a few samples. Nothing is trained by an optimiser.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from prunebench.coordinators import schedules
from prunebench.coordinators.quotas import NetworkCount, NetworkQuota, QuotaKind, network_keeping, require_honoured
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray, RealArray, column_squares
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import Coordinator, Move, Setting, Task, checked_number, checked_state, register
from prunebench.core.errors import InvalidInput, PrunebenchError, unknown_name
from prunebench.core.problem import NetworkProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Solution
from prunebench.curvature.fisher import fisher_form
from prunebench.recovery.follow import Pace, small_steps

if TYPE_CHECKING:
    from prunebench.recovery.layer_refit import LayerRefit
    from prunebench.recovery.movable import MovableNetwork

MOST_ROWS = 1000
"""Gradient rows of a stage where the options leave them open."""

REACH_SAMPLES = 1000
"""Samples from which is told what is not reached: a stage may take many more, and that pass is extra."""


@dataclass(frozen=True, kw_only=True)
class MultiStageOptions:
    """Options of multi-stage pruning.

    Raises
    ------
    InvalidInput   a count, density or name that makes no sense; the message names it
    """

    stages: int = 15
    """Stages, each with its own gradients."""

    schedule: str = "geometric"
    """How the density falls: polynomial, exponential, geometric, linear or constant."""

    quota: str | None = None
    """What is kept exactly: none, layer, row, or N:M; stages before the last keep as many of M as they need."""

    start_density: float | None = None
    """Density of the first stage; none: the density asked for to the power of 0.3 (0.31 for 0.02)."""

    densities: tuple[float, ...] = ()
    """The densities of all stages, one by one; they take the place of stages, schedule and start_density."""

    samples: int | None = None
    """Calibration samples of a stage; none: 8,000, or four fifths of all where there are fewer than 10,000."""

    batch_size: int | None = None
    """Samples whose mean gradient makes a row; none: as few as give at most 1,000 rows."""

    ridges: tuple[float, ...] = (0.03, 1.0, 10.0)
    """Ridges of the models tried, relative to the mean of the curvature's diagonal."""

    gradient_scales: tuple[float, ...] = (0.0, 0.3, 1.0)
    """Factors of the mean gradient in the models tried, one beside each ridge."""

    held_out: int | None = None
    """Calibration samples on which the true loss decides; none: 3,000, or a fifth of all."""

    batch_norm_samples: int = 2000
    """Calibration samples over which batch-norm statistics are re-estimated, where the network has them; 0: never."""

    settle: int = 2
    """Rounds after a stage in which only the kept weights move; mode refit, and not with many kept weights."""

    settle_end: int = 10
    """The same after the last stage; the rounds end when one does not lower the held-out loss."""

    settle_size: int = 3000
    """More kept weights than this are not settled."""

    settle_samples: int = 15000
    """Calibration samples of a settling round; a few for each kept weight, or the round fits those alone."""

    store: str = ""
    """Folder for a memory-mapped file of a stage's gradient rows, where they are larger than memory; empty: none."""

    layer_samples: int = 0
    """Calibration samples on which layers are refitted to their dense outputs; 0: the Fisher model's weights stay."""

    layer_ridge: float = 0.01
    """Ridge of the layers' refits, relative to the mean diagonal of the Gram matrix of a layer's inputs."""

    layer_temperature: float = 4.0
    """Softens the network's predictions, of which the Fisher matrix says what each output row of a layer counts."""

    follow: int = 0
    """Small steps of the kept weights after every stage, each to the minimum of a model of a few fresh samples."""

    follow_end: int | None = None
    """The same after the last stage; none: as many as after the others."""

    follow_samples: int = 100
    """Calibration samples, and rows, of a small step."""

    follow_ridge: float = 5.0
    """Ridge of the small steps' models, relative to the mean eigenvalue of their rows' curvature."""

    follow_rate: float = 0.2
    """How far small steps go along the mean gradient where there is no curvature; halved when a stage's do not help."""

    follow_below: float = 1.0
    """Stages of at most this density are followed by small steps."""

    def __post_init__(self) -> None:
        _ = self.quota_kind
        for name in ("follow_ridge", "follow_rate", "layer_ridge", "layer_temperature"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0.0):
                raise InvalidInput(f"coordinator multi-stage: {name} is {value!r}; choose a positive number")
        for name, least in (("follow", 0), ("follow_samples", 1)):
            _require_whole(name, getattr(self, name), least)
        for name, least in (("stages", 1), ("settle", 0), ("settle_end", 0), ("settle_samples", 1)):
            _require_whole(name, getattr(self, name), least)
        for name, least in (("samples", 1), ("batch_size", 1), ("held_out", 1), ("follow_end", 0)):
            if getattr(self, name) is not None:
                _require_whole(name, getattr(self, name), least)
        for name, least in (("batch_norm_samples", 0), ("settle_size", 0), ("layer_samples", 0)):
            _require_whole(name, getattr(self, name), least)
        if self.schedule not in schedules.SCHEDULES:
            raise unknown_name("schedule", self.schedule, schedules.SCHEDULES)
        if self.start_density is not None and not 0.0 < self.start_density <= 1.0:
            raise InvalidInput(f"coordinator multi-stage: start_density is {self.start_density}; choose above 0 to 1")
        if not self.ridges or len(self.ridges) != len(self.gradient_scales):
            raise InvalidInput(
                f"coordinator multi-stage: there are {len(self.ridges)} ridges and {len(self.gradient_scales)} "
                "gradient_scales; give as many of each, at least one"
            )
        for name in ("ridges", "gradient_scales"):
            for value in getattr(self, name):
                if not (np.isfinite(value) and value >= 0.0) or (name == "ridges" and value == 0.0):
                    raise InvalidInput(f"coordinator multi-stage: {name} holds {value!r}; ridges are positive")

    @cached_property
    def quota_kind(self) -> QuotaKind:
        """The quota as it is read from its name."""
        return QuotaKind.parse(self.quota)


@dataclass(frozen=True)
class _Step:
    """One look at the network: to prune it to what `keeping` says, or to settle the kept weights."""

    stage: int
    kind: Literal["prune", "settle"]
    keeping: NetworkCount | NetworkQuota

    @property
    def keep(self) -> int:
        """How many weights are kept once the step is done."""
        return self.keeping.keep


@register
class MultiStage(Coordinator):
    """Ask for a step's candidate blocks, tell their answers, until the last density is reached and settled.

    Parameters
    ----------
    network : MovableNetwork     gives gradients, true losses and batch-norm statistics
    total : calibration samples there are
    density : the part that is kept in the end, exactly round(density·p) weights
    mode : "refit" (pruned weights may come back), or "select"
    seed : of the samples drawn
    problem : a name for messages
    """

    name: ClassVar[str] = "multi-stage"
    summary: ClassVar[str] = "The density falls in stages, each from new gradients about the current weights."
    reference: ClassVar[str] = "Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 1"
    options_class: ClassVar[type] = MultiStageOptions
    flags: ClassVar[Mapping[str, str]] = {"stages": "T", "schedule": "NAME"}
    needs_network: ClassVar[bool] = True
    validate_every: ClassVar[int] = 1

    def __init__(
        self,
        network: "MovableNetwork",
        total: int,
        density: float,
        mode: Mode,
        options: MultiStageOptions,
        *,
        seed: int,
        problem: str = "",
    ) -> None:
        self.options, self.mode, self.problem = options, mode, problem
        self._network, self._seed = network, seed
        if options.layer_samples and mode == "select":
            raise InvalidInput(
                "coordinator multi-stage: layers are refitted (layer_samples), but mode select keeps the weights' "
                "values; use --mode refit"
            )
        self.weights: FloatArray = network.network.weights()
        self.mask: BoolArray = np.ones(self.weights.size, dtype=np.bool_)
        self._samples, self._batch, self._held, self._pool = _division(options, total, seed)
        self.steps = self._plan(density)
        self._done = 0
        self._asked: list[Task] = []
        self._answers: dict[int, Solution] = {}
        self._waiting: list[Task] = []
        self._scores: list[tuple[float, float]] = []
        self._loss = float("nan")
        self._clock = 0.0
        self._rate = options.follow_rate
        self._setting: Setting | None = None

    @classmethod
    def require(cls, setting: Setting) -> None:
        """A quota is one that density and solver can keep."""
        options: MultiStageOptions = setting.options
        options.quota_kind.require_density(setting.density)
        require_honoured(setting.solver, options.quota_kind, "leave the quota out")

    @classmethod
    def begin(cls, setting: Setting) -> "MultiStage":
        """Over a network, whose weights now are the dense ones."""
        from prunebench.recovery.layer_refit import LayerRefit
        from prunebench.recovery.movable import MovableNetwork

        options: MultiStageOptions = setting.options
        network, problem, seed = setting.network, setting.problem, setting.seed
        assert isinstance(problem, NetworkProblem)
        calibration = problem.calibration()
        total = len(calibration)
        refitted = layer_positions(options, total, seed)
        layers = LayerRefit(network, calibration, refitted, ridge=options.layer_ridge) if refitted.size else None
        movable = MovableNetwork(problem, network, statistics_positions(options, total, seed), layers)
        made = cls(movable, total, setting.density, setting.mode, options, seed=seed, problem=setting.name)
        made._setting = setting
        return made

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """One ridge or scale given is the only one tried."""
        out = {name: given[name] for name in ("samples", "batch_size", "store") if name in given}
        if "ridge" in given or "gradient_scale" in given:
            out["ridges"] = (given.get("ridge", 1.0),)
            out["gradient_scales"] = (given.get("gradient_scale", 0.0),)
        return out

    def network_facts(self) -> dict[str, Any]:
        """How gradients are computed, and which weights a stage's samples do not reach."""
        from prunebench.curvature import reach
        from prunebench.curvature.gradient_ways import way_of

        if self._setting is None:
            return {}
        network, problem = self._setting.network, self._setting.problem
        assert isinstance(problem, NetworkProblem)
        calibration, looked = problem.calibration(), self._pool[: min(self._samples, REACH_SAMPLES)]
        way = way_of(network, problem.loss, calibration, looked, batch_size=self._batch)
        reached = reach.reached_by_gradients(network, problem.loss, calibration, looked)
        missed = reach.unreached(network.layers, reached, looked.size)
        return {"gradients": asdict(way), "unreached": missed.as_json()}

    @property
    def total_steps(self) -> int | None:
        """Stages and settling rounds; fewer are made where settling stops helping."""
        return len(self.steps)

    def place(self, network: Any, weights: RealArray) -> None:
        """Put weights into the network, its batch-norm statistics brought up to date."""
        self._network.place(np.asarray(weights, dtype=np.float64))

    def ask(self, count: int = 1) -> list[Task]:
        """Blocks of the step under way, one for each model tried; [] while the last are out and at the end."""
        if self._done == len(self.steps):
            return []
        if not self._waiting and not self._asked:
            self._begin(self.steps[self._done])
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        self._asked += now
        return now

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take an answer; with the last of a step, choose by the true loss.

        Raises
        ------
        PrunebenchError   no model of the step was solved, or the loss is not finite with any of them
        """
        if solution is not None:
            self._answers[task.position - self._done * len(self.options.ridges)] = solution
        self._asked = [held for held in self._asked if held.position != task.position]
        if self._asked or self._waiting:
            return None
        return self._finish(self.steps[self._done], task.block)

    @property
    def complete(self) -> bool:
        """Whether the last stage has pruned; settling after it changes no count."""
        return self._done > max(number for number, step in enumerate(self.steps) if step.kind == "prune")

    def check(self) -> None:
        """Raise PrunebenchError where the mask breaks the count or quota of the last stage that is done."""
        if self._done:
            self.steps[self._done - 1].keeping.require(self.mask)

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights, how many steps are done and the rate of small steps."""
        return {"mask": self.mask, "weights": self.weights}, {"done": self._done, "rate": self._rate}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the steps that are done."""
        mask, weights = checked_state(arrays, self.weights.size)
        done, rate = checked_number(info, "done", most=len(self.steps)), info.get("rate", self.options.follow_rate)
        if not isinstance(rate, (int, float)) or not 0.0 < rate <= self.options.follow_rate:
            raise InvalidInput(f"the rate of small steps is {rate!r}")
        due = self.steps[done - 1].keep if done else self.weights.size
        if (kept := int(mask.sum())) != due:
            raise InvalidInput(f"{kept} weights are kept where {due} are due after {done} steps")
        if done and (broken := self.steps[done - 1].keeping.violation(mask)):
            raise InvalidInput(broken)
        moved = weights != self.weights
        # In mode select a weight that was pruned may be kept again by a later stage, as the zero that it is now.
        if (not done and moved.any()) or (self.mode == "select" and (moved & (weights != 0.0)).any()):
            raise InvalidInput("kept weights are other than the dense ones")
        self.mask, self.weights = mask.astype(np.bool_), weights.astype(np.float64)
        self._done, self._rate = done, float(rate)
        self._asked, self._waiting, self._answers = [], [], {}

    def _plan(self, density: float) -> list[_Step]:
        options, layers = self.options, self._network.network.layers
        options.quota_kind.require_density(density)
        options.quota_kind.require_fit(layers)
        out: list[_Step] = []
        if options.densities:
            stages = schedules.checked_list(options.densities, density)
        else:
            first = options.start_density if options.start_density is not None else density**0.3
            stages = schedules.densities(options.schedule, first, density, options.stages)
        for stage, part in enumerate(stages):
            kind, held = options.quota_kind.on_the_way(part)
            keeping = network_keeping(kind, layers, held)
            out.append(_Step(stage, "prune", keeping))
            rounds = options.settle_end if stage == len(stages) - 1 else options.settle
            if self.mode == "refit" and keeping.keep <= options.settle_size:
                out += [_Step(stage, "settle", keeping)] * rounds
        return out

    def _begin(self, step: _Step) -> None:
        """Look at the network and make the step's tasks."""
        self._clock = perf_counter()
        self._answers = {}
        self._network.place(self.weights)
        self._loss = self._network.loss(self._held)
        rng = np.random.default_rng(np.random.SeedSequence(entropy=self._seed, spawn_key=(0, self._done)))
        settling = step.kind == "settle"
        chosen = np.flatnonzero(self.mask) if settling else np.arange(self.weights.size)
        if settling:
            count, batch = min(self.options.settle_samples, self._pool.size), 1
        else:
            count, batch = self._samples, self._batch
        positions = rng.choice(self._pool, count, replace=False)
        # mini-batches keep the random order; single samples are read in theirs
        positions = positions if batch > 1 else np.sort(positions)
        store = self.options.store
        if self._network.layers is not None and not settling:
            self._scores = [(1.0, 0.0)]
            rows = self._network.fisher_rows(positions, batch, rng, self.options.layer_temperature, store)
            self._waiting.append(self._task(step, 0, self._cost_form(self._network.layers, rows, batch), chosen))
            return
        rows = self._network.rows(positions, batch, chosen if settling else None, store)
        gradient = rows.mean(axis=0, dtype=np.float64)
        whole = fisher_form(
            rows, self.weights[chosen], ridge=1.0, batch_size=batch, row_weight=self._network.row_weight
        )
        mean_diagonal = float(whole.ridge[0])
        # over few weights there are more rows than unknowns, so the whole gradient counts
        scales = (1.0,) * len(self.options.ridges) if settling else self.options.gradient_scales
        self._scores = list(zip(self.options.ridges, scales, strict=True))
        for number, (ridge, scale) in enumerate(self._scores):
            form = whole.with_terms(ridge=ridge * mean_diagonal, linear=scale * gradient)
            self._waiting.append(self._task(step, number, form, chosen))

    def _cost_form(self, layers: "LayerRefit", rows: npt.NDArray[np.float32], batch: int) -> QuadraticForm:
        """A model of each weight by itself: what it costs to remove it and to refit its layer's row."""
        curvature = column_squares(rows) * (batch * self._network.row_weight / len(rows))
        costs = layers.costs(self.mask, curvature)
        nothing = np.zeros((1, costs.size), dtype=np.float32)
        return QuadraticForm(factor=nothing, ridge=costs, centre=self.weights)

    def _task(self, step: _Step, number: int, form: QuadraticForm, chosen: IndexArray) -> Task:
        ridge, scale = self._scores[number]
        label = f"stage {step.stage + 1} {step.kind} ridge {ridge:g} scale {scale:g}"
        block = BlockProblem(
            form=form,
            dense_weights=self.weights[chosen],
            keep=step.keep,
            mode=self.mode,
            indices=chosen,
            problem=f"{self.problem}/{label}" if self.problem else label,
            quota=None if step.kind == "settle" else step.keeping.whole().quota,
        )
        return Task(self._done * len(self.options.ridges) + number, label, block)

    def _finish(self, step: _Step, block: BlockProblem) -> Move:
        """Apply the answer with the lowest true loss on the held-out samples."""
        losses: dict[int, float] = {}
        for number, solution in sorted(self._answers.items()):
            self._network.place(self._whole(block, solution))
            losses[number] = self._network.loss(self._held)
        finite = {number: loss for number, loss in losses.items() if np.isfinite(loss)}
        if not finite:
            raise PrunebenchError(
                f"{block.name}: no model gives a finite loss; use larger ridges and smaller gradient_scales"
            )
        chosen = min(finite, key=lambda number: finite[number])
        solution, loss = self._answers[chosen], finite[chosen]
        accepted = step.kind == "prune" or loss < self._loss
        before = self.mask.copy()
        if accepted:
            self.weights = self._whole(block, solution)
            assert block.indices is not None
            self.mask = np.zeros_like(self.mask)
            self.mask[block.indices[solution.mask]] = True
        pruned_loss = loss
        if step.kind == "prune" and self._network.layers is not None:
            loss = self._refit_layers(loss)
        refitted_loss = loss
        if step.kind == "prune" and step.keep <= self.options.follow_below * self.weights.size:
            last = self._done == max(number for number, held in enumerate(self.steps) if held.kind == "prune")
            end = self.options.follow_end
            loss = self._follow(loss, end if last and end is not None else self.options.follow)
        self._done += 1
        if step.kind == "settle" and not accepted:
            self._skip_settling(step.stage)
        ridge, scale = self._scores[chosen]
        details = {
            "stage": step.stage + 1,
            "kind": step.kind,
            "density": step.keep / self.weights.size,
            "model_before": block.form.constant,
            "model_after": solution.objective,
            "true_before": self._loss,
            "true_after": loss,
            "true_after_pruning": pruned_loss,
            "true_after_layers": refitted_loss,
            "true_change": loss - self._loss,
            "held_out_losses": {self._label(number): value for number, value in losses.items()},
            "ridge": ridge,
            "gradient_scale": scale,
            "came_back": int((self.mask & ~before).sum()),
            "seconds": perf_counter() - self._clock,
        }
        return Move(accepted, solution.objective - block.form.constant, int((self.mask != before).sum()), details)

    def _refit_layers(self, loss: float) -> float:
        """Refit the layers to their dense outputs if it lowers the held-out loss. -> the loss then"""
        refitted = self._network.refitted(self.weights, self.mask)
        self._network.place(refitted)
        found = self._network.loss(self._held)
        if not found < loss:
            return loss
        self.weights = refitted
        return found

    def _follow(self, loss: float, steps: int) -> float:
        """Take small steps; keep a point of theirs if it lowers the held-out loss. -> the loss then

        loss : the held-out loss at the weights as they stand;  steps : how many to take
        """
        if not steps or self.mode == "select":
            return loss
        rng = np.random.default_rng(np.random.SeedSequence(entropy=self._seed, spawn_key=(3, self._done)))
        pace = Pace(steps, self.options.follow_samples, self.options.follow_ridge, self._rate)
        points = small_steps(self._network, self.weights, self.mask, self._pool, rng, pace)
        before = loss
        for point in points:
            self._network.place(point)
            found = self._network.loss(self._held)
            if found < loss:
                loss, self.weights = found, point
        if loss == before:
            self._rate /= 2.0
        return loss

    def _label(self, number: int) -> str:
        ridge, scale = self._scores[number]
        return f"ridge {ridge:g} scale {scale:g}"

    def _skip_settling(self, stage: int) -> None:
        """Leave out the stage's other settling rounds: the one before did not help."""
        while self._done < len(self.steps) and (self.steps[self._done].stage, self.steps[self._done].kind) == (
            stage,
            "settle",
        ):
            self._done += 1

    def _whole(self, block: BlockProblem, solution: Solution) -> FloatArray:
        out = np.zeros_like(self.weights)
        assert block.indices is not None
        out[block.indices] = solution.weights
        return out


def statistics_positions(options: MultiStageOptions, total: int, seed: int) -> IndexArray:
    """The calibration samples over which batch-norm statistics are re-estimated: of the pool, not held out."""
    pool = _division(options, total, seed)[3]
    return pool[: min(options.batch_norm_samples, pool.size)]


def layer_positions(options: MultiStageOptions, total: int, seed: int) -> IndexArray:
    """The calibration samples on which layers are refitted: of the pool, not held out.

    Raises
    ------
    InvalidInput   more than there are
    """
    pool = _division(options, total, seed)[3]
    if options.layer_samples > pool.size:
        raise InvalidInput(
            f"coordinator multi-stage: layer_samples is {options.layer_samples}, but only {pool.size} samples are not "
            "held out; take fewer"
        )
    return pool[: options.layer_samples]


def _division(options: MultiStageOptions, total: int, seed: int) -> tuple[int, int, IndexArray, IndexArray]:
    """Samples a stage, samples a row, held-out positions, and the positions gradients are drawn from.

    Raises
    ------
    InvalidInput   there are fewer calibration samples than asked for
    """
    held = options.held_out if options.held_out is not None else min(3000, max(1, total // 5))
    samples = options.samples if options.samples is not None else min(8000, total - held)
    if held + samples > total or samples < 1:
        raise InvalidInput(
            f"coordinator multi-stage: {samples} samples and {held} held out are more than the {total} "
            "calibration samples there are; take fewer"
        )
    batch = options.batch_size if options.batch_size is not None else -(-samples // MOST_ROWS)
    if batch > samples:
        raise InvalidInput(
            f"coordinator multi-stage: batch_size is {batch} but samples is {samples}; take more samples"
        )
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(2,)))
    order = rng.permutation(total).astype(np.int64)
    return samples, batch, np.sort(order[:held]), order[held:]


def _require_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"coordinator multi-stage: {name} is {value!r}; choose a whole number from {least}")
