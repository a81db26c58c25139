"""Refit of the kept weights: QuadraticForm.refit against the textbook formulation, in one run.

Textbook: float64 numpy, the support gathered by a boolean mask; for more weights than samples the
Woodbury identity with a general solve, otherwise the normal equations. Run with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 python benchmarks/refit.py
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from prunebench.core.quadratic import QuadraticForm


def textbook(factor: np.ndarray, ridge: float, dense: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The weights on the mask that minimise 1/2 |A (w - dense)|² + ridge/2 |w - dense|², float64."""
    columns = factor[:, mask]
    target = factor @ dense
    right = columns.T @ target + ridge * dense[mask]
    rows, kept = columns.shape
    out = np.zeros(dense.size)
    if kept <= rows:
        out[mask] = np.linalg.solve(columns.T @ columns + ridge * np.eye(kept), right)
    else:
        inner = np.linalg.solve(np.eye(rows) + columns @ columns.T / ridge, columns @ right)
        out[mask] = right / ridge - columns.T @ inner / ridge**2
    return out


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """The lowest processor time of `repeats` runs, after one that is not counted."""
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--weights", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ridge", type=float, default=1e-3, help="relative to the mean of the curvature's diagonal")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    spread = np.exp(0.5 * rng.normal(size=chosen.weights))
    factor = rng.normal(size=(chosen.rows, chosen.weights)) * spread / np.sqrt(chosen.rows)
    dense = 0.1 * rng.standard_t(4, size=chosen.weights)
    ridge = chosen.ridge * float(np.mean(np.sum(factor**2, axis=0)))
    exact = QuadraticForm(factor=factor, ridge=ridge, centre=dense)
    print(f"n={chosen.rows} p={chosen.weights} ridge={chosen.ridge:g}·mean diagonal")
    print(f"CPU seconds, best of {chosen.repeats}; the textbook side is always float64, its factor ready in float64")
    print(f"BLAS threads: {os.environ.get('OPENBLAS_NUM_THREADS', 'library default')}")
    print(
        f"{'density':>8} {'dtype':>8} {'f textbook':>13} {'f ours':>13} {'textbook s':>11} {'ours s':>8} {'ratio':>7}"
    )
    for density in (0.5, 0.2, 0.05):
        keep = round(density * chosen.weights)
        mask = np.zeros(chosen.weights, dtype=np.bool_)
        mask[np.argsort(-np.abs(dense))[:keep]] = True
        theirs = cpu_seconds(lambda: textbook(factor, ridge, dense, mask), chosen.repeats)  # noqa: B023  # called at once
        value = exact.value(textbook(factor, ridge, dense, mask))
        for dtype in (np.float32, np.float64):
            form = QuadraticForm(factor=factor.astype(dtype), ridge=ridge, centre=dense)
            ours = cpu_seconds(lambda: form.refit(mask), chosen.repeats)  # noqa: B023  # called at once
            mine = exact.value(form.refit(mask))
            print(
                f"{density:8.2f} {np.dtype(dtype).name:>8} {value:13.8g} {mine:13.8g} "
                f"{theirs:11.4f} {ours:8.4f} {ours / theirs:7.3f}"
            )


if __name__ == "__main__":
    main()
