"""What corrupted images do to pruned networks, before and after training, beside what they do to the dense one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.studies import candidates
from prunebench.studies.findings import Curve, Findings, Grid, Plot, epochs_in_words, values_of
from prunebench.studies.study import Setting, Study, require_density, require_from, require_labels

if TYPE_CHECKING:
    import torch

    from prunebench.studies.corruptions import Corrupted

CLEAN = "clean"
"""What images that nothing was done to are called among the corruptions."""

FEATURE_SAMPLES = 2000
"""Validation samples, at most, whose features are looked at."""


@dataclass(frozen=True)
class Row:
    """One network: its name, whether it was trained after pruning, and what it reaches.

    accuracy : by (corruption, severity), 0 for clean;  geometry : mean angle (degrees) and mean norm of features by
    corruption at its strongest
    """

    name: str
    trained: bool
    accuracy: Mapping[tuple[str, int], float]
    geometry: Mapping[str, tuple[float | None, float]]


@dataclass(frozen=True, kw_only=True)
class Robustness(Study):
    """Masks of one density, each judged on five corruptions of the validation images."""

    name: ClassVar[str] = "robustness"
    summary: ClassVar[str] = "What do corrupted images cost a pruned network, and is it the same for every mask?"
    reference: ClassVar[str] = "arXiv 2206.07918, 2022"

    density: float = 0.1
    """The part of the weights that masks keep."""

    solvers: tuple[str, ...] = ("magnitude", "obd", "swap", "admm", "random")
    """Solvers whose masks are compared, as NAME:OPTION=VALUE."""

    runs: tuple[str, ...] = ()
    """Directories of finished runs whose masks and weights are compared with them."""

    time_limit: float = 60.0
    """Seconds for each solver."""

    epochs: int = 1
    """Length of training; 0: masks are judged as they are only."""

    def check(self) -> None:
        """Refuse densities, times and lengths that cannot be, and a study of nothing."""
        require_density(self, self.density)
        require_from(self, 0.0, "time_limit", "epochs")
        candidates.require_some(self.name, self.solvers, self.runs)

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse runs of other networks too."""
        return candidates.require_runs(super().require(problem), self.runs)

    def run(self, setting: Setting) -> Findings:
        """Corrupt, prune, judge, train, and judge again."""
        from prunebench.recovery.training.many import looked_at, trained
        from prunebench.studies.corruptions import CORRUPTIONS, SEVERITIES, Corrupted, Pixels

        problem, network = setting.problem, setting.network
        classes = require_labels(problem, network, self.name)
        pixels = Pixels.of(problem.calibration(), looked_at(problem.calibration()), problem.name)
        corrupted = {
            (name, severity): Corrupted(problem.validation(), pixels, name, severity, self.seed)
            for name in CORRUPTIONS
            for severity in SEVERITIES
        }
        dense, form = network.weights(), self.form(setting)
        keep = keep_count(self.density, dense.size)
        asked = candidates.Asked(form, dense, keep, seconds=self.time_limit, seed=self.seed)
        chosen, notes = candidates.solved(setting, candidates.require_solvers(self.solvers), asked)
        chosen += candidates.of_runs(setting, self.runs, keep)
        judged = partial(self._row, setting, corrupted, classes)
        base = network.state()
        rows = [judged("dense", False)]
        for number, one in enumerate(chosen, 1):
            # solvers' masks have the dense values, so that all differ by the mask alone
            network.assign(one.weights if one.family == "runs" else np.where(one.mask, dense, 0.0))
            rows.append(judged(one.name, False))
            network.load_state(base)
            setting.told("masks under corruption", number, len(chosen))
        if self.epochs:
            masks = np.array([one.mask for one in chosen])
            values = np.array([one.weights if one.family == "runs" else dense * one.mask for one in chosen])
            lots = trained(
                problem, network, masks, self.training(self.epochs, self.seed), weights=values,
                told=partial(setting.told, "masks trained"),
            )  # fmt: skip
            for copies in lots:
                for position, state in zip(copies.positions, copies.states(), strict=True):
                    network.load_state(state)
                    rows.append(judged(chosen[int(position)].name, True))
            network.load_state(base)
        digests = {f"{name} {severity}": held.digest for (name, severity), held in corrupted.items()}
        return _findings(rows, digests, tuple(notes), self.epochs)

    def _row(
        self, setting: Setting, corrupted: "Mapping[tuple[str, int], Corrupted]", classes: int, name: str, trained: bool
    ) -> Row:
        from prunebench.recovery.training.many import judge, outputs_of
        from prunebench.studies.features import features_of, geometry, last_layer

        problem, model = setting.problem, setting.network.model
        clean = problem.validation()
        every: dict[tuple[str, int], Any] = {(CLEAN, 0): clean, **corrupted}
        accuracy = {
            key: float(judge(outputs_of(model), problem, samples, np.arange(len(samples))).accuracy[0])
            for key, samples in every.items()
        }
        layer = last_layer(model, classes)
        strongest = {which: samples for (which, _), samples in every.items()}
        found = {}
        if layer is None:
            return Row(name, trained, accuracy, {})
        for which, samples in strongest.items():
            inputs, labels = samples.batch(np.arange(min(FEATURE_SAMPLES, len(samples))))
            found[which] = geometry(features_of(model, layer, inputs), _numbers(labels))
        return Row(name, trained, accuracy, found)


