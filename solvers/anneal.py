"""Simulated annealing by swaps: every state keeps exactly `keep` weights, so no penalty is needed.

Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983; the move is
Kawasaki's spin exchange (Phys. Rev. 145, 1966). Temperatures run geometrically over a range in
units of the instance's own mean swap energy; many short reads follow each other until the budget
is used.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register

if TYPE_CHECKING:
    from prunebench.kernels.anneal_reads import DenseReads, FactorReads

READS = 32
"""Reads where neither the caller nor the budget sets a limit."""
MAX_BATCH = 64
BATCH_SECONDS = 0.05
"""A batch grows until it takes this long: short enough for the clock, long enough to outweigh its overhead."""
WARM_BATCH = 4
"""Reads of one batch that start from the best mask so far; three batches of four do."""
WARM_RANGE = (1e-3, 0.5)
"""Their first temperature, log-uniform in units of `hot`: blocks whose best masks lie near the start need it."""
FIRST_SHARE = 0.05
READS_PER_MASK = 10
"""Once each feasible mask could have been the end of this many reads, more are pointless."""
SEARCH_SHARE = 0.98
"""Share of the seconds that the search uses when a polish follows."""
ALTERNATIVES = 16


@register
@dataclass(frozen=True, kw_only=True)
class Anneal:
    """Many short swap anneals, one batch in four from random masks, the others from the best mask so far.

    Proves no bound. A proposal costs O(1) on dense couplings, an accepted swap O(p); on the factor
    both cost O(n) and nothing of size p² is formed. The budget counts proposals as evaluations.
    Without a limit on seconds, evaluations or reads it makes 32 reads. Equal seeds give equal
    answers whatever the threads, unless the seconds run out.
    """

    name: ClassVar[str] = "anneal"
    modes: ClassVar[frozenset[str]] = frozenset({"select"})
    exact: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = "pip install prunebench"
    max_size: ClassVar[int | None] = None
    reference: ClassVar[str] = "Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983"

    sweeps: int = 1000
    """Sweeps of p proposals a read; fewer where the budget does not allow one whole read."""

    reads: int | None = None
    """Reads at most; none: until the budget is used, or 32 without a budget."""

    hot: float = 0.02
    """First temperature, in units of the mean energy change of a random swap."""

    cold: float = 3e-5
    """Last temperature, in the same units."""

    couplings: Literal["auto", "dense", "factor"] = "auto"
    """Form the couplings, or work on the factor; auto: the factor from p = 4097 on where one is held."""

    polish: bool = True
    """End with the shared swap descent, reported apart."""

    threads: int = 1
    """Reads that run at the same time."""

    def refuses(self, block: BlockProblem) -> str:
        """Options out of range, or the factor of a form that holds none."""
        for name in ("sweeps", "threads", "reads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                return f"{name} is {value}; choose at least 1"
        if not 0.0 < self.cold <= self.hot:
            return f"cold is {self.cold} and hot is {self.hot}; choose 0 < cold <= hot"
        if self.couplings not in ("auto", "dense", "factor"):
            return f"couplings is {self.couplings!r}; choose one of auto, dense, factor"
        if self.couplings == "factor" and block.form.factor is None:
            return "couplings is 'factor' but the form holds its hessian; choose 'auto' or 'dense'"
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """The best mask of all reads, polished if asked for, or the incumbent where nothing beats it."""
        compiling = _compile() if 0 < block.keep < block.p and budget.seconds > 0.0 else 0.0
        recorder = Recorder(budget, progress)
        search = _Search(self, block, recorder)
        status = Status.FEASIBLE
        try:
            reason = search.go(rng)
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, "interrupted"
        if reason.startswith(("time limit", "evaluation limit", "the budget")):
            status = Status.TIME_LIMIT
        solution = search.solution(status, reason, compiling)
        if not self.polish or status is Status.INTERRUPTED:
            return solution
        from prunebench.kernels.polish import polish

        return polish(block, solution, recorder)


@dataclass
class _Search:
    """One solve: the schedule, the pool of good masks and the counters."""

    options: Anneal
    block: BlockProblem
    recorder: Recorder
    reads: int = 0
    evaluations: float = 0.0
    build: float = 0.0
    details: dict[str, float] = field(default_factory=dict)
    _pool: dict[bytes, tuple[float, BoolArray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = self.block.evaluate(self.block.incumbent)
        self._constant = self.block.to_qubo().constant
        self.recorder.record(start)
        self._pool[self.block.incumbent.tobytes()] = (start, self.block.incumbent)

    def go(self, rng: np.random.Generator) -> str:
        """Read in batches until a limit is met. -> which one"""
        block, recorder, options = self.block, self.recorder, self.options
        if block.keep in (0, block.p):
            return "there is one feasible mask"
        if reason := recorder.expired():
            return reason
        from prunebench.kernels.anneal_reads import in_threads, reads_of

        seconds = recorder.budget.seconds * (SEARCH_SHARE if options.polish else 1.0)
        source = reads_of(block, options.couplings, _seeds(rng, 1)[0])
        self.build = recorder.seconds
        self.details["temperature_unit"] = source.unit
        limit, why = self._read_limit()
        sweeps = self._affordable_sweeps(source, seconds)
        if sweeps == 0:
            return "the budget ended before a sweep"
        schedule = source.unit * np.geomspace(options.hot, options.cold, sweeps)
        self.details["sweeps"] = sweeps
        stop = partial(_after, recorder, seconds)
        timed, batch, turn = seconds < math.inf, options.threads, 0
        while self.reads < limit:
            # without a clock the batches are fixed, so that equal seeds give equal answers
            wanted = (min(batch, max(WARM_BATCH, options.threads)) if turn % 4 < 3 else batch) if timed else WARM_BATCH
            count = int(min(wanted, limit - self.reads, self._affordable_reads(sweeps)))
            if count == 0:
                return f"evaluation limit of {recorder.budget.evaluations:g}"
            before = perf_counter()
            start, temperatures = (None, schedule) if turn % 4 == 3 else self._warm(source.unit, sweeps, rng, turn)
            self._add(*in_threads(source, _seeds(rng, count), temperatures, stop, options.threads, start))
            turn += 1
            self.evaluations += float(count * sweeps * block.p)
            if stop():
                return f"time limit of {recorder.budget.seconds:g} s"
            if count == batch or not timed:
                batch = self._next_batch(batch, perf_counter() - before, seconds - recorder.seconds)
        return why

    def solution(self, status: Status, reason: str, compiling: float) -> Solution:
        """The pool's best mask as a solution."""
        ranked = sorted(self._pool.values(), key=lambda pair: pair[0])
        # energies rank; only the block judges, and the incumbent must not lose to rounding
        best = min((mask for _, mask in ranked[:2]), key=self.block.evaluate)
        others = [mask for _, mask in ranked if mask is not best]
        return Solution.from_mask(
            self.block,
            best,
            status=status,
            stop_reason=reason,
            recorder=self.recorder,
            timings={"compile": compiling, "build": self.build, "solve": self.recorder.seconds - self.build},
            details={"reads": self.reads, "evaluations": self.evaluations, **self.details},
            alternatives=np.array(others[:ALTERNATIVES]) if others else None,
        )

    def _warm(self, unit: float, sweeps: int, rng: np.random.Generator, turn: int) -> tuple[BoolArray, FloatArray]:
        """The best mask so far and a schedule that starts at a random, lower temperature."""
        _, best = min(self._pool.values(), key=lambda pair: pair[0])
        low, high = WARM_RANGE
        # the first batch starts at the incumbent and must not forget it: random masks rarely find its basin again
        share = FIRST_SHARE if turn == 0 else math.exp(rng.uniform(math.log(low), math.log(high)))
        hot = self.options.hot * share
        return best, unit * np.geomspace(hot, min(self.options.cold, hot / 30.0), sweeps)

    def _add(self, masks: BoolArray, energies: FloatArray) -> None:
        self.reads += energies.size
        for row in np.argsort(energies, kind="stable")[: ALTERNATIVES + 1]:
            energy, key = float(energies[row]) + self._constant, masks[row].tobytes()
            if key in self._pool:
                continue
            self._pool[key] = (energy, masks[row].copy())
            if energy < self.recorder.objective:
                self.recorder.record(self.block.evaluate(masks[row]))
        if len(self._pool) > 4 * ALTERNATIVES:
            ranked = sorted(self._pool.items(), key=lambda item: item[1][0])
            self._pool = dict(ranked[: ALTERNATIVES + 1])

    def _read_limit(self) -> tuple[float, str]:
        options, budget = self.options, self.recorder.budget
        enough = READS_PER_MASK * math.comb(self.block.p, self.block.keep) if self.block.p <= 64 else math.inf
        if options.reads is not None:
            return options.reads, f"finished {options.reads} reads"
        limit = math.inf if min(budget.seconds, budget.evaluations) < math.inf else READS
        if enough < limit:
            return enough, f"read {READS_PER_MASK} times as often as there are feasible masks"
        return limit, f"finished {READS} reads (no budget was set)"

    def _affordable_sweeps(self, source: "DenseReads | FactorReads", seconds: float) -> int:
        """Sweeps of one read: fewer than asked for where one read would not fit into the budget."""
        sweeps = min(self.options.sweeps, self.recorder.budget.evaluations // self.block.p)
        if seconds < math.inf:
            before = perf_counter()
            source.run(np.ones(1, dtype=np.uint64), np.full(1, source.unit * self.options.hot), lambda: False)
            one = perf_counter() - before
            sweeps = min(sweeps, max(0.0, seconds - self.recorder.seconds) / one)
        return int(sweeps)

    def _affordable_reads(self, sweeps: int) -> float:
        return (self.recorder.budget.evaluations - self.evaluations) // (sweeps * self.block.p)

    def _next_batch(self, batch: int, seconds: float, left: float) -> int:
        """Twice as many, as long as a batch stays short and leaves time for another."""
        if 2.0 * seconds < min(BATCH_SECONDS, left / 4.0):
            return min(2 * batch, MAX_BATCH * self.options.threads)
        return max(self.options.threads, batch // 2) if seconds > min(BATCH_SECONDS, left) else batch


def _after(recorder: Recorder, seconds: float) -> bool:
    return recorder.seconds >= seconds


def _seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1, 2**63, size=count, dtype=np.uint64)


def _compile() -> float:
    """Load or compile the kernels, before the clock of the solve starts. -> seconds it took"""
    started = perf_counter()
    from prunebench.kernels import anneal_reads, polish

    anneal_reads.warm()
    polish.warm()
    return perf_counter() - started
