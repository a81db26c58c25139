"""A coordinator as another package has it: random disjoint blocks, a step taken if the loss on other samples falls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunebench import BlockProblem, QuadraticForm, Solution
from prunebench.coordinators.landscape import landscape_of
from prunebench.core.coordinator import Coordinator, Move, Setting, Task, checked_number, checked_state
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, top_mask


@dataclass(frozen=True, kw_only=True)
class RandomBlocksOptions:
    """Options of random-blocks."""

    steps: int = 10
    """Steps, each with two blocks."""

    size: int = 32
    """Weights in a block."""


class RandomBlocks(Coordinator):
    """From the largest weights on, two random blocks a step; the count is exact because every block keeps its own."""

    name: ClassVar[str] = "random-blocks"
    summary: ClassVar[str] = "Two random blocks a step, taken if the loss on other samples falls."
    options_class: ClassVar[type] = RandomBlocksOptions
    flags: ClassVar[Mapping[str, str]] = {"steps": "N", "size": "P"}

    def __init__(self, setting: Setting) -> None:
        self._setting, self._landscape = setting, landscape_of(setting)
        dense = np.array(self._landscape.dense_weights, dtype=np.float64)
        self.mask = top_mask(np.abs(dense), keep_count(setting.density, dense.size))
        self.weights, self._dense = np.where(self.mask, dense, 0.0), dense
        half = self._landscape.samples // 2
        self._fit, self._judge = np.arange(half), np.arange(half, self._landscape.samples)
        self._step = 0
        self._tasks: list[Task] = []
        self._told: dict[int, Solution | None] = {}

    @classmethod
    def begin(cls, setting: Setting) -> "RandomBlocks":
        return cls(setting)

    @property
    def total_steps(self) -> int:
        return self._setting.options.steps

    def ask(self, count: int = 1) -> list[Task]:
        options = self._setting.options
        if not self._told and not self._tasks and self._step < options.steps:
            size = min(options.size, self.mask.size // 2)
            chosen = np.random.default_rng([self._setting.seed, self._step]).permutation(self.mask.size)
            self._landscape.place(self.weights)
            self._view = self._landscape.look(self._fit)
            self._out = [self._task(number, np.sort(chosen[number * size :][:size])) for number in range(2)]
            self._tasks = list(self._out)
        given, self._tasks = self._tasks[:count], self._tasks[count:]
        return given

    def _task(self, number: int, indices: np.ndarray) -> Task:
        factor = self._view.factor(indices)
        form = QuadraticForm(
            factor=factor,
            ridge=self._view.ridge(indices) + 0.1 * float((factor**2).sum(axis=0).mean()) + 1e-9,
            linear=self._view.slope(indices),
            centre=self.weights[indices],
        )
        keep, mode = int(self.mask[indices].sum()), self._setting.mode
        block = BlockProblem(form, self._dense[indices], keep, mode, indices=indices, problem=f"block {number}")
        return Task(2 * self._step + number, f"block {number}", block)

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        self._told[task.position] = solution
        if len(self._told) < 2:
            return None
        mask, weights = self.mask.copy(), self.weights.copy()
        for held in self._out:
            if (answer := self._told[held.position]) is not None:
                mask[held.block.indices], weights[held.block.indices] = answer.mask, answer.weights
        before = self._landscape.loss(self._judge)
        self._landscape.place(weights)
        change = self._landscape.loss(self._judge) - before
        if change < 0.0:
            changed, self.mask, self.weights = int((mask != self.mask).sum()), mask, weights
        self._told, self._step = {}, self._step + 1
        return Move(change < 0.0, None, changed if change < 0.0 else 0, {"true_change": change})

    @property
    def complete(self) -> bool:
        return True

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"mask": self.mask, "weights": self.weights}, {"step": self._step}

    def load_state_dict(self, arrays: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        mask, weights = checked_state(arrays, self.mask.size)
        self._step = checked_number(info, "step", most=self._setting.options.steps)
        if mask.sum() != self.mask.sum():
            raise InvalidInput(f"the mask keeps {mask.sum()} weights instead of {self.mask.sum()}")
        self.mask, self.weights, self._tasks, self._told = mask, weights.astype(np.float64), [], {}
