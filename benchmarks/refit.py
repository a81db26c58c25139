"""Refit of the kept weights: QuadraticForm.refit against the textbook formulation, in one run.

Textbook: float64 numpy, the support gathered by a boolean mask; for more weights than samples the
Woodbury identity with a general solve, otherwise the normal equations. Run with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 python benchmarks/refit.py
"""

import argparse
from collections.abc import Iterator
from functools import partial

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.quadratic import QuadraticForm
from runner import Benchmark, Row, cpu_seconds


def textbook(factor: FloatArray, ridge: float, dense: FloatArray, mask: BoolArray) -> FloatArray:
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


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--weights", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ridge", type=float, default=1e-3, help="relative to the mean of the curvature's diagonal")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    spread = np.exp(0.5 * rng.normal(size=chosen.weights))
    factor = rng.normal(size=(chosen.rows, chosen.weights)) * spread / np.sqrt(chosen.rows)
    dense = 0.1 * rng.standard_t(4, size=chosen.weights)
    ridge = chosen.ridge * float(np.mean(np.sum(factor**2, axis=0)))
    exact = QuadraticForm(factor=factor, ridge=ridge, centre=dense)
    title = (
        f"n = {chosen.rows}, p = {chosen.weights}, ridge {chosen.ridge:g} of the mean diagonal; CPU seconds, best of "
        f"{chosen.repeats}; the textbook side is float64, its factor ready in float64"
    )
    for density in (0.5, 0.2, 0.05):
        mask = np.zeros(chosen.weights, dtype=np.bool_)
        mask[np.argsort(-np.abs(dense))[: round(density * chosen.weights)]] = True
        textbook_side = partial(textbook, factor, ridge, dense, mask)
        theirs, their_seconds = cpu_seconds(textbook_side, chosen.repeats, warm=True)
        for dtype in (np.float32, np.float64):
            form = QuadraticForm(factor=factor.astype(dtype), ridge=ridge, centre=dense)
            ours, seconds = cpu_seconds(partial(form.refit, mask), chosen.repeats, warm=True)
            yield Row(title, {
                "density": density, "dtype": np.dtype(dtype).name,
                "f textbook": exact.value(theirs), "f ours": exact.value(ours),
                "textbook s": their_seconds, "ours s": seconds, "ratio": seconds / their_seconds,
            })  # fmt: skip


QUICK = {"rows": 200, "weights": 6000, "repeats": 2}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
