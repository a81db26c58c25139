"""How much of what pruning costs a short training wins back, by when in the dense training it happens.

Liu et al.: Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021: plasticity is the
accuracy after pruning and some epochs of training less the accuracy before pruning; regeneration exchanges a part of
the kept weights, the smallest, for those of the largest gradients.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from prunebench.coordinators.rounds import regrowth
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, top_mask
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.recovery.training.protocol import Begin
from prunebench.studies.findings import Curve, Findings, Grid, Plot, epochs_in_words, values_of
from prunebench.studies.study import Setting, Study, require_density, require_from, require_labels

WAYS = ("magnitude", "gradient", "random")
"""By what weights are pruned: |w|, |w·g| of the mean loss, or at random."""


@dataclass(frozen=True)
class Row:
    """A mask made at a part of the dense training, and accuracies: of the dense network there, pruned, trained."""

    part: float
    density: float
    way: str
    regrown: bool
    before: float
    pruned: float
    after: float

    @property
    def plasticity(self) -> float:
        """What pruning and training gained, in points."""
        return 100.0 * (self.after - self.before)


@dataclass(frozen=True, kw_only=True)
class Plasticity(Study):
    """Pruning at several moments of the dense training, each followed by a short training."""

    name: ClassVar[str] = "plasticity"
    summary: ClassVar[str] = "How much of what pruning costs does a short training win back, and when is it least?"
    reference: ClassVar[str] = (
        "Liu et al.: Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021"
    )

    parts: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Parts of the dense training that are done when the network is pruned."""

    densities: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05)
    """The parts of the weights that are kept."""

    ways: tuple[str, ...] = ("magnitude", "gradient", "random")
    """By what weights are pruned: magnitude, gradient (|w·g|) or random."""

    epochs: int = 2
    """Length of the training afterwards."""

    regrow: float = 0.5
    """The part of every layer's kept weights that regeneration exchanges; 0: none."""

    def check(self) -> None:
        """Refuse densities, parts and ways that cannot be."""
        require_density(self, *self.densities)
        require_from(self, 0.0, "parts")
        require_from(self, 1, "epochs")
        if any(part > 1.0 for part in self.parts) or not 0.0 <= self.regrow < 1.0:
            raise InvalidInput(
                f"study {self.name}: parts are {self.parts} and regrow is {self.regrow}; choose parts from 0 to 1, "
                "and regrow from 0 to below 1"
            )
        if not self.ways or set(self.ways) - set(WAYS):
            raise InvalidInput(f"study {self.name}: ways is {self.ways}; choose among {', '.join(WAYS)}")

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse a network whose dense training is not known."""
        from prunebench.recovery.training.starts import require_known

        made = super().require(problem)
        require_known(made, replace(self.training(self.epochs, self.seed), start="init"))
        return made

    def run(self, setting: Setting) -> Findings:
        """At every part of the dense training: prune, regrow, train, compare."""
        require_labels(setting.problem, setting.network, self.name)
        base, rows, dense = setting.network.state(), [], []
        for part in self.parts:
            before, continued, found = self._at(setting, part)
            rows += found
            dense.append((part, before, continued))
            setting.network.load_state(base)
        return _findings(rows, dense, self.epochs)

    def _at(self, setting: Setting, part: float) -> tuple[float, float, list[Row]]:
        """Accuracy of the dense network at this part, the same trained on, and what masks made there come to."""
        from prunebench.networks.training import steps_of
        from prunebench.recovery.training.many import judge_model, reached
        from prunebench.recovery.training.starts import place

        problem, network = setting.problem, setting.network
        recipe = problem.trajectory().recipe  # type: ignore[attr-defined]  # `require` has seen that it is there
        place(problem, network, Begin("step", round(part * steps_of(recipe, len(problem.calibration())))))
        before = float(judge_model(problem, network.model).validation.accuracy[0])
        dense = network.weights()
        named, masks, values = [], [np.ones(dense.size, dtype=np.bool_)], [dense]
        slopes = self._slopes(setting)
        for density in self.densities:
            for way in self.ways:
                scores = {"magnitude": np.abs(dense), "gradient": np.abs(dense) * slopes}.get(way)
                mask = top_mask(
                    self.rng("masks").random(dense.size) if scores is None else scores,
                    keep_count(density, dense.size),
                )
                for regrown in (False, True) if self.regrow else (False,):
                    kept = self._regrown(setting, mask, dense) if regrown else mask
                    named.append((density, way, regrown))
                    masks.append(kept)
                    # what grows begins at zero
                    values.append(np.where(kept & mask, dense, 0.0))
        every, starts = np.array(masks), np.array(values)
        pruned = reached(problem, network, every, self.training(0, self.seed), weights=starts).validation.accuracy
        told = partial(setting.told, f"masks trained from {part:.0%} of the dense training")
        after = reached(
            problem, network, every, self.training(self.epochs, self.seed), weights=starts, told=told
        ).validation.accuracy
        rows = [
            Row(part, density, way, regrown, before, float(pruned[n]), float(after[n]))
            for n, (density, way, regrown) in enumerate(named, 1)
        ]
        return before, float(after[0]), rows

    def _slopes(self, setting: Setting) -> FloatArray:
        """|gradient| of the mean loss at the network's present weights. float64 (p,)"""
        count = min(self.samples, len(setting.problem.calibration()))
        return regrowth.scores(setting.problem, setting.network, "gradient", count, self.rng("samples"))

    def _regrown(self, setting: Setting, mask: BoolArray, dense: FloatArray) -> BoolArray:
        """The mask after regeneration, by gradients of the pruned network."""
        weights = np.where(mask, dense, 0.0)
        setting.network.assign(weights)
        worth = self._slopes(setting)
        setting.network.assign(dense)
        return regrowth.exchanged(mask, weights, worth, setting.network.layers, self.regrow)


