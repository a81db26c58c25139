"""Pruning runs: accuracy against time and against density, the loss on the way, the density of each layer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.measures import mean_interval
from prunebench.report.figure import Absent, Axis, Drawn, Figure, Kind, Series, category_axis, linear_axis, log_axis
from prunebench.report.gather import Run
from prunebench.report.style import REFERENCE

TIME = "Accuracy against time"
"""Title of the figure of accuracy against time."""
LOSS = "Loss against time"
"""Title of the figure of loss against time."""
DENSITY = "Accuracy against density"
"""Title of the figure of accuracy against density."""
LAYERS = "Density of each layer"
"""Title of the figure of the layers' densities."""
PRUNE = "prunebench prune digits-mlp --density 0.1 --coordinator icbs --block-size 128 --steps 20 --validate-every 1"
"""A command that makes what the figures need, for the note where there is nothing to draw."""
IN_THE_NAME = ("mode", "scope", "block_size", "blocks_per_step")
"""What every run's name holds by itself."""
MOST_BARS = 48
"""With more layers × runs than this, layers are drawn as points."""


@dataclass(frozen=True)
class Quality:
    """What a problem's networks are judged by: its key in results and events, and how it is shown."""

    key: str
    title: str
    factor: float
    higher_is_better: bool

    def words(self, value: float) -> str:
        """A value for people."""
        return f"{self.factor * value:.2f} %" if self.key == "accuracy" else f"{self.factor * value:.4g}"


ACCURACY = Quality("accuracy", "accuracy (%)", 100.0, True)
"""Share of validation samples classified right, in per cent."""
PERPLEXITY = Quality("perplexity", "perplexity", 1.0, False)
"""exp(mean loss a token) of language models."""
LOSS_QUALITY = Quality("loss", "loss", 1.0, False)
"""Mean validation loss, for networks with no better measure."""


def quality_of(runs: Iterable[Run]) -> Quality:
    """Accuracy where the runs of a problem have one, else perplexity, else the loss."""
    held: set[str] = set()
    for run in runs:
        for record in (run.result or {}, *(event.get("validation", {}) for event in run.events)):
            held |= {key for key, value in record.items() if value is not None}
    return ACCURACY if "accuracy" in held else PERPLEXITY if "perplexity" in held else LOSS_QUALITY


def labels(runs: Iterable[Run], ignore: tuple[str, ...] = ()) -> dict[Run, tuple[str, int]]:
    """For each run its name within a figure and its variant among the runs of the same solver.

    A name is coordinator · solver with its options · mode · blocks, and in brackets what else was asked (but for
    `ignore`) and differs among the runs of one coordinator, so that no two runs look as if only the solver differed.
    """
    listed = list(runs)
    names = {run: run.name or _name(run) for run in listed}
    unnamed = [run for run in listed if not run.name]
    for coordinator in dict.fromkeys(run.coordinator for run in unnamed):
        same = [run for run in unnamed if run.coordinator == coordinator]
        for run, more in _distinctions(same, (*ignore, *IN_THE_NAME)).items():
            names[run] += _bracketed(more, "" if run.source.finished else "unfinished")
    for name in {name for name in names.values() if list(names.values()).count(name) > 1}:
        for run in [run for run in listed if names[run] == name]:
            names[run] = f"{name} ({run.source.path.name})"
    variants: dict[str, list[str]] = {}
    for run in listed:
        kinds = variants.setdefault(run.look, [])
        if names[run] not in kinds:
            kinds.append(names[run])
    return {run: (names[run], variants[run.look].index(names[run])) for run in listed}


def _name(run: Run) -> str:
    parts = [run.coordinator, run.solver, *([run.mode] if run.mode else []), *([run.blocks] if run.blocks else [])]
    return " · ".join(parts)


def _bracketed(*words: str) -> str:
    held = ", ".join(word for word in words if word)
    return f" ({held})" if held else ""


def _distinctions(runs: list[Run], ignore: tuple[str, ...]) -> dict[Run, str]:
    """What differs among the requests of runs of one coordinator; "" for each where nothing does."""
    # What was not given has its default in the result; an unfinished run has no result yet.
    resolved = all((run.result or {}).get("coordinator_options") for run in runs)
    asked = {run: _asked(run, resolved) for run in runs}
    keys = sorted({key for held in asked.values() for key in held} - set(ignore))
    telling = [key for key in keys if len({str(held.get(key)) for held in asked.values()}) > 1]
    return {run: ", ".join(f"{key} {asked[run].get(key, 'default')}" for key in telling) for run in runs}


