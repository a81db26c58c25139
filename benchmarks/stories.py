"""stories260K, a small real language model: perplexity against density for every way of pruning it.

    OMP_NUM_THREADS=1 python benchmarks/stories.py [--densities 0.8 0.7 0.5 0.3] [--seeds 3] [--methods …]

Perplexity a token on the last 100 stories (dense 3.87), mean over seeds and standard deviation; seconds
are those of the whole run but loading and judging. The last lines give each density's best, and its ratio
to the better of Wanda and SparseGPT. Needs the data under $PRUNEBENCH_DATA. One thread.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from prunebench.coordinator.prune import PruneRequest, prune

PUBLISHED = ("wanda", "sparsegpt")
SHORT = {"context": 128, "sequences": 2500, "batch": 32}
"""Many short sequences: more rows for the same tokens."""

WHOLE = {"block_scope": "network", "block_size": 10**6, "select": "magnitude", "fixed_pruned": 0.0, "fixed_kept": 0.0}
"""The whole network as the block, nothing held back."""


def layer_wise(solver: str, mode: str, quota: str, target: str = "own") -> dict[str, Any]:
    """A method from layer inputs alone."""
    return {
        "solver": solver,
        "mode": mode,
        "coordinator": "layer-wise",
        "coordinator_options": {"quota": quota, "samples": 32, "target": target},
    }


METHODS: Mapping[str, Mapping[str, Any]] = {
    "magnitude": layer_wise("magnitude", "select", "layer"),
    "wanda": layer_wise("wanda", "select", "row"),
    "sparsegpt": layer_wise("sparsegpt", "refit", "layer"),
    "sparsegpt (row)": layer_wise("sparsegpt", "refit", "row"),
    "alps": layer_wise("alps", "refit", "row"),
    "alps dense target": layer_wise("alps", "refit", "row", "dense"),
    "icbs select": {
        "solver": "swap",
        "mode": "select",
        "coordinator": "icbs",
        "problem_options": SHORT,
        "coordinator_options": {
            "init": "wanda",
            "steps": 30,
            "block_size": 1024,
            "blocks_per_step": 35,
            "samples": 256,
            "accept_samples": 256,
            "gradient_scale": 1.0,
            "fixed_pruned": 0.0,
            "fixed_kept": 0.0,
        },
    },
    "icbs refit": {
        "solver": "obd",
        "mode": "refit",
        "coordinator": "icbs",
        "problem_options": SHORT,
        "coordinator_options": {
            **WHOLE,
            "init": "wanda",
            "steps": 40,
            "samples": 128,
            "accept_samples": 128,
            "gradient_scale": 1.0,
            "ridge": 1.0,
            "trust": "adaptive",
            "tabu": 0.0,
        },
    },
    "multi-stage refit": {
        "solver": "obd",
        "mode": "refit",
        "coordinator": "multi-stage",
        "problem_options": SHORT,
        "coordinator_options": {
            "stages": 6,
            "samples": 256,
            "batch_size": 1,
            "held_out": 64,
            "ridges": (30.0, 300.0, 3000.0),
            "gradient_scales": (1.0, 1.0, 1.0),
            "settle": 1,
            "settle_end": 30,
            "settle_size": 10**6,
            "settle_samples": 256,
        },
    },
}
"""By name: what a pruning run is asked for. A further method is one more entry."""


def run(problem: str, method: str, density: float, seed: int, folder: Path, measure: str) -> tuple[float, float]:
    """The measure and the seconds of one run."""
    request = PruneRequest(problem=problem, density=density, seed=seed, **METHODS[method])
    result = prune(request, out=folder / f"{method.replace(' ', '-')}-{density}-{seed}", say=lambda _line: None)
    timings = result["timings"]
    return result[measure], sum(value for name, value in timings.items() if name in ("build", "solve"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.8, 0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"stories-llama, dense perplexity 3.87, {arguments.seeds} seeds, {torch.get_num_threads()} thread, float32")
    print(f"{'density':>8} {'method':<18} {'perplexity':>11} {'std':>7} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for density in arguments.densities:
            means = {}
            for method in arguments.methods:
                seeds = range(1 if method == "magnitude" else arguments.seeds)
                found = [run("stories-llama", method, density, seed, Path(folder), "perplexity") for seed in seeds]
                values, seconds = [value for value, _ in found], [value for _, value in found]
                means[method] = statistics.fmean(values)
                spread = statistics.stdev(values) if len(values) > 1 else float("nan")
                took = statistics.fmean(seconds)
                print(f"{density:>8.2f} {method:<18} {means[method]:>11.3f} {spread:>7.3f} {took:>8.1f}", flush=True)
            held = [means[method] for method in PUBLISHED if method in means]
            best = min(means, key=lambda method: means[method])
            if held:
                ratio = means[best] / min(held)
                print(f"{density:>8.2f} best: {best}, {ratio:.3f} of the better of {' and '.join(PUBLISHED)}")


if __name__ == "__main__":
    main()
