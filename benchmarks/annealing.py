"""Annealing against its peers on the same blocks and the same CPU time; gaps raw, repaired and polished.

    python benchmarks/annealing.py --out runs.jsonl   the whole table, half an hour of CPU time; can be continued
    python benchmarks/annealing.py --quick            under a minute
    python benchmarks/annealing.py --results FILE     the tables as lines of JSON, as --out of other benchmarks
    python benchmarks/annealing.py --sizes 256 --families z --only anneal swap

gap = (f - best) / (mean over random masks - best). At p = 64 branch and bound proves the best; above,
it is the least of every run of this table and of long runs of branch and bound, swap descent, tabu
search, neal and anneal (annealing_reference.py). CPU seconds of one thread; compilation is left out.
OpenJij's rows need `pip install openjij` and are left out, with a line, where it is missing.
"""

import argparse
import math
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import annealing_runs as runs
import annealing_tables as tables
from annealing_reference import reference
from annealing_runs import Record
from digits_blocks import FAMILIES, first_layer_block, first_layer_blocks
from prunebench import BlockProblem, Budget, QuadraticForm, solve
from runner import Benchmark, Note, Row

SIZES = (64, 256, 1024)
SECONDS = {64: {"z": 0.1}, 256: {"z": 4.0}, 1024: {"z": 1.0}}
EASY_SECONDS = {64: 0.1, 256: 0.5, 1024: 0.5}
"""Of the families t and e: the optimum is found, or as good as found, long before."""
BLOCK_SEEDS = {64: (0, 1, 2), 256: (1,), 1024: (1,)}
"""Three blocks of a group at p = 64, one of random weights of the layer above."""
FEW = 3
"""Runs of a contestant above p = 64 that is no rival: steepest descent, and OpenJij where one read takes over 1 s."""
COLUMN_SECONDS = 1.0
CAP = 2.0
"""CPU seconds of a run that looks for the optimum at p = 64."""
REFERENCE_SECONDS = {"z": 40.0, "t": 6.0, "e": 6.0}
CONTESTANTS = ("anneal", "swap", *runs.FAMILY, *runs.OPENJIJ)


def seconds_of(problem: BlockProblem, arguments: argparse.Namespace) -> float:
    """The CPU seconds of a run on this block."""
    if arguments.seconds is not None:
        return float(arguments.seconds)
    return SECONDS[problem.p].get(problem.problem[0], EASY_SECONDS[problem.p])


def first(problem: BlockProblem, name: str, target: tuple[float, float], seed: int) -> Record:
    """CPU seconds of one run until gap 1e-3 and until the optimum; inf where it was not reached."""
    optimum, spread = target
    exactly, closely = optimum + tables.OPTIMUM * spread, optimum + 1e-3 * spread

    def progress(_: float, objective: float, __: float) -> None:
        if objective <= exactly:
            raise KeyboardInterrupt

    options = {"polish": False} if name == "anneal" else {"restarts": 10**9}
    found = solve(problem, name, options=options, budget=Budget(seconds=CAP), seed=seed, progress=progress)

    def reached(value: float) -> float:
        rows = found.trace[found.trace[:, 1] <= value]
        return float(rows[0, 0]) if len(rows) else math.inf

    return {"close": reached(closely), "exact": reached(exactly)}


