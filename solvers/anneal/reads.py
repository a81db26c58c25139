"""Whole anneals, made of the compiled sweeps, on dense couplings or on the factor.

A read depends only on its seed and schedule, which the caller gives, so batches and threads do not
change it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.keeping import Quota
from prunebench.core.stop import StopCheck, never
from prunebench.solvers.anneal import dense, factor, groups
from prunebench.solvers.anneal.budget import BudgetReads
from prunebench.solvers.anneal.groups import Layout

if TYPE_CHECKING:
    from prunebench.kernels.local_search.iterated import Iterated

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
    _descent: "Iterated | None" = None

    def measure(self, seed: np.uint64) -> "DenseReads":
        """Set the unit of temperature from random swaps."""
        state = np.array([seed], dtype=np.uint64)
        if self.layout is not None:
            self.unit = groups.swap_sizes(self.couplings, self.linear, self.layout, UNIT_MASKS, UNIT_SWAPS, state)
            return self
        order, fields = np.empty(self.linear.size, np.int64), np.empty(self.linear.size)
        self.unit = float(
            dense.swap_sizes(self.couplings, self.linear, order, self.keep, fields, UNIT_MASKS, UNIT_SWAPS, state)
        )
        return self

    def run(
        self, seeds: dense.State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None = None
    ) -> tuple[BoolArray, FloatArray]:
        """Make the reads: short ones in one compiled call, long ones in slices."""
        size = self.linear.size
        if self.layout is not None:
            return self._within(self.layout, seeds, temperatures, stop, start)
        short = temperatures.size * size * seeds.size <= SLICE_PROPOSALS
        parts = [seeds] if short else [seeds[r : r + 1] for r in range(seeds.size)]
        kept, order = [], np.empty((parts[0].size, size), np.int64)
        fields = np.empty(order.shape)
        for part in parts:
            states, begin = np.array(part), dense.SHUFFLED
            if start is not None:
                order[:], begin = _order(start), dense.GIVEN
            for piece in [temperatures] if short else _slices(temperatures, size):
                dense.reads(self.couplings, self.linear, piece, states, begin, order, self.keep, fields)
                begin = dense.CONTINUED
                if not short and stop(0.0):
                    break
            kept.append(order[:, : self.keep].copy())
            if not short and stop(0.0):
                break
        masks = _masks(np.concatenate(kept), size)
        return masks, self.energies(masks)

    def energies(self, masks: BoolArray) -> FloatArray:
        """E of each mask. bool (r, p) -> float64 (r,)"""
        chosen = masks.astype(np.float64)
        found: FloatArray = chosen @ self.linear + 0.5 * ((chosen @ self.couplings) * chosen).sum(axis=1)
        return found

    def _within(
        self, layout: Layout, seeds: dense.State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None
    ) -> tuple[BoolArray, FloatArray]:
        """Reads within a quota, in slices."""
        size, found = self.linear.size, []
        for seed in seeds:
            kept, pruned, state = _start(seed, layout, start)
            fields = self.linear + self.couplings[kept].sum(axis=0)
            for piece in _slices(temperatures, size):
                groups.sweeps(self.couplings, fields, layout.at(kept, pruned), piece, state)
                if stop(0.0):
                    break
            found.append(kept)
            if stop(0.0):
                break
        masks = _masks(np.array(found), size)
        return masks, self.energies(masks)

    def pairs_exchanged(self, mask: BoolArray, stop: StopCheck) -> tuple[BoolArray, float]:
        """The mask after a descent by double swaps, which `stop` may end between two of them, and its energy."""
        from prunebench.solvers.anneal.doubles import descended

        return descended(self.couplings, self.linear, mask, stop)

    def kicked(self, mask: BoolArray, kicks: int, seed: np.uint64, stop: StopCheck) -> tuple[BoolArray, float]:
        """The mask after a descent and as many kicks, which `stop` may end between slices; and its energy.

        seed : of all kicks, as given the first time
        """
        from prunebench.kernels.local_search.iterated import Iterated

        if self._descent is None:
            self._descent = Iterated(self.couplings, self.linear, seed)
        found = self._descent.run(mask, kicks, stop)
        return found, float(self.energies(found[None])[0])


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
        p, n = self.columns.shape
        self.unit = float(
            factor.swap_sizes(
                self.columns, self.linear, np.empty(p, np.int64), self.keep, np.empty(n), np.empty(n), UNIT_MASKS,
                UNIT_SWAPS, state,
            )
        )  # fmt: skip
        return self

    def run(
        self, seeds: dense.State, temperatures: FloatArray, stop: StopCheck, start: BoolArray | None = None
    ) -> tuple[BoolArray, FloatArray]:
        """Make the reads in slices."""
        size, n = self.columns.shape
        kept_ones, energies = [], []
        residual, without = np.empty(n), np.empty(n)
        for seed in seeds:
            kept, pruned, state = self._start(seed, start)
            factor.residual_of(self.columns, self.linear, kept, residual)
            for piece in _slices(temperatures, size * self.work):
                if self.layout is None:
                    factor.sweeps(self.columns, self.linear, residual, without, kept, pruned, piece, state)
                else:
                    split = self.layout.at(kept, pruned)
                    groups.factor_sweeps(self.columns, self.linear, residual, without, split, piece, state)
                if stop(0.0):
                    break
            kept_ones.append(kept)
            energies.append(factor.residual_of(self.columns, self.linear, kept, residual))
            if stop(0.0):
                break
        return _masks(np.array(kept_ones), size), np.array(energies)

    def _start(self, seed: np.uint64, start: BoolArray | None) -> tuple[IndexArray, IndexArray, dense.State]:
        if self.layout is not None:
            return _start(seed, self.layout, start)
        state, order = np.array([seed], dtype=np.uint64), np.empty(self.linear.size, np.int64)
        if start is None:
            factor.shuffled(order, state)
        else:
            order = _order(start)
        return order[: self.keep], order[self.keep :], state


def reads_of(block: BlockProblem, couplings: str, seed: np.uint64) -> "DenseReads | FactorReads | BudgetReads":
    """The block's select energy without its constant, ready to anneal.

    couplings : "dense", "factor", or "auto": dense if the form holds its hessian or p <= DENSE_SIZE
    """
    qubo = block.to_qubo()
    linear = np.array(qubo.linear)
    if block.budget is not None:
        return BudgetReads(qubo.couplings, linear, block.budget).measure(seed)
    layout = None if block.keeping.one_count else Layout.of(block.keeping)
    if qubo.factor is not None and factored(block, couplings):
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


def _start(seed: np.uint64, layout: Layout, start: BoolArray | None) -> tuple[IndexArray, IndexArray, dense.State]:
    """Kept and pruned positions sorted by group, random or those of `start`, and the generator's state."""
    state = np.array([seed], dtype=np.uint64)
    return *(layout.shuffled(state) if start is None else layout.split(np.array(start))), state


