"""What the oracle study computes of its masks: correlations, ranks, and the tables and plots of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.studies.correlation import Tau, rank, tau, thirds
from prunebench.studies.findings import Curve, Findings, Grid, Plot, epochs_in_words, values_of

MODEL, PRUNED, REFITTED = "model", "true pruned loss", "true loss after refit"
"""What is known of a mask before training: the quadratic model's objective, the network's own loss on calibration
samples with dense values, and that with the values which the model refits."""

CEILING = "another order of samples"
"""The row that says how well one training of the same masks predicts another."""

THIRDS = ("best third", "middle third", "worst third")
"""Of the masks, by their true pruned loss."""


@dataclass(frozen=True)
class Population:
    """Masks that are trained, and what is known of them before.

    masks : bool (M, p);  names, families : of each
    known : by what says it, a number a mask, lower is better. float64 (M,)
    named : masks that tables name, by name;  notes : what went wrong in making them
    enumerated : the same as `known` of all masks where all were looked at;  best_of_all : whether the one of lowest
    true loss among those is trained
    """

    masks: BoolArray
    names: tuple[str, ...]
    families: tuple[str, ...]
    known: Mapping[str, FloatArray]
    named: Mapping[str, int]
    notes: tuple[str, ...] = ()
    enumerated: Mapping[str, FloatArray] = field(default_factory=dict)
    best_of_all: bool = False


@dataclass(frozen=True)
class Seed:
    """What every mask comes to with one order of the samples. float64 (M,)

    training : the mean loss of calibration samples;  loss, accuracy : of validation samples
    """

    training: FloatArray
    loss: FloatArray
    accuracy: FloatArray


Trained = Mapping[int, Sequence[Seed]]
"""By epochs of training, what every order of the samples gives; 0: no training."""


def findings(chosen: Population, trained: Trained, rng: np.random.Generator) -> Findings:
    """Everything that the study says of its masks."""
    links = _links(chosen, trained, rng)
    notes = [*chosen.notes, *_ties(trained)]
    grids = [_first_link(chosen, rng), _link_table(links), _best_table(chosen, trained)]
    if len(set(chosen.families)) > 1:
        grids.append(_family_table(chosen, trained))
    values: dict[str, Any] = {
        "masks": [
            {"name": name, "family": family, **{key: values[number] for key, values in chosen.known.items()}}
            for number, (name, family) in enumerate(zip(chosen.names, chosen.families, strict=True))
        ],
        "trained": {str(epochs): [vars(seed) for seed in seeds] for epochs, seeds in trained.items()},
        "links": links,
        "enumerated": {key: _summary(values) for key, values in chosen.enumerated.items()},
    }
    plots = [_cloud(chosen, trained, epochs) for epochs in trained if epochs]
    return Findings(values, tuple(grids), (_over_epochs(links), *plots), tuple(notes))


def means(seeds: Sequence[Seed]) -> Seed:
    """The mean over orders of the samples."""
    return Seed(
        np.mean([seed.training for seed in seeds], axis=0),
        np.mean([seed.loss for seed in seeds], axis=0),
        np.mean([seed.accuracy for seed in seeds], axis=0),
    )


def _targets(seed: Seed) -> dict[str, FloatArray]:
    """What is to be predicted, lower is better: the order of errors is that of accuracies turned round."""
    return {"validation loss": seed.loss, "training loss": seed.training, "error": 1.0 - seed.accuracy}


def _links(chosen: Population, trained: Trained, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One row for each length of training, predictor and target: τ over all masks, and in each third."""
    parts = thirds(chosen.known[PRUNED])
    out = []
    for epochs, seeds in trained.items():
        if not epochs:
            continue
        wanted = _targets(means(seeds))
        predictors: dict[str, dict[str, FloatArray]] = {
            name: dict.fromkeys(wanted, values) for name, values in chosen.known.items()
        }
        shorter = [length for length in trained if 0 < length < epochs]
        for length in shorter[-1:]:
            # the shorter training has another order than the longer one, as a finalist's would
            predictors[f"after {epochs_in_words(length)}"] = _targets(trained[length][0])
            if len(seeds) > 1:
                wanted = _targets(means(seeds[1:]))
        for name, values in predictors.items():
            aims = wanted if name.startswith("after ") else _targets(means(seeds))
            out += [_row(epochs, name, target, values[target], aims[target], parts, rng) for target in wanted]
        for target in wanted if len(seeds) > 1 else ():
            out.append(_ceiling(epochs, target, seeds, parts, rng))
    return out