class Bench:
    """The blocks, the stored runs and what is asked for."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.store = runs.Store(arguments.out, arguments.stored)
        self.skipped = [reason for name in CONTESTANTS if (reason := runs.missing(name))]
        wanted = arguments.only or CONTESTANTS
        self.names = [name for name in CONTESTANTS if name in wanted and not runs.missing(name)]

    def group(self, size: int) -> list[BlockProblem]:
        """The blocks of one size."""
        seeds = BLOCK_SEEDS[size][: self.arguments.blocks]
        return list(first_layer_blocks((size,), self.arguments.families, seeds))

    def reference(self, problem: BlockProblem) -> Record:
        """The block's reference record, made now if there is none."""
        seconds = REFERENCE_SECONDS[problem.problem[0]] * self.arguments.reference
        made = self.store.ensure(("reference", problem.hash, seconds), lambda: reference(problem, seconds))
        if made is None:
            raise SystemExit(f"the file of runs holds no reference of {problem.problem}; run without --stored")
        return made

    def runs(self, problem: BlockProblem, name: str) -> list[Record]:
        """The runs of one contestant on one block."""
        few = problem.p > 64 and (name == "steepest-descent" or (name in runs.OPENJIJ and problem.p == 1024))
        seeds = min(FEW, self.arguments.seeds) if few else self.arguments.seeds
        return self.store.runs(problem, name, seconds_of(problem, self.arguments), seeds)

    def column_runs(self, problem: BlockProblem, name: str) -> list[Record]:
        """The same above p = 64; at p = 64 longer and fewer, as the earlier study gave each a second there."""
        if problem.p > 64 and name in self.names:
            return self.runs(problem, name)
        seconds = COLUMN_SECONDS if problem.p == 64 else seconds_of(problem, self.arguments)
        return self.store.runs(problem, name, seconds, self.arguments.column_seeds)

    def firsts(self, problem: BlockProblem, name: str) -> list[Record]:
        """Times to the optimum at p = 64."""
        record = self.reference(problem)
        optimum = record["found"]["branch-and-bound"]
        target = optimum, record["random"] - optimum
        made = [
            self.store.ensure(("first", problem.hash, name, CAP, seed), partial(first, problem, name, target, seed))
            for seed in range(self.arguments.tts_seeds)
        ]
        return [record for record in made if record is not None]

    def go(self) -> Iterator[Row | Note]:
        """Every table that is asked for."""
        arguments = self.arguments
        yield from map(Note, self.skipped)
        large_blocks = [problem for size in arguments.sizes if size > 64 for problem in self.group(size)]
        if 64 in arguments.sizes and arguments.tts_seeds:
            yield from tables.times(self.group(64), self.reference, self.firsts, CAP)
        for size in arguments.sizes:
            for problem in self.group(size):
                self.reference(problem)
                for name in self.names:
                    self.runs(problem, name)
        yield from tables.references(self.store, large_blocks)
        for size in arguments.sizes:
            yield from tables.comparison(self.store, arguments.families, self.group(size), self.names, self.runs)
        if arguments.column_seeds:
            yield from self._columns()

    def _columns(self) -> Iterator[Row | Note]:
        made = {column: first_layer_block(*column[1:]) for column in tables.COLUMNS}
        names = [name for name, _, _ in tables.EARLIER.values() if name is not None and not runs.missing(name)]
        for problem in made.values():
            self.reference(problem)
            for name in names:
                self.column_runs(problem, name)
        yield from tables.columns(self.store, lambda column: made[column], self.column_runs)


def large() -> Iterator[Row]:
    """p = 10,000, n = 200: the time and the memory of one anneal of 100 sweeps on the factor."""
    rng = np.random.default_rng(0)
    p, n = 10_000, 200
    factor, weights = rng.normal(size=(n, p)) / np.sqrt(n), rng.normal(size=p)
    form = QuadraticForm(factor=factor, ridge=0.1, centre=weights)
    options = {"couplings": "factor", "sweeps": 100, "reads": 1, "polish": False}
    for keep in (p // 5, p // 2):
        problem = BlockProblem(form, weights, keep, "select")
        started = time.process_time()
        found = solve(problem, "anneal", options=options)
        spent = time.process_time() - started
        tracemalloc.start()
        solve(problem, "anneal", options=options)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        yield Row(f"p = {p:,}, n = {n}: one anneal of 100 sweeps on the factor", {
            "keep": keep, "CPU s": spent, "MB of arrays above the block": peak,
            "MB of its factor": factor.nbytes / 2**20, "f/random": found.objective / problem.random_mean(),
        })  # fmt: skip


def asked(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="file of runs, appended to; what it holds is not run again")
    parser.add_argument("--stored", action="store_true", help="print what the file holds and run nothing")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, choices=SIZES)
    parser.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, help="these contestants; the others are left out")
    parser.add_argument("--blocks", type=int, default=3, help="blocks of each group at p = 64, at most 3")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each contestant on each block")
    parser.add_argument("--tts-seeds", type=int, default=10, help="runs behind time to solution; 0: no such table")
    parser.add_argument("--column-seeds", type=int, default=3, help="runs in the earlier study's table; 0: none")
    parser.add_argument("--seconds", type=float, help="CPU seconds of a run, whatever its block")
    parser.add_argument("--reference", type=float, default=1.0, help="length of the reference runs, times the default")
    parser.add_argument("--no-large", action="store_true", help="leave out p = 10,000")


def rows(arguments: argparse.Namespace) -> Iterator[Row | Note]:
    bench = Bench(arguments)
    if not arguments.stored:
        variants = runs.VARIANTS if arguments.column_seeds else ()
        runs.warm_up((*bench.names, *variants, "branch-and-bound"))
    yield from bench.go()
    if not (arguments.no_large or arguments.stored):
        yield from large()


QUICK = {"sizes": (64,), "families": ("t", "z"), "blocks": 1, "seeds": 2, "tts_seeds": 3, "column_seeds": 0}
BENCHMARK = Benchmark(__file__, __doc__, rows, asked, QUICK, out="--results")

if __name__ == "__main__":
    BENCHMARK.main()
