"""Seconds of back-solve and ADMM against the number of weights, a fixed number of rows; in memory or mapped.

A straight line through the origin is fitted by least squares; the last column is the deviation from it.
With --mapped the factor is a memory-mapped file below --folder.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/chita_scaling.py
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget
from prunebench.core.solver import make_solver
from prunebench.curvature.gradients import mapped_rows


def instance(rows: int, weights: int, path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian gradients with columns of unequal size, float32 (n, p), and heavy-tailed weights."""
    rng = np.random.default_rng(0)
    factor = np.empty((rows, weights), dtype=np.float32) if path is None else mapped_rows(path, rows, weights)
    size = np.exp(0.5 * rng.standard_normal(weights, dtype=np.float32)) / np.float32(np.sqrt(weights))
    for row in range(rows):
        factor[row] = rng.standard_normal(weights, dtype=np.float32) * size
    return factor, 0.05 * rng.standard_t(4, size=weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--weights", type=int, nargs="+", default=[30_000, 300_000, 3_000_000])
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20, help="ADMM steps, the same number for every size")
    parser.add_argument("--mapped", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    chosen = parser.parse_args()
    times: dict[str, list[float]] = {"chita-bso": [], "admm": []}
    print(f"n={chosen.rows}, density {chosen.density}, {'mapped file' if chosen.mapped else 'in memory'}; CPU seconds")
    # compiled and loaded before anything is timed
    factor, dense = instance(chosen.rows, chosen.weights[0], None)
    warm = BlockProblem(QuadraticForm(factor=factor, ridge=1.0, centre=dense), dense, dense.size // 2, "refit")
    for name in times:
        make_solver(name, {}).solve(warm, Budget(), np.random.default_rng(0))
    for weights in chosen.weights:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            factor, dense = instance(chosen.rows, weights, Path(folder) / "rows.npy" if chosen.mapped else None)
            for name in times:
                form = QuadraticForm(factor=factor, ridge=chosen.rows * 1e-6, centre=dense)
                block = BlockProblem(form, dense, round(chosen.density * weights), "refit")
                options = {"steps": chosen.steps, "swaps": 0} if name == "admm" else {}
                solver = make_solver(name, options)
                start = time.process_time()
                solver.solve(block, Budget(), np.random.default_rng(0))
                times[name].append(time.process_time() - start)
            del form, block, factor
    sizes = np.array(chosen.weights, dtype=np.float64)
    print(f"{'method':>10} {'weights':>10} {'seconds':>9} {'us/weight':>10} {'off line':>9}")
    for name, seconds in times.items():
        held = np.array(seconds)
        # relative residuals, so that the small sizes count as much as the large ones
        slope = float(np.sum(held / sizes) / sizes.size)
        for size, second in zip(sizes, held, strict=True):
            off = second / (slope * size) - 1.0
            print(f"{name:>10} {int(size):>10} {second:9.3f} {1e6 * second / size:10.3f} {100 * off:8.1f}%")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
