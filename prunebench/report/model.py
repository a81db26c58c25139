"""The quadratic model against the network's own loss: predicted against true change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.report.anytime import by_solver, groups
from prunebench.report.figure import (
    Absent,
    Drawn,
    Figure,
    Series,
    linear_axis,
    power,
    signed_axis,
    signed_log,
    signed_scale,
)
from prunebench.report.gather import Comparison, Run
from prunebench.report.runs import PRUNE, by_density, labels
from prunebench.report.style import REFERENCE

if TYPE_CHECKING:
    import pandas

STEPS = "Predicted against true change, step by step"
"""Title of the figure of steps."""
ANSWERS = "Predicted against true change of the answers"
"""Title of the figure of answers."""
TITLES = ("change by the model", "true change")
"""What its axes show."""


def correlation(x: FloatArray, y: FloatArray) -> float:
    """Pearson's correlation; NaN for fewer than three points or where one side does not vary."""
    if x.size < 3 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def correlation_words(x: FloatArray, y: FloatArray) -> str:
    """The correlation for people, with the number of points."""
    value = correlation(x, y)
    return f"r = {value:.2f}, {x.size} points" if np.isfinite(value) else f"{x.size} points"


def each_correlation(series: Sequence[Series], what: str) -> str:
    """The correlation over all points, and that of each series where there are several."""
    x, y = (np.concatenate([getattr(s, axis) for s in series]) for axis in "xy")
    words = f"Over all {what} {correlation_words(x, y)}."
    if len(series) > 1:
        words += " " + "; ".join(f"{s.name}: {correlation_words(s.x, s.y)}" for s in series) + "."
    return words


def _short(x: FloatArray, y: FloatArray) -> str:
    value = correlation(x, y)
    return f" (r = {value:.2f})" if np.isfinite(value) else ""


def steps(runs: tuple[Run, ...]) -> Drawn:
    """Each iCBS step's predicted change against the one on the fitted samples, and on those set apart."""
    figures: list[Figure] = []
    for problem, density, same in by_density(runs):
        stepped = [run for run in same if any("predicted_each" in event for event in run.events)]
        if not stepped:
            continue
        for which in ("fit", "acceptance"):
            series = _step_series(stepped, which)
            if not series:
                continue
            x = np.concatenate([s.x for s in series])
            y = np.concatenate([s.y for s in series])
            figures.append(
                Figure(
                    f"steps-{which}-{len(figures)}", STEPS, STEPS,
                    f"{problem}, density {density:g}, {which} samples{_short(x, y)}",
                    "Each point is one step of iCBS: the change of the loss that the quadratic model predicted, and "
                    "the network's own. Fit samples: those that the step's model was made from, for steps whose whole "
                    "proposal was accepted. Acceptance samples: those set apart, which no model has seen, for every "
                    "proposal. On the dotted diagonal the model is right; above it, it promised too much.",
                    linear_axis("predicted change of the loss", [x]), linear_axis("true change of the loss", [y]),
                    (*series, _diagonal(x, y)), ("predicted change", "true change of a step", "correlation"),
                    each_correlation(series, "runs"),
                )
            )  # fmt: skip
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(STEPS, "Predicted against true change of the loss", "there is no run of iCBS", PRUNE))


def _step_series(runs: list[Run], which: str) -> list[Series]:
    names = labels(runs)
    out = []
    for run in runs:
        rule = (run.source.request.get("coordinator_options") or {}).get("accept", "true-loss")
        events = [event for event in run.events if "predicted_each" in event]
        if which == "fit":
            # Where only a part was accepted, the prediction is of more than what was applied.
            events = [
                event
                for event in events
                if event["accepted"] and (rule != "true-loss" or (event.get("true_change") or 0.0) < 0)
            ]
        key = "fit_change" if which == "fit" else "true_change"
        events = [event for event in events if event.get("predicted_change") is not None and event.get(key) is not None]
        if not events:
            continue
        x = np.array([float(event["predicted_change"]) for event in events])
        y = np.array([float(event[key]) for event in events])
        name, variant = names[run]
        text = tuple(f"step {event['step']}, {'accepted' if event['accepted'] else 'rejected'}" for event in events)
        out.append(Series(name, run.look, "points", x, y, None, None, text, variant))
    return out


def answers(comparisons: tuple[Comparison, ...]) -> Drawn:
    """Each answer's model change against the true change of the network's loss."""
    figures = []
    for number, comparison in enumerate(comparisons):
        for index, (words, part) in enumerate(groups(comparison, ("problem", "select", "mode", "density"))):
            known = part[part["true_change"].notna() & part["model_change"].notna()]
            if len(known):
                figures.append(_answers(f"answers-{number}-{index}", words, known))
    if figures:
        return Drawn(tuple(figures))
    reason = "no comparison measured the true loss"
    command = "prunebench compare digits-mlp --solver anneal --size 16 32 64 --out DIR"
    return Drawn(absent=Absent(ANSWERS, "Predicted against true change of the answers", reason, command))


def _answers(name: str, words: str, part: "pandas.DataFrame") -> Figure:
    series = []
    for solver, rows in by_solver(part):
        x, y = rows["model_change"].to_numpy(np.float64), rows["true_change"].to_numpy(np.float64)
        text = tuple(
            f"p = {row['p']}, block {row['block_index']}, seed {row['seed']}: model {row['model_change']:.3g}, "
            f"true {row['true_change']:.3g}"
            for row in rows.to_dict("records")
        )
        series.append(Series(solver, solver, "points", x, y, None, None, text))
    x, y = part["model_change"].to_numpy(np.float64), part["true_change"].to_numpy(np.float64)
    words_of_all = each_correlation(series, "answers")
    diagonal = _diagonal(x, y)
    # one scale for both axes, so that the diagonal stays one
    unit = signed_scale([x, y])
    if unit is None:
        axes = [linear_axis(title, [held], include=(0.0,)) for title, held in zip(TITLES, (x, y), strict=True)]
        drawn = [*series, diagonal]
    else:
        axes = [signed_axis(title, [held], unit) for title, held in zip(TITLES, (x, y), strict=True)]
        drawn = [replace(s, x=signed_log(s.x, unit), y=signed_log(s.y, unit)) for s in (*series, diagonal)]
    return Figure(
        name, ANSWERS, ANSWERS, words + _short(x, y),
        "Each point is one answer: how much better than magnitude pruning the quadratic model says it is, and how "
        "the network's own loss on validation samples changes. Left of 0 the model promises a gain; below 0 there is "
        "one. On the dotted diagonal the model is right; above it, it promised too much.",
        axes[0], axes[1], tuple(drawn), ("model change", "true change", "correlation"),
        words_of_all + (
            "" if unit is None
            else f" Beyond ±{power(unit)} both scales are logarithmic, so that small changes show too."
        ),
    )  # fmt: skip


def _diagonal(x: FloatArray, y: FloatArray) -> Series:
    """The line on which prediction and truth agree, over the range that both have or, failing that, that x has."""
    low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = float(min(low, y.min())), float(max(high, y.max()))
    return Series("predicted = true", REFERENCE, "rule", np.array([low, high]), np.array([low, high]), variant=1)
