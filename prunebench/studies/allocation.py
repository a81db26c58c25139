"""How much of a mask's worth is how many weights each layer keeps, and how much is which.

Controls of Su et al., Sanity-Checking Pruning Methods, NeurIPS 2020, and Frankle et al., Pruning Neural Networks at
Initialization: Why Are We Missing the Mark?, ICLR 2021: masks shuffled inside their layers, and counts of one method
with the choice of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_count, keep_per_layer, top_mask
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.core.quadratic import QuadraticForm
from prunebench.studies import candidates
from prunebench.studies.findings import Findings, Grid, epochs_in_words
from prunebench.studies.study import Setting, Study, require_density, require_from, require_labels

MAGNITUDE, UNIFORM, SHUFFLED = "magnitude", "uniform", "shuffled"
"""Names of a way to choose and to count, of one to count only, and of one to choose only."""


@dataclass(frozen=True)
class Row:
    """A mask: whose layer counts it has, and who chose the weights inside the layers."""

    counts: str
    choice: str
    mask: BoolArray


@dataclass(frozen=True, kw_only=True)
class Allocation(Study):
    """Masks with the layer counts of one method and the choice of another, and shuffles, before and after training."""

    name: ClassVar[str] = "allocation"
    summary: ClassVar[str] = "What comes from how many weights a layer keeps, and what from which?"
    reference: ClassVar[str] = (
        "Frankle et al.: Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021"
    )

    density: float = 0.1
    """The part of the weights that masks keep."""

    solvers: tuple[str, ...] = ("swap", "admm")
    """Solvers whose masks are taken apart, as NAME:OPTION=VALUE."""

    runs: tuple[str, ...] = ()
    """Directories of finished runs whose masks are taken apart."""

    time_limit: float = 60.0
    """Seconds for each solver."""

    epochs: int = 3
    """Length of training."""

    seeds: int = 1
    """Trainings of every mask, and shuffles, each with another seed; what is shown is their mean."""

    def check(self) -> None:
        """Refuse densities, times and lengths that cannot be, and a study of nothing."""
        require_density(self, self.density)
        require_from(self, 1, "epochs", "seeds")
        require_from(self, 0.0, "time_limit")
        candidates.require_some(self.name, self.solvers, self.runs)
        if MAGNITUDE in self.solvers:
            raise InvalidInput(f"study {self.name}: magnitude is what others are compared with; name another solver")

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse runs of other networks too."""
        return candidates.require_runs(super().require(problem), self.runs)

    def run(self, setting: Setting) -> Findings:
        """Make the masks, train them, compare."""
        from prunebench.recovery.training.many import reached

        problem, network = setting.problem, setting.network
        require_labels(problem, network, self.name)
        if len(network.layers) < 2:
            raise InvalidInput(f"study {self.name}: {problem.name!r} has one prunable matrix, so nothing is allocated")
        dense, form = network.weights(), self.form(setting)
        rows, notes = self._rows(setting, form, dense)
        masks = np.array([row.mask for row in rows])
        refits = np.array([form.refit(mask) for mask in masks])
        untrained = self.training(0, self.seed)
        pruned = reached(problem, network, masks, untrained).validation.accuracy
        refitted = reached(problem, network, masks, untrained, weights=refits).validation.accuracy
        trained = np.zeros((self.seeds, len(rows)))
        shuffles = np.array([row.choice == SHUFFLED for row in rows])
        for number in range(self.seeds):
            if number:
                # another shuffle with every order of the samples
                rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(12, number)))
                masks[shuffles] = [_shuffled(mask, network.layers, rng) for mask in masks[shuffles]]
            protocol = self.training(self.epochs, self.seed + number)
            told = partial(setting.told, f"masks trained, order {number + 1}")
            trained[number] = reached(problem, network, masks, protocol, told=told).validation.accuracy
        return _findings(rows, network.layers, pruned, refitted, trained, self.epochs, notes)

    def _rows(self, setting: Setting, form: QuadraticForm, dense: FloatArray) -> tuple[list[Row], list[str]]:
        """All masks, by whose counts and whose choice they have; and why some are missing."""
        layers, keep, rng = setting.network.layers, keep_count(self.density, dense.size), self.rng("masks")
        choices, size = candidates.require_solvers(self.solvers), np.abs(dense)
        asked = candidates.Asked(form, dense, keep, seconds=self.time_limit, seed=self.seed)
        methods, notes = candidates.solved(setting, choices, asked)
        methods += candidates.of_runs(setting, self.runs, keep)
        group = np.repeat(np.arange(len(layers)), [layer.size for layer in layers])
        heaviest = top_mask(size, keep)
        own, even = counts_of(heaviest, layers), keep_per_layer(self.density, [layer.size for layer in layers])
        alone = Row(MAGNITUDE, MAGNITUDE, heaviest)
        rows = [
            alone, Row(MAGNITUDE, SHUFFLED, _shuffled(heaviest, layers, rng)),
            Row(UNIFORM, MAGNITUDE, Quota(group, even).top_mask(size)),
            Row(UNIFORM, SHUFFLED, Quota(group, even).top_mask(rng.random(size.size))),
        ]  # fmt: skip
        for method in methods:
            counts = counts_of(method.mask, layers)
            rows += [
                Row(method.name, method.name, method.mask),
                Row(method.name, MAGNITUDE, Quota(group, counts).top_mask(size)),
                Row(method.name, SHUFFLED, _shuffled(method.mask, layers, rng)),
            ]
        for counts_name, counts in ((MAGNITUDE, own), (UNIFORM, even)):
            words = f" with {counts_name} counts"
            found, why = candidates.solved(setting, choices, asked, quota=Quota(group, counts), words=words)
            notes += why
            rows += [Row(counts_name, one.family, one.mask) for one in found]
        return rows, notes


