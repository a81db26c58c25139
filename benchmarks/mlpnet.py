"""MLPNet on MNIST: the literature's one-shot baselines and multi-stage pruning, accuracy against density.

Means and standard deviations over seeds, which draw the calibration samples; the checkpoint is one.
The one-shot methods of a seed share its 1,000 sample gradients; a multi-stage run passes through
all densities. Needs the data under $PRUNEBENCH_DATA. Nothing is fine-tuned.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/mlpnet.py --seeds 5
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunebench import make_problem
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem
from prunebench.core.solution import Budget
from prunebench.curvature.fisher import FisherOptions, network_form
from prunebench.networks.network import PrunableNetwork
from prunebench.runs.prune import PruneRequest, prune
from prunebench.solving import solve
from runner import Benchmark, Note, Row, spread

PROBLEM = "mlpnet-mnist"
DENSITIES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
STAGES = (
    *(0.5, 0.4, 0.3, 0.24, 0.2, 0.16, 0.13, 0.1, 0.08, 0.065, 0.056, 0.05, 0.044),
    *(0.04, 0.036, 0.033, 0.03, 0.0275, 0.025, 0.023, 0.0215, 0.02),
)
"""Densities of a multi-stage run's stages, those of the table among them; small steps where little is left."""
SAMPLES = 16000
"""Sample gradients of a stage, held as 1,000 rows: those of the table in docs/coordinators.md."""
ONE_SHOT: dict[str, tuple[str, dict[str, Any], Mode]] = {
    "magnitude": ("magnitude", {}, "select"),
    "woodfisher": ("woodfisher", {"update": "published"}, "refit"),
    "cbs": ("cbs", {}, "refit"),
    "chita": ("chita", {"swaps": 0}, "refit"),
    "admm": ("admm", {"swaps": 0}, "refit"),
}
RECALLED = {"magnitude": 32.25, "woodfisher": 38.26, "cbs": 55.45, "chita": 46.25, "multi-stage": 90.73}
"""Accuracies at density 0.02 that are recalled of the papers, in per cent."""

Found = dict[tuple[float, str], list[float]]
"""Accuracies in per cent, by density and method."""


def one_shot(methods: list[str], seed: int, chosen: argparse.Namespace, found: Found, spent: dict[str, float]) -> None:
    """Accuracies after one stage from 1,000 sample gradients, for every density."""
    problem = make_problem(PROBLEM)
    assert isinstance(problem, NetworkProblem)
    model = problem.model()
    network = PrunableNetwork(model, problem.prunable())
    form = network_form(problem, network, FisherOptions(samples=1000, ridge=chosen.ridge), np.random.default_rng(seed))
    weights = network.weights()
    for method in methods:
        solver, options, mode = ONE_SHOT[method]
        start = time.process_time()
        for density in DENSITIES:
            block = BlockProblem(form, weights, keep_count(density, weights.size), mode, problem=PROBLEM)
            answer = solve(block, solver, options=options, budget=Budget(seconds=chosen.seconds), seed=seed)
            network.assign(answer.weights)
            found[density, method].append(100.0 * problem.evaluate(model)["accuracy"])
        spent[method] += time.process_time() - start


def staged(densities: Sequence[float], samples: int = SAMPLES) -> dict[str, Any]:
    """The fields of a request for a multi-stage run through some densities, beside problem, density and seed."""
    return {
        "solver": "admm",
        "solver_options": {"swaps": 0, "steps": 60},
        "coordinator": "multi-stage",
        "coordinator_options": {
            "densities": tuple(densities),
            "samples": samples,
            "batch_size": max(1, samples // 1000),
        },
    }


def multi_stage(seed: int, folder: Path, samples: int, found: Found, spent: dict[str, float]) -> None:
    """Accuracies at the table's densities on the way to the last, all from one run."""
    start = time.process_time()
    request = PruneRequest(problem=PROBLEM, density=STAGES[-1], seed=seed, **staged(STAGES, samples))
    out = folder / f"multi-{seed}"
    prune(request, out=out)
    last: dict[int, float] = {}
    for line in (out / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        last[event["stage"]] = 100.0 * event["validation"]["accuracy"]
    for stage, density in enumerate(STAGES):
        if density in DENSITIES:
            found[density, "multi-stage"].append(last[stage + 1])
    spent["multi-stage"] += time.process_time() - start


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=[*ONE_SHOT, "multi-stage"])
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of a stage, in 1,000 rows")
    parser.add_argument("--ridge", type=float, default=0.01, help="of the one-shot methods, relative")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of a one-shot solve (cbs is slow)")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    found: Found = defaultdict(list)
    spent: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
            one_shot([method for method in chosen.methods if method in ONE_SHOT], seed, chosen, found, spent)
            if "multi-stage" in chosen.methods:
                multi_stage(seed, Path(folder), chosen.samples, found, spent)
            yield Note(f"seed {seed} done, {time.process_time():.0f} CPU s")
    title = f"{PROBLEM}, dense 93.97 %; {chosen.seeds} seeds from {chosen.first_seed}; accuracy in per cent"
    for density in DENSITIES:
        for method in chosen.methods:
            mean, deviation = spread(found[density, method])
            recalled = RECALLED.get(method) if density == 0.02 else None
            values = {"density": density, "method": method, "mean": mean, "std": deviation, "recalled": recalled}
            yield Row(title, values)
    for method in chosen.methods:
        seconds = spent[method] / chosen.seeds
        yield Row("CPU seconds a seed, all densities", {"method": method, "CPU s": seconds})


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"seeds": 1, "methods": ["magnitude", "woodfisher", "chita"]})

if __name__ == "__main__":
    BENCHMARK.main()