def _findings(rows: list[Row], dense: list[tuple[float, float, float]], epochs: int) -> Findings:
    held = {(row.part, row.density, row.way, row.regrown): row for row in rows}
    table = []
    for row in rows:
        if row.regrown:
            continue
        other = held.get((row.part, row.density, row.way, True))
        gained = None if other is None else other.plasticity - row.plasticity
        table.append((row.part, row.density, row.way, row.before, row.pruned, row.after, row.plasticity, gained))
    masks = Grid(
        "masks", "What pruning and a short training gain",
        f"Accuracy on validation samples before pruning, right after it, and after {epochs_in_words(epochs)}; "
        "plasticity is the last less the first, in points. Regeneration exchanges the smallest kept weights for those "
        "of the largest gradients before the training: what it adds to plasticity.",
        (("dense training done", "percent"), ("density", "number"), ("by", "text"), ("before", "percent"),
         ("pruned", "percent"), ("after", "percent"), ("plasticity", "number"), ("regeneration adds", "number")),
        tuple(table),
    )  # fmt: skip
    whole = Grid(
        "dense", "The dense network meanwhile", "The same training without pruning: what training alone gains.",
        (("dense training done", "percent"), ("before", "percent"), ("after", "percent"), ("gain", "number")),
        tuple((part, before, after, 100.0 * (after - before)) for part, before, after in dense),
    )  # fmt: skip
    ways = list(dict.fromkeys(row.way for row in rows))
    plots = tuple(
        Plot(
            f"at-{part:g}", f"Pruned after {part:.0%} of the dense training",
            "Plasticity, in points of accuracy, against density, with and without regeneration.", ("density", "log"),
            ("plasticity (points)", "linear"),
            tuple(
                Curve(f"{way}{', regenerated' if regrown else ''}", "line", values_of([row.density for row in curve]),
                      values_of([row.plasticity for row in curve]))
                for way in ways for regrown in (False, True)
                for curve in [[r for r in rows if (r.part, r.way, r.regrown) == (part, way, regrown)]] if curve
            ),
        )
        for part, _, _ in dense
    )  # fmt: skip
    values: dict[str, Any] = {
        "masks": [{**vars(row), "plasticity": row.plasticity} for row in rows],
        "dense": [{"part": part, "before": before, "after": after} for part, before, after in dense],
    }
    return Findings(values, (masks, whole), plots)