def _asked(run: Run, resolved: bool = False) -> dict[str, Any]:
    request = run.source.request
    simple = {
        key: request.get(key)
        for key in ("mode", "scope", "recover", "retrain", "seconds", "block_seconds", "seed", "density")
        if request.get(key) is not None
    }
    groups = ("coordinator_options", "curvature", "problem_options")
    given = {key: value for name in groups for key, value in (request.get(name) or {}).items()}
    return simple | given | (dict((run.result or {}).get("coordinator_options") or {}) if resolved else {})


def settings(run: Run) -> str:
    """A name for runs that differ in density alone."""
    asked = {key: value for key, value in _asked(run).items() if key not in ("density", "seed")}
    return f"{run.coordinator}|{run.solver}|{run.source.finished}|{sorted(asked.items(), key=str)}"


def by_problem(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The runs of each problem."""
    held: dict[str, list[Run]] = {}
    for run in runs:
        held.setdefault(run.problem, []).append(run)
    yield from held.items()


def by_density(runs: Iterable[Run]) -> Iterator[tuple[str, float, list[Run]]]:
    """The runs of each problem and density."""
    for problem, same in by_problem(runs):
        for density in sorted({run.density for run in same}):
            yield problem, density, [run for run in same if run.density == density]


def build_seconds(run: Run) -> float:
    """Seconds before the first step: one-shot pruning computes its gradients then."""
    return float((run.result or {}).get("timings", {}).get("build", 0.0))


def finish_seconds(run: Run) -> float:
    """Seconds at which a finished run had its answer: building and solving, without loading and judging."""
    timings = (run.result or {}).get("timings", {})
    return float(timings.get("build", 0.0)) + float(timings.get("solve", 0.0))


def quality_against_time(runs: tuple[Run, ...]) -> Drawn:
    """Accuracy of the best network so far against seconds; runs of one step are points at their own times."""
    figures: list[Figure] = []
    notes: list[str] = []
    for problem, density, same in by_density(runs):
        quality = quality_of(same)
        names = labels(same)
        series = []
        for run in same:
            x, y = _quality_points(run, quality)
            if not x.size:
                notes.append(f"{run.source.path}: no accuracy was logged yet; add --validate-every N")
                continue
            name, variant = names[run]
            text = tuple(quality.words(value / quality.factor) for value in y)
            series.append(Series(name, run.look, "line" if x.size > 1 else "points", x, y, None, None, text, variant))
        dense = _dense(same, quality)
        if not series:
            continue
        x_axis = log_axis("seconds", [s.x for s in series], seconds=True)
        series += _rule("dense network", dense, x_axis)
        values = [s.y for s in series]
        figures.append(
            Figure(
                f"time-{len(figures)}", TIME, "Accuracy against time" if quality is ACCURACY else quality.title,
                f"{problem}, density {density:g}",
                f"The {quality.title.split(' (')[0]} on the validation samples of the network that the run would "
                "return if it ended then, against the seconds spent on gradients and solving (loading and judging are "
                "left out). Baselines that prune "
                f"in one step are points at their own times. {_better(quality)}",
                x_axis, linear_axis(quality.title, values), tuple(series), ("accuracy", "seconds of a run", "density"),
                "A run in stages passes through higher densities on its way."
                if any(len({event["kept"] for event in run.events}) > 1 for run in same) else "",
            )
        )  # fmt: skip
    if figures:
        return Drawn(tuple(figures), notes=tuple(notes))
    return Drawn(absent=Absent(TIME, "Accuracy of the network against time", "there is no pruning run", PRUNE))


def _quality_points(run: Run, quality: Quality) -> tuple[FloatArray, FloatArray]:
    start = build_seconds(run)
    times, values = [], []
    for event in run.events:
        value = (event.get("validation") or {}).get(quality.key)
        if value is not None:
            times.append(start + float(event["time"]))
            values.append(float(value))
    final = (run.result or {}).get(quality.key)
    if final is not None:
        end = max([finish_seconds(run), *times])
        if not times or values[-1] != float(final) or end > times[-1] * 1.02:
            times.append(end)
            values.append(float(final))
    return np.array(times), quality.factor * np.array(values)


def _dense(runs: list[Run], quality: Quality) -> float | None:
    for run in runs:
        value = (run.result or {}).get(f"dense_{quality.key}")
        if value is not None:
            return quality.factor * float(value)
    return None


def _rule(name: str, value: float | None, axis: Axis) -> list[Series]:
    if value is None or axis.limits is None:
        return []
    return [Series(name, REFERENCE, "rule", np.array(axis.limits), np.array([value, value]))]


def _better(quality: Quality) -> str:
    return "Higher and further left is better." if quality.higher_is_better else "Lower and further left is better."


def loss_against_time(runs: tuple[Run, ...]) -> Drawn:
    """The acceptance loss of iCBS after each step."""
    figures: list[Figure] = []
    for problem, density, same in by_density(runs):
        stepped = [run for run in same if any(event.get("acceptance_loss") is not None for event in run.events)]
        if not stepped:
            continue
        names = labels(stepped)
        series = []
        for place, run in enumerate(stepped):
            events = [event for event in run.events if event.get("acceptance_loss") is not None]
            x = build_seconds(run) + np.array([float(event["time"]) for event in events])
            y = np.array([float(event["acceptance_loss"]) for event in events])
            text = tuple(
                f"step {event['step']}, {'accepted' if event['accepted'] else 'rejected'}, loss {value:.4g}"
                for event, value in zip(events, y, strict=True)
            )
            stride = max(1, len(events) // 8)
            marked = tuple(range(place % stride, len(events), stride))
            name, variant = names[run]
            series.append(Series(name, run.look, "step", x, y, None, None, text, variant, marked))
        values = [s.y for s in series]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        y_axis = log_axis("loss", values) if high > 20 * low > 0 else None
        figures.append(
            Figure(
                f"loss-{len(figures)}", LOSS, "Loss against time", f"{problem}, density {density:g}",
                "The network's loss after each step of iCBS, on the samples that are set apart for acceptance and "
                "that no block's model has seen. Lower and further left is better.",
                log_axis("seconds", [s.x for s in series], seconds=True), y_axis or linear_axis("loss", values),
                tuple(series), ("acceptance loss", "seconds of a run"),
            )
        )  # fmt: skip
    if figures:
        return Drawn(tuple(figures))
    return Drawn(absent=Absent(LOSS, "Loss of the network against time", "there is no run of iCBS", PRUNE))


def accuracy_against_density(runs: tuple[Run, ...]) -> Drawn:
    """The final accuracy against density, a curve for each way of pruning; smaller networks have their own table."""
    figures: list[Figure] = []
    for problem, same in by_problem(tuple(run for run in runs if not run.of_groups)):
        quality = quality_of(same)
        done = [run for run in same if run.result and run.result.get(quality.key) is not None]
        if not done:
            continue
        ways: dict[str, list[Run]] = {}
        for run in done:
            ways.setdefault(settings(run), []).append(run)
        names = labels([members[0] for members in ways.values()], ("density", "seed"))
        series = [_density_curve(members, *names[members[0]], quality) for members in ways.values()]
        series += [
            path for members in ways.values() for run in members if (path := _path(run, *names[members[0]], quality))
        ]
        x_axis = log_axis("density (part of the weights kept)", [s.x for s in series], percent=True)
        series += _rule("dense network", _dense(done, quality), x_axis)
        densities = {float(value) for s in series if s.kind != "rule" for value in s.x}
        one = "" if len(densities) > 1 else "All runs have one density; prune at others to see a curve."
        figures.append(
            Figure(
                f"density-{len(figures)}", DENSITY, f"{quality.title.split(' (')[0].capitalize()} against density",
                problem,
                f"The final {quality.title.split(' (')[0]} on the validation samples against the density (sparsity is "
                f"1 − density); of several seeds the mean with its 95 % interval. A run in stages or rounds also "
                f"shows what it reached on its way. {'Higher' if quality.higher_is_better else 'Lower'} is better.",
                x_axis, linear_axis(quality.title, [s.y for s in series]), tuple(series),
                ("accuracy", "density", "confidence interval"), one,
            )
        )  # fmt: skip
    if figures:
        return Drawn(tuple(figures))
    command = (
        "for d in 0.05 0.1 0.2 0.5; do prunebench prune digits-mlp --density $d --solver iht --out DIR/iht-$d; done"
    )
    return Drawn(absent=Absent(DENSITY, "Accuracy of the network against density", "no finished run", command))


def _density_curve(members: list[Run], name: str, variant: int, quality: Quality) -> Series:
    """The runs that differ in density and seed alone, with the mean over seeds."""
    held: dict[float, list[Run]] = {}
    for run in sorted(members, key=_kept):
        held.setdefault(_kept(run), []).append(run)
    means = [
        mean_interval([quality.factor * float((run.result or {})[quality.key]) for run in s]) for s in held.values()
    ]
    text = tuple("; ".join(_told(run, quality) for run in same) for same in held.values())
    kind: Kind = "line" if len(held) > 1 else "points"
    x, y = np.array(list(held)), np.array([mean.value for mean in means])
    seeds = max(map(len, held.values())) > 1
    low = np.array([mean.lower for mean in means]) if seeds else None
    high = np.array([mean.upper for mean in means]) if seeds else None
    return Series(name, members[0].look, kind, x, y, low, high, text, variant)


def _path(run: Run, name: str, variant: int, quality: Quality) -> Series | None:
    """What the network reached at the densities that a run in stages or rounds passed through; None for others."""
    total = (run.result or {}).get("total")
    points = {
        int(event["kept"]): float(event["validation"][quality.key])
        for event in run.events
        if total and "kept" in event and (event.get("validation") or {}).get(quality.key) is not None
    }
    if len(points) < 2 or total is None:
        return None
    x = np.array(sorted(points)) / float(total)
    y = quality.factor * np.array([points[kept] for kept in sorted(points)])
    text = tuple(f"{quality.words(points[kept])} at density {kept / total:.4g}" for kept in sorted(points))
    return Series(f"{name}, on its way", run.look, "line", x, y, text=text, variant=variant + 1)


def _kept(run: Run) -> float:
    result = run.result or {}
    return float(result["kept"]) / float(result["total"]) if "total" in result else run.density


def _told(run: Run, quality: Quality) -> str:
    result = run.result or {}
    return f"{quality.words(float(result[quality.key]))} at density {_kept(run):.4g}, {finish_seconds(run):.3g} s"


def density_per_layer(runs: tuple[Run, ...]) -> Drawn:
    """The share of each layer's weights that is kept at the end, and the whole network's."""
    figures: list[Figure] = []
    notes: list[str] = []
    for problem, density, same in by_density(runs):
        shares = {run: _layer_shares(run, same) for run in same}
        for run in same:
            if not shares[run] and run.source.finished:
                notes.append(f"{run.source.path}: mask.safetensors is missing, so its layers are not shown")
        held = [run for run in same if shares[run]]
        layers = list(dict.fromkeys(layer for run in held for layer in shares[run]))
        if not layers:
            continue
        names = labels(held)
        bars = len(layers) * len(held) <= MOST_BARS
        series = []
        for run in held:
            name, variant = names[run]
            x = np.array([i for i, layer in enumerate(layers) if layer in shares[run]], dtype=np.float64)
            y = np.array([100 * shares[run][layer][0] for layer in layers if layer in shares[run]])
            text = tuple(shares[run][layer][1] for layer in layers if layer in shares[run])
            series.append(Series(name, run.look, "bar" if bars else "points", x, y, None, None, text, variant))
        x_axis = category_axis("layer", short_names(layers))
        series += _rule("whole network", 100 * density, x_axis)
        figures.append(
            Figure(
                f"layers-{len(figures)}", LAYERS, "Density of each layer", f"{problem}, density {density:g}",
                "The share of each layer's prunable weights that is kept; the dashed line is the whole network's. "
                "A bar above the line is a layer that was spared, below it one that paid for the others.",
                x_axis, linear_axis("weights kept (%)", [s.y for s in series], include=(0.0,)), tuple(series),
                ("density",),
            )
        )  # fmt: skip
    if figures:
        return Drawn(tuple(figures), notes=tuple(notes))
    return Drawn(absent=Absent(LAYERS, "Density of each layer", "no run has a mask yet", PRUNE))


def short_names(layers: Sequence[str]) -> list[str]:
    """Layers' names without the parts that all have at their beginning and end: stack.fc1.weight is fc1."""
    parts = [layer.split(".") for layer in layers]
    fewest = min(map(len, parts))
    if len(layers) < 2:
        return list(layers)
    tail = next((i for i in range(fewest - 1) if len({held[-1 - i] for held in parts}) > 1), fewest - 1)
    head = next((i for i in range(fewest - 1 - tail) if len({held[i] for held in parts}) > 1), fewest - 1 - tail)
    return [".".join(held[head : len(held) - tail]) for held in parts]


def _layer_shares(run: Run, others: list[Run]) -> Mapping[str, tuple[float, str]]:
    """By layer the share kept and words; of an unfinished run by its last event and the sizes that others know."""
    if run.layers:
        return {name: (kept / size, f"{kept:,} of {size:,}") for name, (kept, size) in run.layers.items()}
    kept_now: Mapping[str, int] = next(
        (event["kept_per_layer"] for event in reversed(run.events) if "kept_per_layer" in event), {}
    )
    sizes = next((other.layers for other in others if set(kept_now) <= set(other.layers)), {})
    if not kept_now or not sizes:
        return {}
    return {name: (kept / sizes[name][1], f"{kept:,} of {sizes[name][1]:,}, so far") for name, kept in kept_now.items()}