def _row(
    epochs: int, name: str, target: str, x: FloatArray, y: FloatArray, parts: Sequence[IndexArray],
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    within = {third: tau(x[part], y[part], rng) for third, part in zip(THIRDS, parts, strict=True)}
    return {"epochs": epochs, "predictor": name, "target": target, "all": tau(x, y, rng), **within}


def _ceiling(
    epochs: int, target: str, seeds: Sequence[Seed], parts: Sequence[IndexArray], rng: np.random.Generator
) -> dict[str, Any]:
    """τ between two orders of the samples, the mean over all pairs of orders."""
    rows = [
        _row(epochs, CEILING, target, _targets(one)[target], _targets(other)[target], parts, rng)
        for one, other in combinations(seeds, 2)
    ]
    return {**rows[0], **{key: _mean([row[key] for row in rows]) for key in ("all", *THIRDS)}}


def _mean(found: Sequence[Tau]) -> Tau:
    def of(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return Tau(of([t.value for t in found]), of([t.low for t in found]), of([t.high for t in found]), found[0].masks)


def _first_link(chosen: Population, rng: np.random.Generator) -> Grid:
    """What the model says against the true pruned loss; over all masks where all were looked at."""
    held = chosen.enumerated or chosen.known
    rows = []
    for name, values in held.items():
        if not name.startswith(MODEL):
            continue
        target = REFITTED if "refitted" in name else PRUNED
        best = int(np.argmin(values))
        part = thirds(held[target])[0]
        rows.append((
            name, target, values.size, tau(values, held[target], rng).cell,
            tau(values[part], held[target][part], rng).cell, rank(held[target], best), held[target][best],
            held[target].min(), held[target].mean(),
        ))  # fmt: skip
    return Grid(
        "model", "From the model to the true loss",
        "How well the quadratic model orders masks by the network's own loss on calibration samples, nothing being "
        "trained: Kendall's τ, −1 to 1, with its 95 % interval (none where all masks were looked at). The best third "
        "is that of the true loss. The rank is that of the mask which the model likes best"
        + (", its proven optimum, since all masks were looked at." if chosen.enumerated else "."),
        (("model", "text"), ("of", "text"), ("masks", "count"), ("τ", "interval"), ("τ, best third", "interval"),
         ("rank of its best", "count"), ("loss of its best", "number"), ("lowest loss", "number"),
         ("mean loss", "number")),
        tuple(rows),
    )  # fmt: skip


def _link_table(links: Sequence[Mapping[str, Any]]) -> Grid:
    held: dict[tuple[int, str], dict[str, Mapping[str, Any]]] = {}
    for link in links:
        held.setdefault((link["epochs"], link["predictor"]), {})[link["target"]] = link
    rows = tuple(
        (
            epochs, name, row["validation loss"]["all"].cell, row["validation loss"][THIRDS[0]].cell,
            *(
                (row[target][which].value, None, None)
                for target in ("training loss", "error")
                for which in ("all", THIRDS[0])
            ),
        )
        for (epochs, name), row in held.items()
    )  # fmt: skip
    return Grid(
        "links", "From what is known before training to what training gives",
        "Kendall's τ between the order of masks by what is known of them and by what they come to after so many "
        f"epochs, over all masks and in the third of lowest true pruned loss. '{CEILING}' is the ceiling: two "
        "trainings of the same masks.",
        (("epochs", "count"), ("known", "text"), ("validation loss", "interval"), ("its best third", "interval"),
         ("training loss", "interval"), ("its best third", "interval"), ("error", "interval"),
         ("its best third", "interval")),
        rows,
    )  # fmt: skip


def _best_table(chosen: Population, trained: Trained) -> Grid:
    """What becomes of the masks that a method would choose."""
    oracle = "oracle (lowest true pruned loss" + (" of all)" if chosen.best_of_all else ")")
    named = {oracle: int(np.argmin(chosen.known[PRUNED])), **chosen.named}
    for name, values in chosen.known.items():
        if name != PRUNED and not any(name in held for held in chosen.named):
            named[f"lowest {name}"] = int(np.argmin(values))
    rows: list[tuple[Any, ...]] = []
    for epochs, seeds in trained.items():
        held = means(seeds)
        for name, number in named.items():
            above = float((held.accuracy > held.accuracy[number]).mean())
            rows.append((epochs, name, rank(chosen.known[PRUNED], number), rank(held.loss, number),
                         rank(-held.accuracy, number), held.accuracy[number], above))  # fmt: skip
        for name, value in (("median", np.median(held.accuracy)), ("best", held.accuracy.max())):
            above = float((held.accuracy > value).mean())
            rows.append((epochs, f"{name} of the {held.accuracy.size} masks", None, None, None, value, above))
    return Grid(
        "chosen", "What becomes of the masks that a method would choose",
        "Ranks, from 1, among the masks that were trained, of the mask of lowest true pruned loss (the oracle), of "
        "the best of every model, and of solvers' masks; accuracy on validation samples, and the part of all trained "
        "masks that is more accurate.",
        (("epochs", "count"), ("mask", "text"), ("rank by pruned loss", "count"),
         ("rank by validation loss", "count"), ("rank by accuracy", "count"), ("accuracy", "percent"),
         ("more accurate", "percent")),
        tuple(rows),
    )  # fmt: skip


def _family_table(chosen: Population, trained: Trained) -> Grid:
    families = np.array(chosen.families)
    held = {epochs: means(seeds) for epochs, seeds in trained.items()}
    rows = [
        (name, int(part.sum()), *(values[part].mean() for values in chosen.known.values()),
         *(one.accuracy[part].mean() for one in held.values()))
        for name in dict.fromkeys(chosen.families)
        for part in [families == name]
    ]  # fmt: skip
    columns: list[Any] = [("masks", "text"), ("how many", "count"), *((name, "number") for name in chosen.known)]
    columns += [(f"accuracy, {epochs_in_words(epochs)}", "percent") for epochs in trained]
    caption = "Means over masks that were made alike."
    return Grid("families", "The masks by how they were made", caption, tuple(columns), tuple(rows))


def _over_epochs(links: Sequence[Mapping[str, Any]]) -> Plot:
    """τ with the validation loss against the length of training."""
    curves = []
    held = [link for link in links if link["target"] == "validation loss" and not link["predictor"].startswith("after")]
    for third, words in (("all", ""), (THIRDS[0], f", {THIRDS[0]}")):
        for name in dict.fromkeys(link["predictor"] for link in held):
            rows = [link for link in held if link["predictor"] == name and link[third].value is not None]
            if not rows or (third != "all" and name.startswith(MODEL)):
                continue
            bands = all(row[third].low is not None for row in rows)
            curves.append(Curve(
                f"{name}{words}", "line", values_of([row["epochs"] for row in rows]),
                values_of([row[third].value for row in rows]),
                values_of([row[third].low for row in rows]) if bands else (),
                values_of([row[third].high for row in rows]) if bands else (),
            ))  # fmt: skip
    return Plot(
        "over-epochs", "What an order of masks is worth after training",
        "Kendall's τ between what is known of masks before training and their validation loss after it, with 95 % "
        f"intervals. '{CEILING}' is the ceiling.",
        ("epochs of training", "log"), ("Kendall's τ", "linear"), tuple(curves),
    )  # fmt: skip


def _cloud(chosen: Population, trained: Trained, epochs: int) -> Plot:
    held, families = means(trained[epochs]), np.array(chosen.families)
    curves = []
    for name in dict.fromkeys(chosen.families):
        part = np.flatnonzero(families == name)
        text = tuple(f"{chosen.names[number]}: accuracy {held.accuracy[number]:.2%}" for number in part)
        curves.append(
            Curve(name, "points", values_of(chosen.known[PRUNED][part]), values_of(held.loss[part]), text=text)
        )
    return Plot(
        f"after-{epochs}", f"Before and after {epochs_in_words(epochs)}",
        "Every mask's true pruned loss on calibration samples against its validation loss after training, the mean "
        "over orders of the samples.",
        ("true pruned loss", "log"), ("validation loss after training", "log"), tuple(curves),
    )  # fmt: skip


def _ties(trained: Trained) -> list[str]:
    """A word where all masks come to the same accuracy, so that nothing can be ordered by it."""
    return [
        f"after {epochs_in_words(epochs)} all masks have the same accuracy, as where each predicts one class: no "
        "order, and τ is not defined; keep more weights"
        for epochs, seeds in trained.items()
        if np.ptp(means(seeds).accuracy) == 0.0
    ]


def _summary(values: FloatArray) -> dict[str, float | int]:
    best = int(np.argmin(values))
    return {"masks": values.size, "lowest": values[best], "mean": values.mean(), "mask of the lowest": best}
