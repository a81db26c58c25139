"""ResNet20 on CIFAR-10: magnitude and multi-stage pruning, accuracy against density, every stage printed.

Needs the data under $PRUNEBENCH_DATA. Recalled of CHITA++ (91.36 % dense, all 10,000 test images):
90.38 at density 0.3, 88.72 at 0.2, 79.32 at 0.1. On the subset's 1,017 images the standard error is 0.9.

    python benchmarks/resnet20.py --densities 0.3 0.2 0.1 --seeds 3
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from prunebench.coordinator.prune import PruneRequest, prune

RECALLED = {0.7: 91.25, 0.6: 91.20, 0.5: 91.04, 0.4: 90.78, 0.3: 90.38, 0.2: 88.72, 0.1: 79.32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.7, 0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", type=int, default=15)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--ridges", type=float, nargs="+", default=[0.001, 0.03, 1.0])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    chosen = parser.parse_args()
    options = {
        "stages": chosen.stages,
        "samples": chosen.samples,
        "batch_size": chosen.batch_size,
        "ridges": tuple(chosen.ridges),
        "gradient_scales": tuple(chosen.scales),
    }
    print(f"{'density':>8} {'mean':>7} {'std':>6} {'CHITA++':>8} {'minutes':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for density in chosen.densities:
            start, found = time.perf_counter(), []
            for seed in range(chosen.seeds):
                request = PruneRequest(
                    problem="resnet20-cifar10",
                    density=density,
                    solver="admm",
                    solver_options={"swaps": 0, "steps": 40},
                    coordinator="multi-stage",
                    coordinator_options=options,
                    seed=seed,
                )
                out = Path(folder) / f"{density}-{seed}"
                result = prune(request, out=out, say=lambda line: print(line, file=sys.stderr, flush=True))
                found.append(100.0 * result["accuracy"])
            minutes = (time.perf_counter() - start) / 60.0 / chosen.seeds
            spread = float(np.std(found, ddof=1)) if len(found) > 1 else float("nan")
            recalled = RECALLED.get(density, float("nan"))
            print(f"{density:8.2f} {np.mean(found):7.2f} {spread:6.2f} {recalled:8.2f} {minutes:8.1f}", flush=True)


if __name__ == "__main__":
    main()
