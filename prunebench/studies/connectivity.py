"""Do two trainings of a mask end in one valley: the error along the line between them, and their features' likeness.

Frankle et al.: Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020; the numbers of Zhou et al., A
Three-regime Model of Network Pruning, ICML 2023, over temperature (epochs of dense training) and load (density).
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, top_mask
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.studies import between_runs, candidates
from prunebench.studies.findings import Curve, Findings, Grid, Plot, values_of
from prunebench.studies.study import Setting, State, Study, require_density, require_from, require_labels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Line:
    """The line between two networks.

    parts : 0 to 1, where it was looked at;  errors : on calibration samples there, fractions. float64 (points,)
    """

    parts: FloatArray
    errors: FloatArray

    @property
    def barrier(self) -> float:
        """How far the error rises above the straight line between both ends, 0 or more."""
        straight = (1.0 - self.parts) * self.errors[0] + self.parts * self.errors[-1]
        return float((self.errors - straight).max())


@dataclass(frozen=True)
class Cell:
    """A mask's two trainings. dense_epochs : None for the problem's own dense network"""

    dense_epochs: int | None
    density: float
    dense_accuracy: float
    accuracy: tuple[float, float]
    line: Line
    similarity: float | None


@dataclass(frozen=True, kw_only=True)
class Connectivity(Study):
    """Masks by magnitude over density and dense training, each trained twice with another order of the samples."""

    name: ClassVar[str] = "connectivity"
    summary: ClassVar[str] = "Do two trainings of the same mask end in one valley?"
    reference: ClassVar[str] = "Zhou et al.: A Three-regime Model of Network Pruning, ICML 2023"

    densities: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05, 0.02)
    """The parts of the weights that masks keep: the load."""

    dense_epochs: tuple[int, ...] = ()
    """Lengths of dense training from a new initialisation, by the same protocol: the temperature, where few is hot.
    Empty: the problem's own network."""

    epochs: int = 20
    """Length of the two trainings of every mask."""

    points: int = 11
    """Points of the line between them, both ends counted."""

    runs: tuple[str, ...] = ()
    """Directories of two finished runs: the line between their networks, as they were trained last, in place of masks
    that the study makes and trains."""

    def check(self) -> None:
        """Refuse densities and lengths that cannot be, and a line without a point between its ends."""
        require_density(self, *self.densities)
        require_from(self, 1, "epochs")
        require_from(self, 3, "points")
        if self.dense_epochs:
            require_from(self, 1, "dense_epochs")
        for name in ("densities", "dense_epochs"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InvalidInput(f"study {self.name}: {name} has a value twice; leave it out once")
        if not self.runs:
            return
        usual = {item.name: item.default for item in fields(self)}
        for name in ("densities", "dense_epochs", "epochs", "protocol"):
            if getattr(self, name) != usual[name]:
                raise InvalidInput(f"study {self.name}: {name} is of masks that it trains; leave it out beside runs")

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse runs of other networks too, and others than two."""
        if self.runs:
            between_runs.require_two(self.runs)
        return candidates.require_runs(super().require(problem), self.runs)

    def run(self, setting: Setting) -> Findings:
        """For every dense network: prune at all densities, train twice, walk the line."""
        classes = require_labels(setting.problem, setting.network, self.name)
        if self.runs:
            return between_runs.between(setting, self.runs, classes, partial(self._way, setting))
        base = setting.network.state()
        cells = []
        for length in self.dense_epochs or (None,):
            if length is not None:
                self._train_dense(setting, length)
            cells += self._cells(setting, length, classes)
            setting.network.load_state(base)
        return _findings(cells)

    def _way(self, setting: Setting, one: State, other: State) -> tuple[FloatArray, FloatArray, float]:
        """Parts of the way, errors there, and the barrier."""
        line = walked(setting, one, other, self.points)
        return line.parts, line.errors, line.barrier

    def _train_dense(self, setting: Setting, epochs: int) -> None:
        """Put a newly initialised network into place, trained for so many epochs."""
        from prunebench.recovery.training.starts import trainer

        network = setting.network
        protocol = replace(self.training(epochs, self.seed), start=f"fresh:{self.seed}")
        training = trainer(setting.problem, network, np.ones(network.total, dtype=np.bool_), protocol)
        while not training.done:
            training.epoch()
            setting.told("epochs of dense training", len(training.epochs), epochs)
        training.finish()

    def _cells(self, setting: Setting, dense_epochs: int | None, classes: int) -> list[Cell]:
        from prunebench.recovery.training.many import judge_model, trained
        from prunebench.studies.features import cka, features_of, last_layer

        problem, network = setting.problem, setting.network
        size, base = np.abs(network.weights()), network.state()
        dense = float(judge_model(problem, network.model).validation.accuracy[0])
        masks = np.array([top_mask(size, keep_count(density, size.size)) for density in self.densities])
        ends: list[list[State]] = []
        for seed in (self.seed + 1, self.seed + 2):
            told = partial(setting.told, f"masks trained, order {seed - self.seed}")
            lots = trained(problem, network, masks, self.training(self.epochs, seed), told=told)
            ends.append([state for copies in lots for state in copies.states()])
        layer = last_layer(network.model, classes)
        inputs = problem.validation().batch(np.arange(len(problem.validation())))[0]
        out = []
        for number, density in enumerate(self.densities):
            pair, accuracy, features = (ends[0][number], ends[1][number]), [], []
            for state in pair:
                network.load_state(state)
                accuracy.append(float(judge_model(problem, network.model).validation.accuracy[0]))
                if layer is not None:
                    features.append(features_of(network.model, layer, inputs).values)
            line = walked(setting, *pair, self.points)
            alike = cka(features[0], features[1]) if features else None
            out.append(Cell(dense_epochs, density, dense, (accuracy[0], accuracy[1]), line, alike))
            setting.told("lines", number + 1, len(self.densities))
        network.load_state(base)
        return out


def walked(setting: Setting, one: State, other: State, points: int) -> Line:
    """The error on calibration samples along the line between two states of the network, which is left as it is.

    Batch norms between the ends have their statistics averaged anew, which else belong to neither.
    """
    from prunebench.recovery.batch_norm import batch_norms, reestimate_batch_norm
    from prunebench.recovery.training.many import judge, looked_at, outputs_of

    network, calibration = setting.network, setting.problem.calibration()
    base, looked = network.state(), looked_at(setting.problem.calibration())
    parts, errors = np.linspace(0.0, 1.0, points), np.empty(points)
    for number, part in enumerate(parts):
        network.load_state({name: _between(one[name], other[name], float(part)) for name in one})
        if 0.0 < part < 1.0 and batch_norms(network.model):
            reestimate_batch_norm(network.model, calibration, looked)
        found = judge(outputs_of(network.model), setting.problem, calibration, looked)
        errors[number] = 1.0 - float(found.accuracy[0])
    network.load_state(base)
    return Line(parts, errors)


def _between(one: "torch.Tensor", other: "torch.Tensor", part: float) -> "torch.Tensor":
    """A point of the line; counters, which are whole numbers, are the first one's."""
    return one + part * (other - one) if one.is_floating_point() else one


def _findings(cells: list[Cell]) -> Findings:
    def dense(cell: Cell) -> str:
        return "as it is" if cell.dense_epochs is None else str(cell.dense_epochs)

    rows = tuple(
        (dense(cell), cell.dense_accuracy, cell.density, 1.0 - float(np.mean(cell.accuracy)),
         100.0 * cell.line.barrier, cell.similarity)
        for cell in cells
    )  # fmt: skip
    grid = Grid(
        "cells", "Two trainings of every mask",
        "For every dense network (by its epochs of training) and density: the error on validation samples, the mean of "
        "two trainings with other orders of the samples; how far the error on calibration samples rises, in points, "
        "above the straight line between the two; and the CKA of their features, 1 for the same up to a rotation.",
        (("dense epochs", "text"), ("dense accuracy", "percent"), ("density", "number"), ("error", "percent"),
         ("barrier, points", "number"), ("CKA", "number")),
        rows,
    )  # fmt: skip
    names = list(dict.fromkeys(map(dense, cells)))
    by_load = tuple(
        Curve(f"dense epochs: {name}", "line", values_of([cell.density for cell in cells if dense(cell) == name]),
              values_of([100.0 * (1.0 - float(np.mean(c.accuracy))) for c in cells if dense(c) == name]))
        for name in names
    )  # fmt: skip
    lines = tuple(
        Plot(
            f"lines-{name.replace(' ', '-')}", f"Between two trainings, dense epochs: {name}",
            "The error on calibration samples along the straight line between two trainings of the same mask.",
            ("part of the way", "linear"), ("error (%)", "linear"),
            tuple(
                Curve(f"density {cell.density:g}", "line", values_of(cell.line.parts),
                      values_of(100.0 * cell.line.errors))
                for cell in cells if dense(cell) == name
            ),
        )
        for name in names
    )  # fmt: skip
    error = Plot(
        "load", "Error over density", "The error on validation samples after training, for every length of dense "
        "training.", ("density", "log"), ("error (%)", "linear"), by_load,
    )  # fmt: skip
    values: dict[str, Any] = {
        "cells": [
            {"dense_epochs": cell.dense_epochs, "density": cell.density, "dense_accuracy": cell.dense_accuracy,
             "accuracy": list(cell.accuracy), "barrier": cell.line.barrier, "errors": cell.line.errors,
             "cka": cell.similarity}
            for cell in cells
        ]
    }  # fmt: skip
    return Findings(values, (grid,), (error, *lines))
