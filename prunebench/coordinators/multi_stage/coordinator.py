"""Multi-stage pruning: the density falls in stages, each with new gradients at the current weights.

Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 1 (CHITA++). Beyond the paper: every stage solves several
models of the same gradients (ridges and scales of the linear term) and takes the one with the lowest true loss
on samples that no model sees; if layers are recovered, it ranks by the layers' inputs instead. After every
stage the network is recovered (`prunebench.recovery`), by default settled if few weights are kept. No optimiser
trains anything.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.coordinators import schedules
from prunebench.coordinators.quotas import NetworkCount, NetworkQuota, QuotaKind, network_keeping, require_honoured
from prunebench.core.arrays import BoolArray, FloatArray, column_squares
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Task,
    checked_number,
    checked_state,
    count_of,
    fewer,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError, unknown_name
from prunebench.core.problem import NetworkProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.recovery import Division, Recovery, held_out, reserved
from prunebench.core.solution import Solution
from prunebench.curvature.fisher import fisher_form
from prunebench.recovery.steps.layers import Layers

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork

MOST_ROWS = 1000
"""Default number of gradient rows per stage, at most."""

REACH_SAMPLES = 1000
"""Samples that tell which weights are not reached: that pass is extra, and a stage may have far more samples."""


@dataclass(frozen=True, kw_only=True)
class MultiStageOptions:
    """Options of multi-stage pruning.

    Raises
    ------
    InvalidInput   a count, density or name is invalid; the message names it
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

    store: str = ""
    """Folder for a memory-mapped file of a stage's gradient rows, where they are larger than memory; empty: none."""

    def __post_init__(self) -> None:
        _ = self.quota_kind
        _require_whole("stages", self.stages, 1)
        for name in ("samples", "batch_size", "held_out"):
            if getattr(self, name) is not None:
                _require_whole(name, getattr(self, name), 1)
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
        """The quota, parsed."""
        return QuotaKind.parse(self.quota)


@dataclass(frozen=True)
class _Stage:
    """One stage: new gradients, then pruning to `keeping`. `number` is its position among the run's steps."""

    number: int
    keeping: NetworkCount | NetworkQuota

    @property
    def keep(self) -> int:
        """How many weights are kept after the stage."""
        return self.keeping.keep


REPLACED = {
    "batch_norm_samples": "batch-norm:samples=N, or a list without batch-norm",
    "settle": "settle:between=N",
    "settle_end": "settle:rounds=N",
    "settle_size": "settle:size=N",
    "settle_samples": "settle:samples=N",
    "layer_samples": "layers:samples=N",
    "layer_ridge": "layers:ridge=X",
    "layer_temperature": "layers:temperature=X",
    "follow": "follow:steps=N (and follow:between=N for the stages before the last)",
    "follow_end": "follow:steps=N, with follow:between=N for the stages before the last",
    "follow_samples": "follow:samples=N",
    "follow_ridge": "follow:ridge=X",
    "follow_rate": "follow:rate=X",
    "follow_below": "follow:below=X",
}
"""Options of earlier versions, with what replaces them."""


