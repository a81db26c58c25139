"""MLPNet on MNIST: the literature's one-shot baselines and multi-stage pruning, accuracy against density.

Means and standard deviations over seeds, which draw the calibration samples; the checkpoint is one.
Needs the data under $PRUNEBENCH_DATA. Nothing is fine-tuned.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/mlpnet.py --seeds 5
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunebench.coordinator.prune import PruneRequest, prune

PROBLEM = "mlpnet-mnist"
ONE_SHOT = {
    "magnitude": {"solver": "magnitude", "mode": "select"},
    "woodfisher": {"solver": "woodfisher", "solver_options": {"update": "published"}},
    "cbs": {"solver": "cbs"},
    "chita": {"solver": "chita"},
    "admm": {"solver": "admm", "solver_options": {"swaps": 0}},
}
RECALLED = {"magnitude": 32.25, "woodfisher": 38.26, "cbs": 55.45, "chita": 46.25, "multi-stage": 90.73}
"""Accuracies at density 0.02 that are recalled of the papers, in per cent."""


def one_shot(method: str, density: float, seed: int, folder: Path, ridge: float) -> float:
    """Accuracy in per cent after one stage from 1,000 sample gradients."""
    request = PruneRequest(
        problem=PROBLEM, density=density, seed=seed, curvature={"samples": 1000, "ridge": ridge}, **ONE_SHOT[method]
    )
    return 100.0 * prune(request, out=folder / f"{method}-{density}-{seed}")["accuracy"]


def multi_stage(density: float, seed: int, folder: Path, stages: int, samples: int) -> float:
    """Accuracy in per cent after all stages."""
    request = PruneRequest(
        problem=PROBLEM,
        density=density,
        solver="admm",
        solver_options={"swaps": 0, "steps": 60},
        coordinator="multi-stage",
        coordinator_options={"stages": stages, "samples": samples, "batch_size": max(1, samples // 1000)},
        seed=seed,
    )
    return 100.0 * prune(request, out=folder / f"multi-{density}-{seed}")["accuracy"]


def row(name: str, density: float, accuracies: Sequence[float], seconds: float) -> str:
    """One line of the table."""
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else float("nan")
    recalled = f"{RECALLED[name]:9.2f}" if density == 0.02 and name in RECALLED else f"{'':>9}"
    mean, each = np.mean(accuracies), seconds / len(accuracies)
    return f"{density:8.2f} {name:>12} {mean:9.2f} {spread:6.2f} {recalled} {each:9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02])
    parser.add_argument("--methods", nargs="+", default=[*ONE_SHOT, "multi-stage"])
    parser.add_argument("--stages", type=int, default=15)
    parser.add_argument("--samples", type=int, default=16000, help="of a stage, in 1,000 rows")
    parser.add_argument("--ridge", type=float, default=0.01, help="of the one-shot methods, relative")
    chosen = parser.parse_args()
    print(f"{PROBLEM}, dense 93.97 %; {chosen.seeds} seeds; accuracy in per cent, CPU seconds a run")
    print(f"{'density':>8} {'method':>12} {'mean':>9} {'std':>6} {'recalled':>9} {'seconds':>9}", flush=True)
    with tempfile.TemporaryDirectory() as held:
        for density in chosen.densities:
            for method in chosen.methods:
                start = time.process_time()
                if method == "multi-stage":
                    found = [
                        multi_stage(density, seed, Path(held), chosen.stages, chosen.samples)
                        for seed in range(chosen.seeds)
                    ]
                else:
                    found = [one_shot(method, density, seed, Path(held), chosen.ridge) for seed in range(chosen.seeds)]
                print(row(method, density, found, time.process_time() - start), flush=True)


if __name__ == "__main__":
    main()
