"""The line between the networks of two runs, and how much their masks and their features have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.log.run_directory import RunDirectory, trainings
from prunebench.runs.start import load_start
from prunebench.studies.findings import Curve, Findings, Grid, Plot, values_of
from prunebench.studies.study import Setting, State

Walked = Callable[[State, State], tuple["np.ndarray", "np.ndarray", float]]
"""From two states, the parts of the way between them, the error there, and the height of its barrier."""


@dataclass(frozen=True)
class End:
    """The network of a run: as it was trained last, or as it was pruned where it was not.

    path : the run directory;  training : the protocol of that training, "" for the usual one, None without any
    mask : bool (p,);  state : all tensors
    """

    path: str
    training: str | None
    mask: BoolArray
    state: State


def require_two(paths: Sequence[str]) -> None:
    """Refuse another number of runs than two, and smaller networks.

    Raises
    ------
    InvalidInput   with the remedy
    """
    if len(paths) != 2:
        raise InvalidInput(f"study connectivity looks at the line between two runs, and {len(paths)} are named")
    for path in paths:
        if (RunDirectory.open(Path(path)).result() or {}).get("costs"):
            raise InvalidInput(
                f"{path} is a run of structured pruning: between networks of different shapes there is no line; give "
                "runs that pruned single weights"
            )


def ends_of(setting: Setting, paths: Sequence[str]) -> list[End]:
    """The networks of finished runs. The setting's network is left as it is.

    Raises
    ------
    InvalidInput   no finished run of this network, or files that the run did not write
    """
    from prunebench.pruned import last_training

    base, out = setting.network.state(), []
    for path in paths:
        mask = load_start(Path(path), setting.network).mask
        run = RunDirectory.open(Path(path))
        result = run.result() or {}
        trained = last_training(run, result)
        if trained is not None:
            setting.network.load_state(trained)
        done = trainings(result)
        out.append(End(path, str(done[-1]["protocol"]) if done else None, mask, setting.network.state()))
        setting.network.load_state(base)
    return out


def between(setting: Setting, paths: Sequence[str], classes: int, walked: Walked) -> Findings:
    """What lies between the networks of two runs. classes : of the samples"""
    from prunebench.recovery.training.many import judge_model
    from prunebench.studies.features import cka, features_of, last_layer

    problem, network = setting.problem, setting.network
    first, second = ends_of(setting, paths)
    base, layer = network.state(), last_layer(network.model, classes)
    inputs = problem.validation().batch(np.arange(len(problem.validation())))[0]
    accuracy, features, weights = [], [], []
    for end in (first, second):
        network.load_state(end.state)
        accuracy.append(float(judge_model(problem, network.model).validation.accuracy[0]))
        weights.append(network.weights())
        if layer is not None:
            features.append(features_of(network.model, layer, inputs).values)
    network.load_state(base)
    parts, errors, barrier = walked(first.state, second.state)
    alike = cka(features[0], features[1]) if features else None
    shared = float((first.mask & second.mask).sum() / min(first.mask.sum(), second.mask.sum()))
    norms = [float(np.linalg.norm(values)) for values in weights]
    apart = float(np.linalg.norm(weights[0] - weights[1])) / (float(np.mean(norms)) or 1.0)
    networks = Grid(
        "networks", "The two networks", "What each run kept, and the accuracy on validation samples, as it was trained "
        "last, or as it was pruned where it was not.",
        (("run", "text"), ("density", "number"), ("training", "text"), ("accuracy", "percent")),
        tuple(
            (end.path, float(end.mask.mean()), "none" if end.training is None else end.training or "usual", reached)
            for end, reached in zip((first, second), accuracy, strict=True)
        ),
    )  # fmt: skip
    line = Grid(
        "line", "Between them", "How far the error on calibration samples rises, in points, above the straight line "
        "between the two; the CKA of their features, 1 for the same up to a rotation; the part of the smaller mask "
        "that both keep; and the distance of their weights, relative to their mean norm. Where masks differ, networks "
        "between the ends keep what either keeps.",
        (("barrier, points", "number"), ("CKA", "number"), ("kept by both", "percent"), ("distance", "number")),
        ((100.0 * barrier, alike, shared, apart),),
    )  # fmt: skip
    plot = Plot(
        "line-between", "Between two runs", "The error on calibration samples along the straight line between the two "
        "networks.", ("part of the way", "linear"), ("error (%)", "linear"),
        (Curve("error", "line", values_of(parts), values_of(100.0 * errors)),),
    )  # fmt: skip
    values = {"barrier": barrier, "errors": errors, "cka": alike, "kept_by_both": shared, "distance": apart,
              "accuracy": accuracy}  # fmt: skip
    return Findings(values, (networks, line), (plot,))