@register
class MultiStage(Coordinator):
    """Asks for a stage's candidate blocks, takes the best solution, and repeats until the last density is reached.

    Parameters
    ----------
    network : MovableNetwork     gives gradients and true losses; its division is that of `division`
    density : final share of kept weights, exactly round(density·p) of them
    mode : "refit" (pruned weights may come back), or "select"
    seed : of the samples drawn
    problem : name for messages
    recovery : what follows every stage; not run here, but its rounds take step numbers
    """

    name: ClassVar[str] = "multi-stage"
    summary: ClassVar[str] = "The density falls in stages, each from new gradients about the current weights."
    reference: ClassVar[str] = "Benbaki et al.: Fast as CHITA, ICML 2023, algorithm 1"
    options_class: ClassVar[type] = MultiStageOptions
    flags: ClassVar[Mapping[str, str]] = {"stages": "T", "schedule": "NAME"}
    needs_network: ClassVar[bool] = True
    shares_passes: ClassVar[bool] = True
    validate_every: ClassVar[int] = 1
    recovers_between: ClassVar[bool] = True
    default_recovery: ClassVar[tuple[str, ...]] = ("batch-norm", "settle")
    replaced_options: ClassVar[Mapping[str, str]] = REPLACED

    def __init__(
        self,
        network: "MovableNetwork",
        density: float,
        mode: Mode,
        options: MultiStageOptions,
        *,
        seed: int,
        problem: str = "",
        recovery: Sequence[Recovery] = (),
    ) -> None:
        self.options, self.mode, self.problem = options, mode, problem
        self._network, self._seed, self._recovery = network, seed, recovery
        self.weights: FloatArray = network.network.weights()
        self.mask: BoolArray = np.ones(self.weights.size, dtype=np.bool_)
        self._pool = network.division.pool
        self._samples, self._batch = _counts(options, self._pool.size + network.division.held.size)
        self.stages = self._plan(density)
        self._done = 0
        self._asked: list[Task] = []
        self._answers: dict[int, Solution] = {}
        self._waiting: list[Task] = []
        self._scores: list[tuple[float, float]] = []
        self._loss = float("nan")
        self._clock = 0.0
        self._setting: Setting | None = None

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse a quota that the density or the solver rules out."""
        options: MultiStageOptions = setting.options
        options.quota_kind.require_density(setting.density)
        require_honoured(setting.solver, options.quota_kind, "leave the quota out")

    @classmethod
    def begin(cls, setting: Setting) -> "MultiStage":
        """Over a network, whose present weights are the dense ones."""
        made = cls(
            setting.movable,
            setting.density,
            setting.mode,
            setting.options,
            seed=setting.seed,
            problem=setting.name,
            recovery=setting.recovery,
        )
        made._setting = setting
        made._fit_memory(setting)
        if any(isinstance(step, Layers) for step in setting.recovery) and not setting.movable.draws_labels:
            setting.say(
                "gradients are taken at the data's own targets: labels are drawn where targets are classes only"
            )
        return made

    def _fit_memory(self, setting: Setting) -> None:
        """Take means of more samples as rows where nothing is said of them and a stage's do not fit into memory."""
        from prunebench.curvature.gradients import fitting_batch

        if self.options.batch_size is not None or self.options.store:
            return
        batch = fitting_batch(self._samples, self._batch, self.weights.size)
        if batch != self._batch:
            setting.say(
                f"gradient rows of {self.weights.size:,} weights: {self._samples // batch:,} a stage, means of {batch} "
                f"samples, since {self._samples // self._batch:,} rows do not fit into memory (--store FOLDER holds "
                "them in a file)"
            )
            self._batch = batch

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """`held_out` samples judge both models and recovery; gradients use the others."""
        options: MultiStageOptions = setting.options
        _counts(options, total)
        return Division.of(total, setting.seed, options.held_out)

    @classmethod
    def curvature_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """A given ridge or scale becomes the only one tried."""
        out = {name: given[name] for name in ("samples", "batch_size", "store") if name in given}
        if "ridge" in given or "gradient_scale" in given:
            out["ridges"] = (given.get("ridge", 1.0),)
            out["gradient_scales"] = (given.get("gradient_scale", 0.0),)
        return out

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """If reduced, the held-out samples go to at most their default number, and a stage's samples to the rest."""
        held, samples = (count_of(MultiStageOptions, name, asked) for name in ("held_out", "samples"))
        usual = held_out(total)
        if (usual if held is None else held) + (1 if samples is None else samples) <= total:
            return {}
        out = {} if held is None else fewer(MultiStageOptions, "held_out", asked, min(held, usual), fixed)
        left = total - out.get("held_out", usual if held is None else held)
        return out | fewer(MultiStageOptions, "samples", asked, left, fixed)

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
        """The number of stages."""
        return len(self.stages)

    @property
    def stage_keeps(self) -> Sequence[int]:
        """How many weights each stage keeps."""
        return [stage.keep for stage in self.stages]

    @property
    def stages_done(self) -> int:
        """How many stages have pruned."""
        return self._done

    def take(self, weights: FloatArray) -> None:
        """Continue from recovered weights."""
        self.weights = weights

    def ask(self, count: int = 1) -> list[Task]:
        """One block per model of the current stage; [] while the last are being solved, and at the end."""
        if self._done == len(self.stages):
            return []
        if not self._waiting and not self._asked:
            self._begin(self.stages[self._done])
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        self._asked += now
        return now

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take a solution; after a stage's last one, choose by the true loss.

        Raises
        ------
        PrunebenchError   no model of the stage was solved, or none gives a finite loss
        """
        stage = self.stages[self._done]
        if solution is not None:
            self._answers[task.position - stage.number * len(self.options.ridges)] = solution
        self._asked = [held for held in self._asked if held.position != task.position]
        if self._asked or self._waiting:
            return None
        return self._finish(stage, task.block)

    @property
    def complete(self) -> bool:
        """Whether the last stage has pruned."""
        return self._done == len(self.stages)

    def check(self) -> None:
        """Raise PrunebenchError if the mask violates the count or quota of the last finished stage."""
        if self._done:
            self.stages[self._done - 1].keeping.require(self.mask)

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights and the number of finished stages."""
        return {"mask": self.mask, "weights": self.weights}, {"done": self._done}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished stages."""
        mask, weights = checked_state(arrays, self.weights.size)
        done = checked_number(info, "done", most=len(self.stages))
        due = self.stages[done - 1].keep if done else self.weights.size
        if (kept := int(mask.sum())) != due:
            raise InvalidInput(f"{kept} weights are kept where {due} are due after {done} stages")
        if done and (broken := self.stages[done - 1].keeping.violation(mask)):
            raise InvalidInput(broken)
        moved = weights != self.weights
        # in mode select a later stage may keep a pruned weight again, at its present value of zero
        if (not done and moved.any()) or (self.mode == "select" and (moved & (weights != 0.0)).any()):
            raise InvalidInput("kept weights are other than the dense ones")
        self.mask, self.weights = mask.astype(np.bool_), weights.astype(np.float64)
        self._done = done
        self._asked, self._waiting, self._answers = [], [], {}

    def _plan(self, density: float) -> list[_Stage]:
        options, layers = self.options, self._network.network.layers
        options.quota_kind.require_density(density)
        options.quota_kind.require_fit(layers)
        if options.densities:
            parts = schedules.checked_list(options.densities, density)
        else:
            first = options.start_density if options.start_density is not None else density**0.3
            parts = schedules.densities(options.schedule, first, density, options.stages)
        out: list[_Stage] = []
        number = 0
        for place, part in enumerate(parts):
            kind, held = options.quota_kind.on_the_way(part)
            stage = _Stage(number, network_keeping(kind, layers, held))
            out.append(stage)
            number += 1 + reserved(self._recovery, stage.keep, self.weights.size, place == len(parts) - 1)
        return out

    def _begin(self, stage: _Stage) -> None:
        """Compute the stage's gradients and prepare its tasks."""
        self._clock = perf_counter()
        self._answers = {}
        self._network.place(self.weights)
        self._loss = self._network.held_out_loss()
        rng = np.random.default_rng(np.random.SeedSequence(entropy=self._seed, spawn_key=(0, stage.number)))
        batch, store = self._batch, self.options.store
        positions = rng.choice(self._pool, self._samples, replace=False)
        # mini-batches keep the random order; single samples are read in storage order
        positions = positions if batch > 1 else np.sort(positions)
        if (layers := next((step for step in self._recovery if isinstance(step, Layers)), None)) is not None:
            self._scores = [(1.0, 0.0)]
            rows = self._network.fisher_rows(positions, batch, rng, layers.temperature, store)
            self._waiting.append(self._task(stage, 0, self._cost_form(rows, batch)))
            return
        rows = self._network.rows(positions, batch, store=store)
        gradient = rows.mean(axis=0, dtype=np.float64)
        whole = fisher_form(rows, self.weights, ridge=1.0, batch_size=batch, row_weight=self._network.row_weight)
        mean_diagonal = float(whole.ridge[0])
        self._scores = list(zip(self.options.ridges, self.options.gradient_scales, strict=True))
        for number, (ridge, scale) in enumerate(self._scores):
            form = whole.with_terms(ridge=ridge * mean_diagonal, linear=scale * gradient)
            self._waiting.append(self._task(stage, number, form))

    def _cost_form(self, rows: npt.NDArray[np.float32], batch: int) -> QuadraticForm:
        """A model that treats weights separately: the cost of removing each and refitting its layer's row."""
        curvature = column_squares(rows) * (batch * self._network.row_weight / len(rows))
        assert self._network.layers is not None
        costs = self._network.layers.costs(self.mask, curvature)
        nothing = np.zeros((1, costs.size), dtype=np.float32)
        return QuadraticForm(factor=nothing, ridge=costs, centre=self.weights)

    def _task(self, stage: _Stage, number: int, form: QuadraticForm) -> Task:
        label = f"stage {self._done + 1} {self._label(number)}"
        block = BlockProblem(
            form=form,
            dense_weights=self.weights,
            keep=stage.keep,
            mode=self.mode,
            indices=np.arange(self.weights.size),
            problem=f"{self.problem}/{label}" if self.problem else label,
            quota=stage.keeping.whole().quota,
        )
        return Task(stage.number * len(self.options.ridges) + number, label, block)

    def _finish(self, stage: _Stage, block: BlockProblem) -> Move:
        """Apply the solution with the lowest true loss on the held-out samples."""
        losses: dict[int, float] = {}
        for number, solution in sorted(self._answers.items()):
            self._network.place(solution.weights)
            losses[number] = self._network.held_out_loss()
        finite = {number: loss for number, loss in losses.items() if np.isfinite(loss)}
        if not finite:
            raise PrunebenchError(
                f"{block.name}: no model gives a finite loss; use larger ridges and smaller gradient_scales"
            )
        chosen = min(finite, key=lambda number: finite[number])
        solution, loss, before = self._answers[chosen], finite[chosen], self.mask
        self.weights, self.mask = solution.weights, solution.mask
        self._done += 1
        ridge, scale = self._scores[chosen]
        details = {
            "stage": self._done,
            "kind": "prune",
            "density": stage.keep / self.weights.size,
            "model_before": block.form.constant,
            "model_after": solution.objective,
            "true_before": self._loss,
            "true_after": loss,
            "true_change": loss - self._loss,
            "held_out_losses": {self._label(number): value for number, value in losses.items()},
            "ridge": ridge,
            "gradient_scale": scale,
            "came_back": int((self.mask & ~before).sum()),
            "seconds": perf_counter() - self._clock,
        }
        return Move(True, solution.objective - block.form.constant, int((self.mask != before).sum()), details)

    def _label(self, number: int) -> str:
        ridge, scale = self._scores[number]
        return f"ridge {ridge:g} scale {scale:g}"


def _counts(options: MultiStageOptions, total: int) -> tuple[int, int]:
    """Samples per stage and samples per row.

    Raises
    ------
    InvalidInput   there are fewer calibration samples than requested
    """
    held = options.held_out if options.held_out is not None else held_out(total)
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
    return samples, batch


def _require_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"coordinator multi-stage: {name} is {value!r}; choose a whole number from {least}")
