"""How many groups of every family stay within a budget."""

import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.coordinators.structured.options import StructuredOptions
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.coordinator import Move, Setting
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples, spread

MEASURED = 9
"""The stream of random numbers that samples of measured curves are drawn from."""


class Counts:
    """Decides how many groups of every family stay, in the way that option allocation names, or within a time.

    Parameters
    ----------
    setting : with the options and the part that is kept;  found : the groups
    """

    def __init__(self, setting: Setting, found: Any) -> None:
        self._setting, self._found = setting, found
        self._options: StructuredOptions = setting.options
        self._families = found.families
        self.curves: dict[int, FloatArray] = {}
        """With allocation measured: by number of families that keep one count, rises at the counts of `levels`."""
        self._measured: Any = None
        self.times: Any = None
        """With budget latency: its table, and what measures networks (`prunebench.runs.latency.Times`)."""
        self.timed: Any = None
        """With budget latency: what was chosen, and its time."""

    def limit(self) -> float:
        """What may be kept, in the budget's unit.

        Raises
        ------
        InvalidInput   not even one group a family
        """
        from prunebench.structure.budget import require_reachable

        if self._options.budget == "latency":
            return math.nan
        cost = self._found.cost(self._options.budget)
        limit: float = self._setting.density * cost.total()
        require_reachable(cost, self._families, limit, self.steps())
        return limit

    def steps(self) -> Any:
        """How counts may be lowered: `prunebench.structure.budget.Steps`."""
        from prunebench.structure.budget import Steps

        return Steps(self._options.multiple, self._options.uniform, self._options.allocation != "score")

    def of(self, scores: Sequence[FloatArray]) -> list[int]:
        """The counts. scores : what the loss rises by if a group goes, by family

        Raises
        ------
        InvalidInput   the budget cannot be met
        """
        from prunebench.structure.budget import allocate, losses_of
        from prunebench.structure.shares import by_shares, density_shares, uniform_shares

        if self._options.budget == "latency":
            return self._within_time(scores)
        how, families, limit, steps = self._options.allocation, self._families, self.limit(), self.steps()
        cost = self._found.cost(self._options.budget)
        if how == "uniform":
            return by_shares(cost, families, uniform_shares(families), limit, steps)
        if how == "precropping":
            from prunebench.curvature.synflow import flow_densities

            return by_shares(
                cost, families, density_shares(families, flow_densities(self._found.coupling)), limit, steps
            )
        losses = self._measured_losses() if how == "measured" else losses_of(scores)
        return allocate(cost, families, losses, limit, steps)

    def _classes(self) -> Any:
        """Families that keep one count."""
        from prunebench.structure.budget import together

        return together(self._families, self.steps())

    def to_measure(self) -> list[int]:
        """Numbers of the classes that are still to be measured."""
        if self._options.allocation != "measured":
            return []
        return [k for k in range(len(self._classes())) if k not in self.curves]

    def levels(self, k: int) -> list[int]:
        """The counts at which a class is measured, falling."""
        from prunebench.recovery.measured_curves import levels

        held = self._classes()[k]
        return levels(self._families[held.numbers[0]].size, held.floor, held.step)

    def measure(
        self, masks: Callable[[Sequence[int]], list[BoolArray]], samples: Samples, positions: IndexArray,
        held: IndexArray,
    ) -> Move:  # fmt: skip
        """What the refitted network loses with fewer groups of the next class, all others being whole.

        masks : what is kept of every family with given counts
        samples, positions, held : the calibration samples, those of the refit, and those held out
        """
        from prunebench.recovery.measured_curves import Measured

        clock = perf_counter()
        if self._measured is None:
            most = self._options.measured_samples
            self._measured = Measured(
                self._found, masks,
                self._found.inputs(samples, positions[spread(positions.size, min(most, positions.size), self._rng(0))]),
                self._found.inputs(samples, held[spread(held.size, min(most, held.size), self._rng(1))]),
                scores=bool(self._found.tokens) or self._found.classifies(samples),
                ridge=self._options.ridge, seed=self._setting.seed,
            )  # fmt: skip
        k = self.to_measure()[0]
        numbers, rises = self._classes()[k].numbers, []
        for level in self.levels(k):
            counts = [family.size for family in self._families]
            for number in numbers:
                counts[number] = level
            rises.append(self._measured.rise(counts))
        self.curves[k] = np.array(rises)
        if not self.to_measure():
            self._measured = None
        details = {"kind": "measured", "family": self._families[numbers[0]].label, "counts": self.levels(k),
                   "rises": rises, "seconds": perf_counter() - clock}  # fmt: skip
        return Move(True, None, 0, details)

    def _measured_losses(self) -> list[FloatArray]:
        """By family, the rise if none, one, two … groups go, by measured curves."""
        from prunebench.recovery.measured_curves import curve

        out: list[FloatArray] = [np.zeros(0)] * len(self._families)
        for k, held in enumerate(self._classes()):
            size = self._families[held.numbers[0]].size
            shared = curve(size, self.levels(k), self.curves[k].tolist())[::-1] / len(held.numbers)
            for number in held.numbers:
                out[number] = shared
        return out

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._setting.seed, spawn_key=(MEASURED, number)))

    def use_times(self, times: Any) -> None:
        """Take a table of measured times, with what measures networks.

        Raises
        ------
        InvalidInput   the budget cannot be met by it
        """
        from prunebench.coordinators.structured.time_budget import curves_of, require_time

        self.times = times
        free = [np.zeros(family.size) for family in self._families]
        require_time(times.table, curves_of(times.table, self._families, free, self.steps()), self._setting.density)

    def _within_time(self, scores: Sequence[FloatArray]) -> list[int]:
        """Counts within a part of the dense network's measured time.

        Raises
        ------
        InvalidInput   there is no table
        """
        from prunebench.coordinators.structured.time_budget import within_time

        if self.times is None:
            raise InvalidInput("a budget of time needs a table of measured times, which a run makes; prune a network")
        part, say = self._setting.density, self._setting.say
        self.timed = within_time(self.times.table, self._families, scores, part, self.steps(), self.times.measure)
        self.times.keep()
        if self.timed.measured.part > part:
            say(
                f"latency: {self.timed.measured.part:.4f} of the time is the least that was found, and {part:g} was "
                "asked for; times that are added up say more than this network keeps"
            )
        counts: list[int] = self.timed.counts
        return counts

    def gate_budget(self, scores: Sequence[FloatArray], counts: Sequence[int]) -> Any:
        """The cost as a row over groups: `prunebench.structure.linear_cost.GateBudget`, its tangent at counts."""
        from prunebench.structure.linear_cost import GateBudget

        return GateBudget.of(self._found.cost(self._options.budget), self.limit(), scores, counts)
