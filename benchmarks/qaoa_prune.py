"""Whole networks pruned by QAOA blocks: digits-mlp with iCBS at 20 %, each block solver at the same steps and time.

    python benchmarks/qaoa_prune.py
    python benchmarks/qaoa_prune.py --steps 10 --seeds 1

Blocks hold 16 weights, small enough for an exact state and for enumeration. "same time" gives the
solver as many seconds a block as qaoa-subspace took on average. One step moves one such block, so 40
steps touch 640 of the 2368 weights at most. Loss and accuracy are on the test set; magnitude is the
first mask. Mean ± standard deviation over seeds; one thread.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prunebench.runs.prune import PruneRequest, prune
from runner import Benchmark, Row, spread

SAMPLES = {"samples": 200, "accept_samples": 1000}
"""The digits have 1347 calibration samples, fewer than iCBS's defaults want."""


def run(
    solver: str, options: Mapping[str, Any], steps: int, seed: int, block_seconds: float | None = None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        request = PruneRequest(
            problem="digits-mlp", density=0.2, solver=solver, solver_options=options, mode="select", seed=seed,
            coordinator="icbs", coordinator_options={**SAMPLES, "block_size": 16, "steps": steps},
            block_seconds=block_seconds,
        )  # fmt: skip
        return prune(request, out=Path(folder) / "run")


def row(name: str, results: list[dict[str, Any]]) -> Row:
    loss, loss_deviation = spread([result["loss"] for result in results])
    accuracy, deviation = spread([result["accuracy"] for result in results], 100.0)
    seconds = statistics.mean(result["timings"]["solve"] for result in results)
    return Row("digits-mlp, density 0.2", {
        "block solver": name, "cross-entropy": loss, "loss ±": loss_deviation,
        "accuracy %": accuracy, "accuracy ±": deviation, "seconds": seconds,
    })  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    steps, seeds = chosen.steps, range(chosen.seeds)
    for solver in ("qaoa-subspace", "exhaustive", "anneal", "swap"):
        run(solver, {}, 1, 0)
    yield row("magnitude", [run("swap", {}, 0, seed) for seed in seeds])
    first = row("qaoa-subspace", [run("qaoa-subspace", {}, steps, seed) for seed in seeds])
    yield first
    yield row("qaoa-subspace, angles=layer", [run("qaoa-subspace", {"angles": "layer"}, steps, seed) for seed in seeds])
    for solver in ("exhaustive", "anneal", "swap"):
        yield row(solver, [run(solver, {}, steps, seed) for seed in seeds])
    for solver in ("exhaustive", "anneal"):
        seconds = first.values["seconds"] / steps
        yield row(f"{solver}, same time", [run(solver, {}, steps, seed, seconds) for seed in seeds])


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"steps": 5, "seeds": 1})

if __name__ == "__main__":
    BENCHMARK.main()