def _order(mask: BoolArray) -> IndexArray:
    """The kept positions of a mask, then the pruned ones."""
    return np.concatenate((np.flatnonzero(mask), np.flatnonzero(~mask)))


def _slices(temperatures: FloatArray, work: float) -> Iterator[FloatArray]:
    step = max(1, int(SLICE_PROPOSALS / work))
    for first in range(0, temperatures.size, step):
        yield temperatures[first : first + step]


def _masks(kept: IndexArray, size: int) -> BoolArray:
    """Masks with ones at the positions of each row. int64 (r, k) -> bool (r, size)"""
    masks = np.zeros((kept.shape[0], size), dtype=np.bool_)
    np.put_along_axis(masks, kept, True, axis=1)
    return masks


def factored(block: BlockProblem, couplings: str) -> bool:
    """Whether reads of this block work on the factor."""
    auto = couplings == "auto" and block.p > DENSE_SIZE
    return block.budget is None and block.form.factor is not None and (couplings == "factor" or auto)


@lru_cache(maxsize=4)
def warm(on_factor: bool, grouped: bool, kicks: bool) -> None:
    """Compile the kernels of such reads, or load them from numba's cache, on a problem of three weights.

    kicks : whether the search may kick, as `Anneal` does on large blocks
    """
    layout = Layout.of(Quota(np.array([0, 0, 1]), np.array([1, 0]))) if grouped else None
    seeds, schedule, linear = np.ones(1, dtype=np.uint64), np.ones(1), np.ones(3)
    if on_factor:
        FactorReads(np.eye(3), linear, 1, layout=layout).measure(seeds[0]).run(seeds, schedule, never)
    else:
        source = DenseReads(np.zeros((3, 3)), linear, 1, layout=layout)
        source.measure(seeds[0]).run(seeds, schedule, never)
        if not grouped:
            source.pairs_exchanged(np.array([True, False, False]), never)
            if kicks:
                source.kicked(np.array([True, False, False]), 1, seeds[0], never)
