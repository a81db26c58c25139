"""`anneal` against every other solver of mode select on thirty blocks that nothing was tuned on, at equal CPU time.

    python benchmarks/annealing_unseen.py                       # a quarter of an hour of CPU time at most
    python benchmarks/annealing_unseen.py --sizes 64 128 --solvers anneal swap

The blocks are cut from four networks, at random, along a row or by Fisher score, with 32 to 512 samples and a tenth to
a half of the weights kept. A number is (objective − best of the row)/(a random mask's mean − best of the row), so 0 is
the best. CPU seconds of one thread; compilation is left out. Sums: one sample and hardly a ridge, where the question
is which weights sum to a given number; a number is then the objective as a share of a random mask's.
"""

import argparse
from collections.abc import Iterator

import numpy as np

import annealing_runs as runs
from prunebench import BlockProblem, Budget, QuadraticForm, solve
from prunebench.runs.cut import cut_block
from runner import Benchmark, Note, Row

SECONDS = {64: 0.5, 128: 2.0, 256: 1.5, 512: 2.0, 1024: 2.0}
"""CPU seconds of a run, by the size of the block."""
SOURCES = (
    ("digits-mlp", "random"), ("mlpnet-mnist", "row"), ("resnet20-cifar10", "row"), ("stories-llama", "row"),
    ("digits-mlp", "obd"), ("mlpnet-mnist", "random"),
)  # fmt: skip
"""Problem and draw of the six blocks of a size."""
SAMPLES = (32, 128, 512)
DENSITIES = (0.5, 0.2, 0.5, 0.1)
FIRST_SEED = 200
"""Of the blocks; no other benchmark's blocks have a seed above it."""
SOLVERS = ("anneal", "beam", "swap", *runs.FAMILY, "branch-and-bound")
BEATEN = 1e-6
"""A solver beats another where it is better by more than this share of a random mask's value."""


def blocks(sizes: list[int]) -> Iterator[tuple[dict[str, object], BlockProblem | str]]:
    """What a block is, and the block, or the reason where there is none."""
    number = 0
    for size in SECONDS:
        for problem, select in SOURCES:
            samples, density = SAMPLES[number % 3], DENSITIES[number % 4]
            seed = FIRST_SEED + number
            number += 1
            if size not in sizes:
                continue
            cells: dict[str, object] = {
                "problem": problem, "draw": select, "p": size, "n": samples,
                "keep": round(density * size), "seed": seed,
            }  # fmt: skip
            curvature = {"samples": samples, "ridge": 1e-3, "gradient_scale": 0.0}
            try:
                block = cut_block(
                    problem, size=size, density=density, select=select, curvature=curvature, seed=seed, mode="select"
                )
            except ValueError as error:
                yield cells, str(error)
            else:
                yield cells, block


def sum_block(seed: int, size: int = 128) -> BlockProblem:
    """One sample and hardly a ridge: a subset-sum problem."""
    rng = np.random.default_rng(seed)
    factor, weights = rng.normal(size=(1, size)), rng.normal(size=size)
    form = QuadraticForm(factor=factor, ridge=1e-9, centre=weights)
    return BlockProblem(form, weights, size // 2, "select")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--scale", type=float, default=1.0, help="CPU seconds of a run, times the default")


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    runs.warm_up(chosen.solvers)
    beaten = 0
    for cells, block in blocks(chosen.sizes):
        if isinstance(block, str):
            yield Note(f"{cells['problem']} skipped: {block}")
            continue
        seconds = SECONDS[block.p] * chosen.scale
        objectives = {name: objective(block, name, seconds) for name in chosen.solvers}
        best, random = min(objectives.values()), block.random_mean()
        gaps: dict[str, float] = {name: (found - best) / (random - best) for name, found in objectives.items()}
        beaten += objectives.get("anneal", best) - best > BEATEN * random
        yield Row("(objective − best)/(random − best)", {**cells, "best/random": best / random, **gaps})
    yield Row("blocks on which anneal is beaten by more than 1e-6 of a random mask's value", {"blocks": beaten})
    for seed in range(3):
        block = sum_block(seed)
        shares: dict[str, float] = {
            name: objective(block, name, SECONDS[block.p] * chosen.scale) / block.random_mean()
            for name in chosen.solvers
        }
        yield Row("sums of 64 of 128 numbers: objective/random", {"seed": seed, **shares})


def objective(block: BlockProblem, name: str, seconds: float) -> float:
    """The objective of one run."""
    return float(solve(block, runs.make(name), budget=Budget(seconds=seconds, cpu=True), seed=0).objective)


QUICK = {"sizes": [64], "solvers": ["anneal", "swap"], "scale": 0.2}
BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, QUICK)

if __name__ == "__main__":
    BENCHMARK.main()
