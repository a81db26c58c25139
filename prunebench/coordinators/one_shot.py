"""One-shot pruning: the whole network as one block, or one block a layer, from one quadratic form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import Move, Task, checked_number, checked_state
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.masks import keep_count, keep_per_layer
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Solution


@dataclass(frozen=True)
class Span:
    """A named stretch [start, stop) of the weight vector that forms one block."""

    name: str
    start: int
    stop: int


class OneShot:
    """A coordinator that solves every span once, in order, the others held where they stand.

    The quadratic form is restricted to the span at the current weights, so a later span sees what
    was done to the earlier ones. Every span keeps its share of round(density·p) by largest remainder.
    """

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
        PrunebenchError   there is no answer: a span cannot be left out
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

    def best(self) -> tuple[BoolArray, FloatArray]:
        """Mask and weights as they stand."""
        return self.mask, self.weights

    @property
    def complete(self) -> bool:
        """Whether every span is done."""
        return self._done == len(self.spans)

    def check(self) -> None:
        """Raise PrunebenchError where a span that is done keeps another number than its share."""
        for span, keep in zip(self.spans[: self._done], self.keep, strict=False):
            if (kept := int(self.mask[span.start : span.stop].sum())) != keep:
                raise PrunebenchError(f"{span.name} keeps {kept} weights instead of {keep}; please report this")

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, weights and how many spans are done."""
        return {"mask": self.mask, "weights": self.weights}, {"done": self._done}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the spans that are done."""
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
