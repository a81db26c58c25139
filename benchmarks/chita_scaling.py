"""Seconds of back-solve and ADMM against the number of weights, a fixed number of rows; in memory or mapped.

A straight line through the origin is fitted by least squares; the last column is the deviation from it.
With --mapped the factor is a memory-mapped file below --folder.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/chita_scaling.py
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget
from prunebench.core.solver import make_solver
from prunebench.curvature.gradients import mapped_rows
from runner import Benchmark, Note, Row

METHODS = ("chita-bso", "admm")


def instance(rows: int, weights: int, path: Path | None) -> tuple[Any, FloatArray]:
    """Gaussian gradients with columns of unequal size, float32 (n, p), and heavy-tailed weights."""
    rng = np.random.default_rng(0)
    factor = np.empty((rows, weights), dtype=np.float32) if path is None else mapped_rows(path, rows, weights)
    size = np.exp(0.5 * rng.standard_normal(weights, dtype=np.float32)) / np.float32(np.sqrt(weights))
    for row in range(rows):
        factor[row] = rng.standard_normal(weights, dtype=np.float32) * size
    return factor, 0.05 * rng.standard_t(4, size=weights)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--weights", type=int, nargs="+", default=[30_000, 300_000, 3_000_000])
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=20, help="ADMM steps, the same number for every size")
    parser.add_argument("--mapped", action="store_true", help="the factor in a memory-mapped file")
    parser.add_argument("--folder", type=Path, default=None)


def measured(chosen: argparse.Namespace, weights: int) -> list[float]:
    """CPU seconds of each method on one size."""
    seconds = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        factor, dense = instance(chosen.rows, weights, Path(folder) / "rows.npy" if chosen.mapped else None)
        for name in METHODS:
            form = QuadraticForm(factor=factor, ridge=chosen.rows * 1e-6, centre=dense)
            block = BlockProblem(form, dense, round(chosen.density * weights), "refit")
            solver = make_solver(name, {"steps": chosen.steps, "swaps": 0} if name == "admm" else {})
            start = time.process_time()
            solver.solve(block, Budget(), np.random.default_rng(0))
            seconds.append(time.process_time() - start)
    return seconds


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    # compiled and loaded before anything is timed
    factor, dense = instance(chosen.rows, chosen.weights[0], None)
    warm = BlockProblem(QuadraticForm(factor=factor, ridge=1.0, centre=dense), dense, dense.size // 2, "refit")
    for name in METHODS:
        make_solver(name, {}).solve(warm, Budget(), np.random.default_rng(0))
    title = f"n = {chosen.rows}, density {chosen.density}, {'mapped file' if chosen.mapped else 'in memory'}"
    sizes = np.array(chosen.weights, dtype=np.float64)
    times = np.array([measured(chosen, weights) for weights in chosen.weights])
    for name, held in zip(METHODS, times.T, strict=True):
        # relative residuals, so that the small sizes count as much as the large ones
        slope = float(np.sum(held / sizes) / sizes.size)
        for size, seconds in zip(chosen.weights, held.tolist(), strict=True):
            off = 100.0 * (seconds / (slope * size) - 1.0)
            values = {"method": name, "weights": size, "CPU s": seconds, "us/weight": 1e6 * seconds / size}
            yield Row(title, values | {"% off line": off})
    yield Note(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


QUICK = {"rows": 100, "weights": [30_000, 100_000, 300_000], "steps": 5}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
