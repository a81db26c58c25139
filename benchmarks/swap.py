"""Swap descent from magnitude pruning: prunebench's kernels against a plain numpy search, in one run.

The plain search forms H (and in mode refit its inverse on the support) and evaluates all k(p−k)
swaps with numpy arrays at every step, the best one first; both sides follow the same rule, so they
make about the same moves. Run with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 python benchmarks/swap.py
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import MODES, BlockProblem, Mode
from prunebench.core.incumbent import Incumbent
from prunebench.core.quadratic import QuadraticForm
from prunebench.kernels.local_search.descent import SwapDescent
from runner import Benchmark, Row, cpu_seconds

REPEATS = 5


def layered_block(n: int, p: int, density: float, mode: Mode) -> BlockProblem:
    """Rank-one layer gradients with heavy-tailed weights, as a network's are."""
    rng = np.random.default_rng(0)
    width = int(np.sqrt(p))
    inputs = np.maximum(rng.normal(size=(n, width)), 0.0)
    errors = rng.normal(size=(n, -(-p // width))) * rng.random((n, 1))
    factor = (errors[:, :, None] * inputs[:, None, :]).reshape(n, -1)[:, :p].astype(np.float32) / np.float32(np.sqrt(n))
    ridge = 0.01 * float(np.mean(np.sum(factor.astype(np.float64) ** 2, axis=0)))
    weights = 0.1 * rng.standard_t(4, size=p)
    return BlockProblem(QuadraticForm(factor=factor, ridge=ridge, centre=weights), weights, round(density * p), mode)


def plain_search(block: BlockProblem) -> tuple[BoolArray, int]:
    """Best-improvement swaps with numpy, the matrices formed once (select) or at every move (refit)."""
    form, mask = block.form, block.incumbent.copy()
    hessian = form.gram(np.arange(block.p))
    slope = form.linear - form.product(form.centre)
    moves = 0
    while True:
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        if block.mode == "select":
            weights = block.dense_weights
            couplings = hessian * weights[:, None] * weights
            half = 0.5 * couplings.diagonal()
            fields = weights * slope + couplings[:, kept].sum(axis=1)
            enter, leave = fields[pruned] + half[pruned], fields[kept] - half[kept]
            change = enter[None, :] - leave[:, None] - couplings[np.ix_(kept, pruned)]
            scale = np.abs(fields).max()
        else:
            inverse = np.linalg.inv(hessian[np.ix_(kept, kept)])
            cross = inverse @ hessian[np.ix_(kept, pruned)]
            refitted = -inverse @ slope[kept]
            gradient = slope[pruned] + hessian[np.ix_(pruned, kept)] @ refitted
            schur = hessian.diagonal()[pruned] - np.einsum("ij,ij->j", cross, hessian[np.ix_(kept, pruned)])
            own = inverse.diagonal()[:, None]
            numerator = refitted[:, None] ** 2 * schur - gradient**2 * own + 2 * gradient * refitted[:, None] * cross
            change = 0.5 * numerator / (own * schur + cross**2)
            scale = abs(float(slope[kept] @ refitted))
        best = np.unravel_index(change.argmin(), change.shape)
        if change[best] >= -1e-12 * scale:
            return mask, moves
        mask[kept[best[0]]], mask[pruned[best[1]]] = False, True
        moves += 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 256, 1024], help="with n = p/4 samples")
    parser.add_argument("--network", action="store_true", help="also p = 32,000, n = 1,000, ours alone")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    for mode in MODES:
        small = layered_block(8, 24, 0.5, mode)
        SwapDescent(small).run(small.incumbent, Incumbent(small))
    cases = [(p, p // 4, True) for p in chosen.sizes] + ([(32_000, 1000, False)] if chosen.network else [])
    for p, n, both in cases:
        for density in (0.5, 0.1):
            for mode in MODES:
                yield row(layered_block(n, p, density, mode), n, both)


def row(block: BlockProblem, n: int, both: bool) -> Row:
    found, ours = cpu_seconds(lambda: SwapDescent(replace(block)).run(block.incumbent, Incumbent(block)), REPEATS)
    plain, moves, theirs = None, None, None
    if both:
        (mask, moves), theirs = cpu_seconds(lambda: plain_search(block), REPEATS)
        plain = block.evaluate(mask)
    return Row(f"float32 factor; CPU seconds, best of {REPEATS}; everything compiled before", {
        "mode": block.mode, "p": block.p, "n": n, "density": block.density,
        "f magnitude": block.evaluate(block.incumbent), "f plain": plain, "f ours": block.evaluate(found.mask),
        "moves plain": moves, "moves ours": found.moves, "plain s": theirs, "ours s": ours,
        "plain/ours": None if theirs is None else theirs / ours,
    })  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"sizes": [64, 256]})

if __name__ == "__main__":
    BENCHMARK.main()