def _numbers(labels: "torch.Tensor") -> Any:
    return labels.numpy().astype(np.float64)


def _findings(rows: list[Row], digests: dict[str, str], notes: tuple[str, ...], epochs: int) -> Findings:
    names = list(dict.fromkeys(name for name, _ in rows[0].accuracy))
    severities = sorted({severity for _, severity in rows[0].accuracy if severity})

    def mean(row: Row, which: str) -> float:
        return float(np.mean([value for (name, _), value in row.accuracy.items() if name == which]))

    table = tuple(
        (row.name, epochs if row.trained else 0, *(mean(row, which) for which in names),
         float(np.mean([mean(row, which) for which in names if which != CLEAN])))
        for row in rows
    )  # fmt: skip
    columns: Any = (("mask", "text"), ("epochs", "count"), *((name, "percent") for name in names), ("mean", "percent"))
    grids = [Grid(
        "accuracy", "Accuracy under corruption",
        "Accuracy on validation images, clean and corrupted, the mean over severities 1 to 3; the mean is over "
        "corruptions.", columns, table,
    )]  # fmt: skip
    if rows[0].geometry:
        norm = rows[0].geometry[CLEAN][1]
        turned = tuple(
            (row.name, epochs if row.trained else 0, *(row.geometry[which][0] for which in names),
             row.geometry[CLEAN][1] / norm,
             float(np.mean([row.geometry[which][1] for which in names if which != CLEAN])) / norm)
            for row in rows
        )  # fmt: skip
        angles: Any = (
            ("mask", "text"), ("epochs", "count"), *((f"angle, {name}", "number") for name in names),
            ("norm, clean", "number"), ("norm, corrupted", "number"),
        )  # fmt: skip
        grids.append(Grid(
            "geometry", "Features and the direction of their class",
            "The mean angle in degrees between what enters the last layer and that layer's weights of the true class, "
            "and the mean norm of what enters it, relative to the dense network's on clean images; corruptions at "
            "severity 3.", angles, turned,
        ))  # fmt: skip
    plots = tuple(
        Plot(
            f"against-{which}", f"Accuracy under {which}", "Accuracy on validation images against the severity of the "
            "corruption; 0: clean.", ("severity", "linear"), ("accuracy (%)", "linear"),
            tuple(
                Curve(
                    f"{row.name}, {epochs_in_words(epochs)}" if row.trained else row.name, "line",
                    values_of([0, *severities]),
                    values_of([100.0 * row.accuracy[key] for key in ((CLEAN, 0), *((which, s) for s in severities))]),
                )
                for row in rows if row.trained or not epochs or row.name == "dense"
            ),
        )
        for which in names if which != CLEAN
    )  # fmt: skip
    values = {
        "networks": [
            {"name": row.name, "trained": row.trained,
             "accuracy": {f"{name} {severity}": value for (name, severity), value in row.accuracy.items()},
             "geometry": {name: list(held) for name, held in row.geometry.items()}}
            for row in rows
        ],
        "digests": digests,
    }  # fmt: skip
    text = "; ".join(f"{name} {digest[:8]}" for name, digest in digests.items())
    return Findings(values, tuple(grids), plots, (*notes, f"SHA-256 of the corrupted images begins with: {text}"))
