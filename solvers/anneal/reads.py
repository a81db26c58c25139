"""Whole anneals, made of the compiled sweeps, on dense couplings or on the factor.

A read depends only on its seed and schedule, which the caller gives, so batches and threads do not
change it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Quota
from prunebench.core.stop import StopCheck, never
from prunebench.solvers.anneal import dense, factor, groups
from prunebench.solvers.anneal.budget import BudgetReads
from prunebench.solvers.anneal.groups import Layout

DENSE_SIZE = 4096
"""Up to this p the couplings are formed from a factor (8p² bytes), so that proposals cost O(1) instead of O(n)."""
SLICE_PROPOSALS = 4_000_000
"""Dense proposals between two looks at the clock; on the factor, multiply-adds divided by 8."""
UNIT_MASKS = 16
"""Random masks used to measure the unit of temperature."""
UNIT_SWAPS = 64
"""Random swaps of each of these masks."""


@dataclass
class DenseReads:
    """E(m) = linear'm + ½ m'Jm over masks with `keep` ones.

    couplings : J, float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,);  0 < keep < p
    layout : of the groups, if the masks obey a quota
    """

    couplings: FloatArray
    linear: FloatArray
    keep: int
    unit: float = 0.0
    layout: Layout | None = None

    def measure(self, seed: np.uint64) -> "DenseReads":
        """Set the unit of temperature from random swaps."""
        state = np.array([seed], dtype=np.uint64)
        if self.layout is not None:
            self.unit = groups.swap_sizes(self.couplings, self.linear, self.layout, UNIT_MASKS, UNIT_SWAPS, state)
            return self
        self.unit = float(dense.swap_sizes(self.couplings, self.linear, self.keep, UNIT_MASKS, UNIT_SWAPS, state))
        return self

    def run(
        self, seeds: dense.State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None = None
    ) -> tuple[BoolArray, FloatArray]:
        """Make the reads: short ones in one compiled call, long ones in slices."""
        size = self.linear.size
        if self.layout is None and temperatures.size * size * seeds.size <= SLICE_PROPOSALS:
            begin = np.zeros(size, dtype=np.bool_) if start is None else np.array(start, dtype=np.bool_)
            masks = np.zeros((seeds.size, size), dtype=np.bool_)
            masks[:, : self.keep] = True
            energies = np.empty(seeds.size)
            dense.reads(self.couplings, self.linear, temperatures, seeds, begin, masks, energies)
            return masks, energies
        found = []
        for seed in seeds:
            kept, pruned, state = _start(seed, self.keep, size, start, self.layout)
            fields = np.empty(size)
            dense.fields_of(self.couplings, self.linear, kept, fields)
            for piece in _slices(temperatures, size):
                if self.layout is None:
                    dense.sweeps(self.couplings, fields, kept, pruned, piece, state)
                else:
                    groups.sweeps(self.couplings, fields, self.layout.at(kept, pruned), piece, state)
                if stop(0.0):
                    break
            found.append((kept, dense.fields_of(self.couplings, self.linear, kept, fields)))
            if stop(0.0):
                break
        return _masks_and_energies(found, size)

    def pairs_exchanged(self, mask: BoolArray) -> tuple[BoolArray, float]:
        """The mask after a descent by double swaps, and its energy."""
        from prunebench.solvers.anneal.doubles import descended

        return descended(self.couplings, self.linear, mask)


@dataclass
class FactorReads:
    """E(m) = linear'm + Σ_{i<j} cᵢ'cⱼ mᵢmⱼ over masks with `keep` ones, without the couplings.

    columns : float64 (p, n), row i is cᵢ;  linear : float64 (p,);  0 < keep < p
    layout : of the groups, if the masks obey a quota
    """

    columns: FloatArray
    linear: FloatArray
    keep: int
    unit: float = 0.0
    layout: Layout | None = None

    @property
    def work(self) -> float:
        """The cost of a proposal, in units of a dense one."""
        return max(1.0, int(self.columns.shape[1]) / 8.0)

    def measure(self, seed: np.uint64) -> "FactorReads":
        """Set the unit of temperature from random swaps."""
        state = np.array([seed], dtype=np.uint64)
        if self.layout is not None:
            self.unit = groups.factor_swap_sizes(self.columns, self.linear, self.layout, UNIT_MASKS, UNIT_SWAPS, state)
            return self
        self.unit = float(factor.swap_sizes(self.columns, self.linear, self.keep, UNIT_MASKS, UNIT_SWAPS, state))
        return self

    def run(
        self, seeds: dense.State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None = None
    ) -> tuple[BoolArray, FloatArray]:
        """Make the reads in slices."""
        size = self.linear.size
        found = []
        for seed in seeds:
            kept, pruned, state = _start(seed, self.keep, size, start, self.layout)
            residual = np.empty(self.columns.shape[1])
            factor.residual_of(self.columns, self.linear, kept, residual)
            for piece in _slices(temperatures, size * self.work):
                if self.layout is None:
                    factor.sweeps(self.columns, self.linear, residual, kept, pruned, piece, state)
                else:
                    split = self.layout.at(kept, pruned)
                    groups.factor_sweeps(self.columns, self.linear, residual, split, piece, state)
                if stop(0.0):
                    break
            found.append((kept, factor.residual_of(self.columns, self.linear, kept, residual)))
            if stop(0.0):
                break
        return _masks_and_energies(found, size)


def reads_of(block: BlockProblem, couplings: str, seed: np.uint64) -> "DenseReads | FactorReads | BudgetReads":
    """The block's select energy without its constant, ready to anneal.

    couplings : "dense", "factor", or "auto": dense if the form holds its hessian or p <= DENSE_SIZE
    """
    qubo = block.to_qubo()
    linear = np.array(qubo.linear)
    if block.budget is not None:
        return BudgetReads(qubo.couplings, linear, block.budget).measure(seed)
    layout = None if block.keeping.one_count else Layout.of(block.keeping)
    if qubo.factor is not None and (couplings == "factor" or (couplings == "auto" and block.p > DENSE_SIZE)):
        columns = np.multiply(qubo.factor.T, qubo.scale[:, None], order="C", dtype=np.float64)
        return FactorReads(columns, linear, block.keep, layout=layout).measure(seed)
    return DenseReads(qubo.couplings, linear, block.keep, layout=layout).measure(seed)


def in_threads(
    reads: "DenseReads | FactorReads | BudgetReads",
    seeds: dense.State,
    temperatures: FloatArray,
    stop: StopCheck,
    threads: int,
    start: BoolArray | None = None,
) -> tuple[BoolArray, FloatArray]:
    """`reads.run` spread over threads; the kernels release the interpreter lock."""
    workers = min(threads, seeds.size)
    if workers <= 1:
        return reads.run(seeds, temperatures, stop, start)
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda part: reads.run(part, temperatures, stop, start), np.array_split(seeds, workers)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _start(
    seed: np.uint64, keep: int, size: int, start: BoolArray | None = None, layout: Layout | None = None
) -> tuple[IndexArray, IndexArray, dense.State]:
    if layout is not None:
        state = np.array([seed], dtype=np.uint64)
        return *(layout.shuffled(state) if start is None else layout.split(np.array(start))), state
    kept, pruned = np.empty(keep, np.int64), np.empty(size - keep, np.int64)
    state = np.array([seed], dtype=np.uint64)
    if start is None:
        dense.shuffle(kept, pruned, state)
    else:
        dense.split(np.array(start, dtype=np.bool_), kept, pruned)
    return kept, pruned, state


def _slices(temperatures: FloatArray, work: float) -> Iterator[FloatArray]:
    step = max(1, int(SLICE_PROPOSALS / work))
    for first in range(0, temperatures.size, step):
        yield temperatures[first : first + step]


def _masks_and_energies(found: list[tuple[IndexArray, float]], size: int) -> tuple[BoolArray, FloatArray]:
    masks = np.zeros((len(found), size), dtype=np.bool_)
    for row, (kept, _) in zip(masks, found, strict=True):
        row[kept] = True
    return masks, np.array([energy for _, energy in found])


@lru_cache(maxsize=1)
def warm_groups() -> None:
    """Compile the kernels for quotas, or load them from numba's cache."""
    layout = Layout.of(Quota(np.array([0, 0, 1]), np.array([1, 0])))
    seeds, schedule, long = np.ones(1, dtype=np.uint64), np.ones(1), np.ones(3)
    for source in (
        DenseReads(np.zeros((3, 3)), long, 1, layout=layout),
        FactorReads(np.eye(3), long, 1, layout=layout),
    ):
        source.measure(seeds[0]).run(seeds, schedule, never)


@lru_cache(maxsize=1)
def warm() -> None:
    """Compile every kernel, or load it from numba's cache, on a problem of two weights."""
    seeds = np.ones(1, dtype=np.uint64)
    schedule = np.ones(1)
    columns = np.eye(2)
    long = np.ones(2)
    DenseReads(np.zeros((2, 2)), long, 1).measure(seeds[0]).run(seeds, schedule, never)
    FactorReads(columns, long, 1).measure(seeds[0]).run(seeds, schedule, never)
    kept, pruned, state = _start(seeds[0], 1, 2)
    dense.sweeps(np.zeros((2, 2)), np.zeros(2), kept, pruned, schedule, state)
