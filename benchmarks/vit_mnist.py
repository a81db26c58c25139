"""A small vision transformer on MNIST: accuracy and loss against density for every way of pruning it.

    OMP_NUM_THREADS=1 python benchmarks/vit_mnist.py [--densities 0.5 0.3 0.2 0.1] [--seeds 3] [--methods …]

On the 10,000 test images (dense 97.94 %), means over seeds; seconds are those of the whole run but loading
and judging. The last lines give each density's best, and its errors over those of the better of Wanda and
SparseGPT. Needs the data under $PRUNEBENCH_DATA. One thread.
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
FREE = {"fixed_pruned": 0.0, "fixed_kept": 0.0, "gradient_scale": 1.0}
"""No weight is held back, and the gradient counts in full."""


def layer_wise(solver: str, mode: str, quota: str, target: str = "own") -> dict[str, Any]:
    """A method from layer inputs alone."""
    return {
        "solver": solver,
        "mode": mode,
        "coordinator": "layer-wise",
        "coordinator_options": {"quota": quota, "target": target, "samples": 256},
    }


METHODS: Mapping[str, Mapping[str, Any]] = {
    "magnitude": layer_wise("magnitude", "select", "layer"),
    "wanda": layer_wise("wanda", "select", "row"),
    "sparsegpt": layer_wise("sparsegpt", "refit", "layer"),
    "alps": layer_wise("alps", "refit", "row"),
    "alps dense target": layer_wise("alps", "refit", "row", "dense"),
    "icbs select": {
        "solver": "swap",
        "mode": "select",
        "coordinator": "icbs",
        "coordinator_options": {**FREE, "steps": 30, "block_size": 1024, "blocks_per_step": 24, "samples": 1000},
    },
    "icbs refit": {
        "solver": "obd",
        "mode": "refit",
        "coordinator": "icbs",
        "coordinator_options": {
            **FREE,
            "block_scope": "network",
            "block_size": 10**6,
            "select": "magnitude",
            "tabu": 0.0,
            "steps": 20,
            "samples": 500,
            "ridge": 0.1,
            "trust": "adaptive",
        },
    },
}
"""By name: what a pruning run is asked for. A further method is one more entry."""


def run(method: str, density: float, seed: int, folder: Path) -> tuple[float, float, float]:
    """Accuracy in per cent, loss, and seconds of one run."""
    request = PruneRequest(problem="vit-mnist", density=density, seed=seed, **METHODS[method])
    result = prune(request, out=folder / f"{method.replace(' ', '-')}-{density}-{seed}", say=lambda _line: None)
    seconds = sum(value for name, value in result["timings"].items() if name in ("build", "solve"))
    return 100.0 * result["accuracy"], result["loss"], seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"vit-mnist, dense accuracy 97.94 %, {arguments.seeds} seeds, {torch.get_num_threads()} thread, float32")
    print(f"{'density':>8} {'method':<14} {'accuracy':>9} {'std':>6} {'loss':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for density in arguments.densities:
            errors = {}
            for method in arguments.methods:
                seeds = range(1 if method == "magnitude" else arguments.seeds)
                found = [run(method, density, seed, Path(folder)) for seed in seeds]
                accuracy, loss, seconds = (statistics.fmean(column) for column in zip(*found, strict=True))
                spread = statistics.stdev(row[0] for row in found) if len(found) > 1 else float("nan")
                errors[method] = 100.0 - accuracy
                print(
                    f"{density:>8.2f} {method:<14} {accuracy:>9.2f} {spread:>6.2f} {loss:>8.4f} {seconds:>8.1f}",
                    flush=True,
                )
            held = [errors[method] for method in PUBLISHED if method in errors]
            best = min(errors, key=lambda method: errors[method])
            if held:
                ratio = errors[best] / min(held)
                print(
                    f"{density:>8.2f} best: {best}, {ratio:.2f} of the errors of the better of {', '.join(PUBLISHED)}"
                )


if __name__ == "__main__":
    main()
