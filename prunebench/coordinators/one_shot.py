"""One-shot pruning: the whole network as one block, or one block per layer, from one quadratic form."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.core import options as option_tools
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
    fewer,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError, SolverRefused
from prunebench.core.masks import keep_count, keep_per_layer
from prunebench.core.problem import NetworkProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Solution
from prunebench.core.solver import SolverLike, facts
from prunebench.curvature.fisher import FisherOptions, network_form


@dataclass(frozen=True)
class Span:
    """A named range [start, stop) of the weight vector that forms one block."""

    name: str
    start: int
    stop: int


@register
class OneShot(Coordinator):
    """Solves every span once, in order, with the others fixed at their current weights.

    The quadratic form is restricted to the span at the current weights, so later spans see the changes to
    earlier ones. Every span keeps its share of round(density·p) by largest remainder.
    """

    name: ClassVar[str] = "one-shot"
    summary: ClassVar[str] = "Solves every span of one quadratic form once, in order, the others held where they stand."
    takes: ClassVar[frozenset[str]] = frozenset({"scope", "curvature"})
    large_blocks: ClassVar[bool] = True
    shares_passes: ClassVar[bool] = True

    def __init__(
        self,
        form: QuadraticForm,
        dense_weights: npt.ArrayLike,
        density: float,
        mode: Mode,
        spans: Sequence[Span],
        problem: str = "",
    ) -> None:
        self.form = form
        self.dense_weights = np.asarray(dense_weights, dtype=np.float64)
        self.mode: Mode = mode
        self.spans = tuple(spans)
        self.keep = keep_per_layer(density, [span.stop - span.start for span in self.spans])
        self.total_keep = keep_count(density, form.p)
        self.problem = problem
        self.mask: BoolArray = np.ones(form.p, dtype=np.bool_)
        self.weights: FloatArray = self.dense_weights.copy()
        self._done = 0
        self._asked = False
        self._setting: Setting | None = None
        self._curvature = FisherOptions()

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse invalid curvature options before the network is loaded."""
        option_tools.build(FisherOptions, setting.curvature)
        if setting.scope == "layer" and not isinstance(setting.problem, NetworkProblem):
            raise InvalidInput(f"problem {setting.name!r} has no layers; leave --scope at network")

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """The samples of its curvature."""
        return fewer(FisherOptions, "samples", asked, total, fixed)

    @classmethod
    def begin(cls, setting: Setting) -> "OneShot":
        """From a network's empirical Fisher, or from the problem's own form.

        Raises
        ------
        SolverRefused   a span is larger than the solver takes
        """
        asked = (setting.density, setting.mode)
        if setting.block is not None:
            block = setting.block
            return cls(block.form, block.dense_weights, *asked, [Span("block", 0, block.p)], problem=setting.name)
        network, problem = setting.network, setting.problem
        assert isinstance(problem, NetworkProblem)
        curvature = _fitting(setting, network.total)
        layers = [Span(layer.name, layer.start, layer.stop) for layer in network.layers]
        spans = layers if setting.scope == "layer" else [Span("network", 0, network.total)]
        _require_size(setting.solver, max(span.stop - span.start for span in spans))
        form = network_form(problem, network, curvature, np.random.default_rng(calibration_seed(setting.seed)))
        setting.say(f"quadratic form from {curvature.samples} samples")
        made = cls(form, network.weights(), *asked, spans, problem=setting.name)
        made._setting, made._curvature = setting, curvature
        return made

    def network_facts(self) -> dict[str, Any]:
        """How the form's gradients were computed, and which weights no sample reaches."""
        from prunebench.curvature import reach
        from prunebench.curvature.gradient_ways import way_of

        if self._setting is None:
            return {}
        network, problem = self._setting.network, self._setting.problem
        assert isinstance(problem, NetworkProblem)
        curvature = self._curvature
        way = way_of(network, problem.loss, problem.calibration(), np.arange(1), batch_size=curvature.batch_size)
        missed = reach.unreached(network.layers, reach.reached_by_form(self.form), curvature.samples)
        return {"gradients": asdict(way), "unreached": missed.as_json()}

    @property
    def total_steps(self) -> int | None:
        """The number of spans."""
        return len(self.spans)

    def ask(self, count: int = 1) -> list[Task]:
        """The next span's block; [] while one is being solved, and at the end."""
        if count < 1 or self._asked or self._done == len(self.spans):
            return []
        span = self.spans[self._done]
        indices = np.arange(span.start, span.stop)
        whole = len(self.spans) == 1
        block = BlockProblem(
            form=self.form if whole else self.form.restrict(indices, self.weights),
            dense_weights=self.dense_weights[indices],
            keep=int(self.keep[self._done]),
            mode=self.mode,
            indices=indices,
            problem=f"{self.problem}/{span.name}" if self.problem else span.name,
        )
        self._asked = True
        return [Task(self._done, span.name, block)]

    def tell(self, task: Task, solution: Solution | None) -> Move:
        """Write the span's mask and weights.

        Raises
        ------
        PrunebenchError   there is no solution: a span cannot be left out
        """
        if solution is None:
            raise PrunebenchError(f"{task.block.name} was not solved; there is no answer to go on with")
        span = self.spans[task.position]
        before = task.block.form.value(self.weights[span.start : span.stop])
        self.mask[span.start : span.stop] = solution.mask
        self.weights[span.start : span.stop] = solution.weights
        self._done = task.position + 1
        self._asked = False
        return Move(True, solution.objective - before, int((~solution.mask).sum()))

    @property
    def complete(self) -> bool:
        """Whether every span is done."""
        return self._done == len(self.spans)

    def check(self) -> None:
        """Raise PrunebenchError if a finished span does not keep its share exactly."""
        for span, keep in zip(self.spans[: self._done], self.keep, strict=False):
            if (kept := int(self.mask[span.start : span.stop].sum())) != keep:
                raise PrunebenchError(f"{span.name} keeps {kept} weights instead of {keep}; please report this")

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights and the number of finished spans."""
        return {"mask": self.mask, "weights": self.weights}, {"done": self._done}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished spans."""
        mask, weights = checked_state(arrays, self.form.p)
        done = checked_number(info, "done", most=len(self.spans))
        for number, (span, keep) in enumerate(zip(self.spans, self.keep, strict=True)):
            part = slice(span.start, span.stop)
            due = int(keep) if number < done else span.stop - span.start
            if (kept := int(mask[part].sum())) != due:
                raise InvalidInput(f"{span.name} keeps {kept} weights where {due} are due")
            if (number >= done or self.mode == "select") and (
                weights[part] != np.where(mask[part], self.dense_weights[part], 0.0)
            ).any():
                raise InvalidInput(f"{span.name} has kept weights other than the dense ones")
        self.mask, self.weights = mask.astype(np.bool_), weights.astype(np.float64)
        self._done, self._asked = done, False


def _fitting(setting: Setting, weights: int) -> FisherOptions:
    """The curvature asked for; where nothing is said of rows and they do not fit into memory, fewer of more samples."""
    from prunebench.curvature.gradients import fitting_batch

    asked: FisherOptions = option_tools.build(FisherOptions, setting.curvature)
    if asked.store or "batch_size" in setting.curvature:
        return asked
    batch = fitting_batch(asked.samples, asked.batch_size, weights)
    if batch != asked.batch_size:
        setting.say(
            f"gradient rows of {weights:,} weights: {asked.samples // batch:,} means of {batch} samples, since "
            f"{asked.samples:,} rows do not fit into memory (--store FOLDER holds them in a file)"
        )
    return replace(asked, batch_size=batch)


def _require_size(solver: SolverLike, size: int) -> None:
    """Refuse a too large block before its gradients are computed."""
    largest = facts(solver).max_size
    if largest is not None and size > largest:
        raise SolverRefused(
            f"solver {solver.name!r} takes blocks of at most {largest:,} weights and one-shot pruning needs {size:,}; "
            f"use --coordinator icbs --block-size {min(largest, 64)}, --scope layer, or another solver"
        )
