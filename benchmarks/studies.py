"""What a mask's objective is worth: the studies of `prunebench study` at the sizes of docs/studies.md.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/studies.py oracle
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prunebench.studies.allocation import Allocation
from prunebench.studies.connectivity import Connectivity
from prunebench.studies.oracle import Oracle
from prunebench.studies.plasticity import Plasticity
from prunebench.studies.robustness import Robustness
from prunebench.studies.run import study
from prunebench.studies.study import Study
from runner import Benchmark, Note, Row, cpu_seconds

PROTOCOL = "learning_rate=0.002,batch_size=64"
"""Of the oracle studies: as slow as that of the measurements that they are to confirm."""

MLPNET = "samples=10000,learning_rate=0.002"
"""Of MLPNet: so many of its 60,000 images, drawn once, are trained on, at the rate of those measurements too."""

PARTS = ("oracle", "finalists", "allocation", "robustness", "connectivity", "plasticity")
"""Parts of this benchmark, in the order in which they run."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="all", choices=("all", *PARTS))


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    for name in PARTS:
        if chosen.what in ("all", name):
            yield from MAKERS[name](chosen.quick)


def done(question: Study, network: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a study finds, and `cpu`, its CPU seconds; answers of earlier runs are not taken."""
    with tempfile.TemporaryDirectory() as folder:
        ask = partial(study, question, network, options, out=Path(folder) / "out", cache=False)
        found, seconds = cpu_seconds(ask)
    return {**found, "cpu": seconds}


def table(found: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A table of a study, a dictionary a row; intervals are their values."""
    (grid,) = [one for one in found["grids"] if one["key"] == key]
    return [
        {
            name: value[0]
            if kind == "interval"
            else 100.0 * value
            if kind == "percent" and value is not None
            else value
            for (name, kind), value in zip(grid["columns"], row, strict=True)
        }
        for row in grid["rows"]
    ]


def oracle(quick: bool) -> Iterator[Row | Note]:
    """All masks of a hidden layer, all masks of a few weights, and two populations over a whole network."""
    epochs = (1, 2) if quick else (1, 5, 20)
    count = 20 if quick else 160
    cases: dict[str, tuple[Oracle, dict[str, Any]]] = {
        "8 of 16 neurons": (
            Oracle(enumerate="neurons:8/16", masks=count, epochs=epochs, protocol=PROTOCOL), {"hidden": (16,)}
        ),
        "7 of 14 weights": (
            Oracle(enumerate="weights:7/14", density=0.05, masks=count, epochs=epochs, protocol=PROTOCOL), {}
        ),
        "density 0.1": (Oracle(density=0.1, masks=min(count, 95), epochs=epochs, protocol=PROTOCOL), {}),
        "density 0.05": (Oracle(density=0.05, masks=min(count, 95), epochs=epochs, protocol=PROTOCOL), {}),
    }  # fmt: skip
    for name, (question, options) in list(cases.items())[: 1 if quick else None]:
        found = done(question, "digits-mlp", options)
        for row in table(found, "model"):
            yield Row("model against true pruned loss", {"case": name, **row, "CPU s": found["cpu"]})
        for row in table(found, "links"):
            yield Row("before against after", {
                "case": name, "epochs": row["epochs"], "known": row["known"], "τ": row["validation loss"],
                **{f"τ {third}": value for third, value in _thirds(found, row).items()},
            })  # fmt: skip
        for row in table(found, "chosen"):
            yield Row("chosen masks", {"case": name, **row})


def _thirds(found: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float | None]:
    """τ with the validation loss in every third of the pruned loss."""
    (link,) = [
        one for one in found["values"]["links"]
        if (one["epochs"], one["predictor"], one["target"]) == (row["epochs"], row["known"], "validation loss")
    ]  # fmt: skip
    return {third: link[f"{third} third"]["value"] for third in ("best", "middle", "worst")}


def finalists(quick: bool) -> Iterator[Row]:
    """What successive halving finds of a population, against training all of it."""
    import numpy as np

    from prunebench.core.problem import NetworkProblem, make_problem
    from prunebench.networks.chosen import prunable_network
    from prunebench.recovery.training.halving import successive_halving
    from prunebench.recovery.training.many import reached
    from prunebench.recovery.training.protocol import parse

    problem = make_problem("digits-mlp")
    assert isinstance(problem, NetworkProblem)
    network = prunable_network(problem)
    size, rng = np.abs(network.weights()), np.random.default_rng(0)
    count, epochs = (16, 4) if quick else (100, 20)
    noisy = size * np.exp(rng.uniform(0.0, 1.0, (count, 1)) * rng.standard_normal((count, size.size)))
    masks = noisy > np.sort(noisy, axis=1)[:, [-round(0.1 * size.size) - 1]]
    protocol = parse(f"{PROTOCOL},epochs={epochs}")
    # what is loaded at a first training is counted for neither
    reached(problem, network, masks[:1], parse(f"{PROTOCOL},epochs=1"))
    ranked, seconds = cpu_seconds(lambda: successive_halving(problem, network, masks, protocol))
    all_of_them, whole = cpu_seconds(lambda: reached(problem, network, masks, protocol))
    accuracy = all_of_them.validation.accuracy
    for name, number in (("halving", int(ranked.order[0])), ("lowest pruned loss", int(ranked.rungs[1].positions[0])),
                         ("training all", int(np.argmin(all_of_them.training.loss)))):  # fmt: skip
        yield Row("finalists", {
            "chosen by": name, "rank by accuracy of all": int((accuracy > accuracy[number]).sum()) + 1,
            "accuracy": 100.0 * accuracy[number], "best": 100.0 * accuracy.max(),
            "CPU s": {"halving": seconds, "training all": whole}.get(name),
        })  # fmt: skip


def allocation(quick: bool) -> Iterator[Row | Note]:
    network, protocol = ("digits-mlp", "") if quick else ("mlpnet-mnist", MLPNET)
    solvers = ("admm",) if quick else ("admm", "chita", "woodfisher")
    found = done(
        Allocation(density=0.05, solvers=solvers, epochs=1 if quick else 3, samples=500, protocol=protocol), network
    )
    for row in table(found, "masks"):
        yield Row("allocation", {"network": network, **row, "CPU s": found["cpu"]})
    for row in table(found, "worth"):
        yield Row("what comes from where", {"network": network, **row})
    yield from map(Note, found["notes"])


def robustness(quick: bool) -> Iterator[Row | Note]:
    network, protocol = ("digits-mlp", "") if quick else ("mlpnet-mnist", MLPNET)
    solvers = ("magnitude",) if quick else ("magnitude", "obd", "admm", "woodfisher")
    found = done(Robustness(density=0.1, solvers=solvers, epochs=1, protocol=protocol), network)
    for key in ("accuracy", "geometry"):
        for row in table(found, key):
            yield Row(f"robustness, {key}", {"network": network, **row, "CPU s": found["cpu"]})
    yield from map(Note, found["notes"])


def connectivity(quick: bool) -> Iterator[Row]:
    lengths = (2,) if quick else (2, 5, 20, 80)
    densities = (0.5, 0.05) if quick else (0.5, 0.2, 0.1, 0.05, 0.02)
    question = Connectivity(
        densities=densities, dense_epochs=lengths, epochs=2 if quick else 20, protocol="batch_size=64"
    )
    found = done(question, "digits-mlp")
    for row in table(found, "cells"):
        yield Row("connectivity", {**row, "CPU s": found["cpu"]})


def plasticity(quick: bool) -> Iterator[Row]:
    found = done(Plasticity(parts=(1.0,) if quick else (0.1, 0.5, 1.0), protocol="batch_size=64"), "digits-mlp")
    for row in table(found, "masks"):
        yield Row("plasticity", {**row, "CPU s": found["cpu"]})
    for row in table(found, "dense"):
        yield Row("plasticity, dense", row)


MAKERS: Mapping[str, Callable[[bool], Iterator[Row | Note]]] = {
    "oracle": oracle, "finalists": finalists, "allocation": allocation, "robustness": robustness,
    "connectivity": connectivity, "plasticity": plasticity,
}  # fmt: skip
"""What makes the rows of every part."""

BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"what": "plasticity"})

if __name__ == "__main__":
    BENCHMARK.main()