def counts_of(mask: BoolArray, layers: Sequence[Any]) -> IndexArray:
    """How many weights a mask keeps of each layer. int64 (layers,)"""
    return np.array([int(mask[layer.start : layer.stop].sum()) for layer in layers])


def _shuffled(mask: BoolArray, layers: Sequence[Any], rng: np.random.Generator) -> BoolArray:
    """The mask with its layer counts, at random places. bool (p,)"""
    out = np.empty_like(mask)
    for layer in layers:
        out[layer.start : layer.stop] = rng.permutation(mask[layer.start : layer.stop])
    return out


def _findings(
    rows: Sequence[Row], layers: Sequence[Any], pruned: FloatArray, refitted: FloatArray, trained: FloatArray,
    epochs: int, notes: Sequence[str],
) -> Findings:  # fmt: skip
    mean = trained.mean(axis=0)
    counts = [counts_of(row.mask, layers).tolist() for row in rows]
    table = tuple(
        (row.counts, row.choice, ", ".join(map(str, counts[n])), pruned[n], refitted[n], mean[n])
        for n, row in enumerate(rows)
    )  # fmt: skip
    every = Grid(
        "masks", "Counts of one method, choice of another",
        "Accuracy on validation samples of masks that keep as many weights of each layer as the first column's method, "
        "chosen inside the layers as the second says: at random (shuffled), by magnitude, or by a solver.",
        (("counts", "text"), ("choice", "text"), ("kept by layer", "text"), ("pruned", "percent"),
         ("refitted", "percent"), (f"after {epochs_in_words(epochs)}", "percent")),
        table,
    )  # fmt: skip
    place = {(row.counts, row.choice): n for n, row in enumerate(rows)}

    def gain(name: str, counts_name: str, choice: str) -> float | None:
        other = place.get((counts_name, choice))
        return None if other is None else 100.0 * (mean[other] - mean[place[name, name]])

    methods = [row.counts for row in rows if row.counts == row.choice]
    worth = tuple(
        (name, mean[place[name, name]], gain(name, name, SHUFFLED),
         None if name == MAGNITUDE else gain(name, name, MAGNITUDE),
         None if name == MAGNITUDE else gain(name, MAGNITUDE, name), gain(name, UNIFORM, name),
         gain(name, UNIFORM, SHUFFLED))
        for name in methods
    )  # fmt: skip
    parts = Grid(
        "worth", "What comes from where",
        f"What a mask gains, in points of accuracy after {epochs_in_words(epochs)}, if a part of it is exchanged; "
        "negative: that part was worth so much. The choice: shuffled inside layers, or made by magnitude; the counts: "
        "magnitude's, or the same density in every layer.",
        (("method", "text"), ("accuracy", "percent"), ("shuffled", "number"), ("choice of magnitude", "number"),
         ("counts of magnitude", "number"), ("uniform counts", "number"), ("both at random", "number")),
        worth,
    )  # fmt: skip
    values = {
        "masks": [
            {"counts": row.counts, "choice": row.choice, "kept": counts[n], "pruned": pruned[n],
             "refitted": refitted[n], "trained": trained[:, n]}
            for n, row in enumerate(rows)
        ]
    }  # fmt: skip
    return Findings(values, (parts, every), (), tuple(notes))
