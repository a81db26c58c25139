"""Heuristics of mode refit on 24 blocks: the gap to the best known answer, and CPU seconds.

Kinds: independent columns, columns correlated with their neighbours (.9), columns with a common part, sums of rank-one
layer gradients, inputs whose spectrum falls as a power, and random weights of an MLP on scikit-learn's digits; p = 64
and 128, a fifth or a twentieth kept, 32 to 512 samples. "best known" is the best of all answers of the run: of the
solvers ("descents": swap with ten restarts), of --efforts further seeds of swap, and of branch-and-bound within
--limit seconds, "proved" whether that proved it. Gaps are relative to the best known objective. With one BLAS thread:

    OPENBLAS_NUM_THREADS=1 python benchmarks/refit_search.py
    OPENBLAS_NUM_THREADS=1 python benchmarks/refit_search.py --sizes 512 1024 --efforts 0 --limit 0
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from prunebench import BlockProblem, Budget, QuadraticForm, Status, solve
from prunebench.core.arrays import FloatArray
from prunebench.runs.cut import cut_block
from runner import Benchmark, Row, cpu_seconds

KINDS = ("independent", "neighbours", "common", "layered", "spectrum", "digits-mlp")
SIZES = (64, 128)
SHARES = (5, 20)
SAMPLES = (32, 128, 512)
SOLVERS: dict[str, tuple[str, dict[str, int]]] = {
    "swap": ("swap", {}), "descents": ("swap", {"restarts": 10}), "admm": ("admm", {}), "obs": ("obs", {}),
}  # fmt: skip
"""Solver and options by column."""
WITHIN = 1e-3
"""Gap up to which a block counts as solved."""


def factor_of(kind: str, n: int, p: int, rng: np.random.Generator) -> FloatArray:
    """Rows of one kind, float64 (n, p)."""
    if kind == "common":
        return np.maximum(rng.normal(size=(n, p)) + rng.normal(size=(n, 1)), 0.0)
    if kind == "layered":
        width = int(np.sqrt(p))
        inputs, errors = np.maximum(rng.normal(size=(n, width)), 0.0), rng.normal(size=(n, -(-p // width)))
        return np.asarray((errors[:, :, None] * inputs[:, None, :]).reshape(n, -1)[:, :p])
    rows: FloatArray = rng.normal(size=(n, p))
    if kind == "neighbours":
        for j in range(1, p):
            rows[:, j] = 0.9 * rows[:, j - 1] + np.sqrt(1.0 - 0.81) * rows[:, j]
    if kind == "spectrum":
        turned, _ = np.linalg.qr(rng.normal(size=(p, p)))
        rows = rows * np.arange(1, p + 1) ** -0.75 @ turned
    return rows


def block_of(kind: str, n: int, p: int, keep: int, seed: int) -> BlockProblem:
    if kind in KINDS[:-1]:
        rng = np.random.default_rng([seed, KINDS.index(kind), n, p, keep])
        factor = factor_of(kind, n, p, rng) / np.sqrt(n)
        weights = 0.1 * rng.standard_t(4, size=p)
        ridge = 1e-3 * float(np.mean(np.sum(factor**2, axis=0)))
        return BlockProblem(QuadraticForm(factor=factor, ridge=ridge, centre=weights), weights, keep, "refit")
    return cut_block(kind, size=p, keep=keep, mode="refit", curvature={"samples": n}, seed=seed)


def blocks(seed: int, sizes: Sequence[int] = SIZES) -> Iterator[tuple[str, int, BlockProblem]]:
    """Kind, samples and block; the number of samples goes round, so that every kind has each of them."""
    number = 0
    for kind in KINDS:
        for p in sizes:
            for share in SHARES:
                n = SAMPLES[number % len(SAMPLES)]
                number += 1
                yield kind, n, block_of(kind, n, p, p // share, seed)
        number += 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1, help="of the blocks")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="weights of the blocks")
    parser.add_argument("--efforts", type=int, default=10, help="further seeds of swap for the best known answer")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of branch-and-bound a block; 0: none")
    parser.add_argument("--blocks", type=int, default=24, help="the first so many")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    small = block_of("independent", 8, 16, 4, 0)
    for name, options in SOLVERS.values():
        solve(small, name, options=options)
    gaps: dict[str, list[float]] = {name: [] for name in SOLVERS}
    times: dict[str, list[float]] = {name: [] for name in SOLVERS}
    for number, (kind, n, block) in enumerate(blocks(chosen.seed, chosen.sizes)):
        if number >= chosen.blocks:
            break
        found = {
            column: cpu_seconds(partial(solve, block, name, options=options), 1)
            for column, (name, options) in SOLVERS.items()
        }
        best = min(answer.objective for answer, _ in found.values())
        for seed in range(1, chosen.efforts + 1):
            best = min(best, solve(block, "swap", seed=seed).objective)
        proved = False
        if chosen.limit > 0.0:
            exact = solve(block, "branch-and-bound", budget=Budget(seconds=chosen.limit))
            best, proved = min(best, exact.objective), exact.status is Status.OPTIMAL
        values: dict[str, object] = {"kind": kind, "p": block.p, "keep": block.keep, "n": n, "best": best}
        for name, (answer, spent) in found.items():
            gaps[name].append(answer.objective / best - 1.0)
            times[name].append(spent)
            values |= {f"{name} gap": gaps[name][-1], f"{name} s": spent}
        yield Row("gap to the best known answer; CPU seconds of one solve", {**values, "proved": proved})
    for name in SOLVERS:
        yield Row("all blocks", {
            "solver": name, "blocks": len(gaps[name]), f"gap above {WITHIN:g}": sum(gap > WITHIN for gap in gaps[name]),
            "worst gap": max(gaps[name]), "median s": float(np.median(times[name])), "worst s": max(times[name]),
        })  # fmt: skip


QUICK = {"efforts": 1, "limit": 0.0, "blocks": 4}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
