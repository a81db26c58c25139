"""Simulated annealing by swaps: every state satisfies the count, or a quota, exactly, so no penalty is needed.

Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983; the move is
Kawasaki's spin exchange (Phys. Rev. 145, 1966). Temperatures fall geometrically over a range in
units of the block's mean swap energy; many short reads follow each other until the budget is
used.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopCheck, StopKind, never

if TYPE_CHECKING:
    from prunebench.solvers.anneal.budget import BudgetReads
    from prunebench.solvers.anneal.draws import Draws
    from prunebench.solvers.anneal.reads import DenseReads, FactorReads

READS = 32
"""Reads if neither the caller nor the budget sets a limit, and the fewest of any search that ends by itself."""
BATCH = 4
"""Reads per batch; more would leave fewer reads that start at the best mask."""
WARM_RANGE = (1e-3, 0.5)
"""Initial temperature of reads from the best mask, log-uniform in units of `hot`: some reads must stay near it."""
STALLED = 4
"""After this many batches in a row without a better mask, every second batch kicks the best one."""
KICK_RANGE = (0.15, 5.0)
"""Initial temperature of a kick, log-uniform in units of `hot`: high enough to leave the basin."""
KICK_SHARES = (0.1, 0.3)
"""Sweeps of a kick, as a share of a read's: many short kicks find more than a few long ones."""
KICKED_SIZE = 64
"""Blocks of more weights are also searched by iterated descent once batches bring nothing; smaller ones are settled
by reads and double swaps."""
KICKS_A_BATCH = 1.6
"""Kicks between two batches, times p over the batch's sweeps: as long as the batch, at 6 ns for each pair of weights
and kick and 10 ns a proposal."""
SWAPS_A_KICK = 1.0
"""Swaps that a kick examines, as a share of p²: four descents' passes over keep·(p − keep) pairs, at most p²/4."""
DRAWS_A_KICK = 2
"""Draws from the relaxation for each kick: a draw costs as much as a kick, and finds more where it finds anything."""
DRAWN_FROM = 10
"""Good masks from which draws begin, the best of the pool."""
FROZEN_SHARE = 0.05
"""Share of a read's sweeps at zero temperature, so that reads end in a local optimum even if `cold` is too hot."""
PROPOSALS_PER_MASK = 100
"""After this many proposed swaps per feasible mask, further ones are pointless."""
MOST_PROPOSALS = 50_000_000
"""Blocks for which that exceeds this many proposals, half a second, are searched until a limit is met."""
MEASURES = 3
"""Sweeps that are timed, taking the quickest, before a limit is judged too short for a whole read."""
SEARCH_SHARE = 0.98
"""Share of the time limit that the search uses if a polish follows."""
MOST_SWEEPS = 10_000_000
"""Most sweeps of a read: its schedule then takes 80 MB."""
ALTERNATIVES = 16
"""Most further masks in a solution."""

BUDGET_SIZE = 8192
"""Most weights with a budget: the couplings are then half a gigabyte."""


@register
@dataclass(frozen=True, kw_only=True)
class Anneal(Solver):
    """Many short swap anneals, one batch in four from random masks, the others from the best mask so far.

    If several batches bring nothing, every second one starts hotter and is shorter, and on couplings good masks are
    improved by double swaps. Of more than 64 weights they are also improved by an iterated descent, and descents begin
    from masks drawn from the semidefinite relaxation, where the budget allows its O(p³). Proves no bound.
    A proposal costs O(1) on dense couplings, an accepted swap O(p); on the factor both cost O(n) and
    nothing of size p² is formed. Where the block has a budget, weights are also added and dropped, on couplings.
    The budget counts proposals as evaluations. A search ends by itself
    after 32 reads, or on blocks with few masks after 100 proposed swaps per mask; larger blocks use up
    a limit on seconds or evaluations, and make 32 reads without one. Equal seeds give equal answers for
    any threads and limits, unless the seconds run out or do not suffice for one read, which is then
    shortened to fit.
    """

    name = "anneal"
    modes = frozenset({"select"})
    stochastic = True
    takes = frozenset({Count, Quota, Cost})
    reference = "Kirkpatrick, Gelatt, Vecchi: Optimization by Simulated Annealing, Science 220, 1983"

    sweeps: int = 1000
    """Sweeps of p proposals a read; fewer where the budget does not allow one whole read."""

    reads: int | None = None
    """Reads at most; none: 32 or more without a limit on seconds and evaluations, else until it is used."""

    hot: float = 0.05
    """First temperature, in units of the mean energy change of a random swap."""

    cold: float = 3e-5
    """Last temperature, in the same units."""

    couplings: Literal["auto", "dense", "factor"] = "auto"
    """Form the couplings, or work on the factor; auto: the factor from p = 4097 on where one is held."""

    polish: bool = True
    """End with the shared swap descent, reported apart."""

    threads: int = 1
    """Reads that run at the same time; more than the 4 of a batch bring nothing."""

    def warm_up(self, block: BlockProblem) -> None:
        """Load or compile the sweeps for such a block, and the polish."""
        _compile(block, self.couplings)

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Options out of range, or option couplings=factor for a form without a factor."""
        for name in ("sweeps", "threads", "reads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                return f"{name} is {value}; choose at least 1"
        if self.sweeps > MOST_SWEEPS:
            return f"sweeps is {self.sweeps}; choose at most {MOST_SWEEPS:,}: each has an entry in the schedule"
        if not 0.0 < self.cold <= self.hot < math.inf:
            return f"cold is {self.cold} and hot is {self.hot}; choose 0 < cold <= hot"
        if self.couplings not in ("auto", "dense", "factor"):
            return f"couplings is {self.couplings!r}; choose one of auto, dense, factor"
        if block.budget is not None and (self.couplings == "factor" or block.p > BUDGET_SIZE):
            return Refusal(
                f"with a budget it anneals on couplings, of at most {BUDGET_SIZE:,} weights; choose couplings auto and "
                "smaller blocks, or solver 'obd'",
                RefusalKind.BUDGET,
            )
        if self.couplings == "factor" and block.form.factor is None:
            return "couplings is 'factor' but the form holds its hessian; choose 'auto' or 'dense'"
        return ""

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The best mask of all reads, polished if requested, or the incumbent if that is better."""
        with best.building():
            best.timings["compile"] = _compile(best.block, self.couplings)
        search = _Search(self, best)
        try:
            stop = search.go(rng)
        finally:
            search.tell()
        if self.polish:
            from prunebench.kernels.local_search.polish import polish

            polish(best)
        return stop


@dataclass
class _Search:
    """One solve: schedule, pool of good masks, counters."""

    options: Anneal
    best: Incumbent
    reads: int = 0
    evaluations: float = 0.0
    shortened: bool = False
    """Whether the limit was too short for one whole read."""
    details: dict[str, float] = field(default_factory=dict)
    _pool: dict[bytes, tuple[float, BoolArray]] = field(default_factory=dict)
    _exchanged: set[bytes] = field(default_factory=set)
    """The masks from which double swaps have been tried."""
    _stalled: int = 0
    _draws: "Draws | None" = None

    def __post_init__(self) -> None:
        self.block = self.best.block
        with self.best.building():
            self._constant = self.block.to_qubo().constant
        self._pool[self.block.incumbent.tobytes()] = (self.best.objective, self.block.incumbent)

    def go(self, rng: np.random.Generator) -> Stop:
        """Make reads in batches until a limit is met. -> which one"""
        block, best, options = self.block, self.best, self.options
        from prunebench.solvers.anneal.reads import in_threads, reads_of

        seconds = best.budget.seconds * (SEARCH_SHARE if options.polish else 1.0)
        with best.building():
            source = reads_of(block, options.couplings, _seeds(rng, 1)[0])
        self.details["temperature_unit"] = source.unit
        limit, why = self._read_limit()
        sweeps = self._affordable_sweeps(source, seconds)
        if sweeps == 0:
            few = best.budget.evaluations < block.p
            return Stop(StopKind.EVALUATIONS if few else StopKind.TIME, "the budget ended before a sweep")
        self.details["sweeps"] = sweeps
        check = partial(_after, best, seconds)
        turn = 0
        while self.reads < limit:
            kick = options.reads is None and limit > READS and self._stalled >= STALLED and turn % 4 in (1, 2)
            start, temperatures = self._plan(source.unit, sweeps, rng, turn, kick)
            wanted = BATCH * sweeps // temperatures.size if kick else BATCH
            count = int(min(wanted, limit - self.reads, self._affordable_reads(temperatures.size)))
            if count == 0:
                return Stop(StopKind.EVALUATIONS, f"evaluation limit of {best.budget.evaluations:g}")
            self._add(*in_threads(source, _seeds(rng, count), temperatures, check, options.threads, start))
            self.evaluations += float(count * temperatures.size * block.p)
            self._exchange_pairs(source, check)
            self._kick(source, sweeps, rng)
            self._draw(source, sweeps, rng)
            turn += 1
            if stop := check(0.0):
                return stop
        if self.shortened:
            return Stop(StopKind.TIME, f"{why}, each shortened to {sweeps} sweeps by the time limit")
        return Stop.finished(why)

    def tell(self) -> None:
        """Offer the pool's best masks; write the others and the counters into the answer."""
        ranked = sorted(self._pool.values(), key=lambda pair: pair[0])
        # energies rank masks up to rounding only; the block decides
        for _, mask in ranked[:2]:
            if not np.array_equal(mask, self.best.mask):
                self.best.offer(mask, "anneal")
        others = [mask for _, mask in ranked if not np.array_equal(mask, self.best.mask)]
        self.best.alternatives = np.array(others[:ALTERNATIVES]) if others else None
        self.best.details = {"reads": self.reads, "evaluations": self.evaluations, **self.details}

    def _plan(
        self, unit: float, sweeps: int, rng: np.random.Generator, turn: int, kick: bool
    ) -> tuple[BoolArray | None, FloatArray]:
        """The batch's start, None for random masks, and its temperatures.

        Three batches of four start from the best mask so far at a random, lower temperature; a kick starts
        from it at a higher one, with fewer sweeps.
        """
        if turn == 0:
            # stay in the incumbent's basin, as random masks rarely find it again
            return self.block.incumbent, np.zeros(sweeps)
        if turn % 4 == 3:
            return None, _schedule(unit, self.options.hot, self.options.cold, sweeps)
        _, best = min(self._pool.values(), key=lambda pair: pair[0])
        low, high = KICK_RANGE if kick else WARM_RANGE
        hot = self.options.hot * math.exp(rng.uniform(math.log(low), math.log(high)))
        if kick:
            sweeps = max(1, int(sweeps * rng.choice(KICK_SHARES)))
        return best, _schedule(unit, hot, min(self.options.cold, hot / 30.0), sweeps)

    def _add(self, masks: BoolArray, energies: FloatArray) -> None:
        self.reads += energies.size
        self._stalled += 1
        for row in np.argsort(energies, kind="stable")[: ALTERNATIVES + 1]:
            self._hold(masks[row], float(energies[row]) + self._constant)

    def _hold(self, mask: BoolArray, energy: float) -> None:
        """Put a mask of this energy into the pool."""
        key = mask.tobytes()
        if key in self._pool:
            return
        self._pool[key] = (energy, mask.copy())
        if energy < self.best.objective:
            # energies rank masks up to rounding only; the block tells whether this is progress
            self._stalled *= not self.best.offer(mask, "anneal")
        if len(self._pool) > 4 * ALTERNATIVES:
            ranked = sorted(self._pool.items(), key=lambda item: item[1][0])
            self._pool = dict(ranked[: ALTERNATIVES + 1])

    def _exchange_pairs(self, source: "DenseReads | FactorReads | BudgetReads", stop: StopCheck) -> None:
        """Descend by double swaps from the best mask of the pool from which none has begun."""
        from prunebench.solvers.anneal.reads import DenseReads

        if self._stalled < STALLED or not isinstance(source, DenseReads) or source.layout is not None:
            return
        fresh = [held for key, held in self._pool.items() if key not in self._exchanged]
        if not fresh:
            return
        _, mask = min(fresh, key=lambda pair: pair[0])
        found, energy = source.pairs_exchanged(mask, stop)
        self._exchanged |= {mask.tobytes(), found.tobytes()}
        self._hold(found, energy + self._constant)

    def _kick(self, source: "DenseReads | FactorReads | BudgetReads", sweeps: int, rng: np.random.Generator) -> None:
        """Iterated descent from the best mask, about as long as a batch of reads."""
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source):
            return
        seed = _seeds(rng, 1)[0]
        kicks = self._affordable_descents(_kicks_a_batch(sweeps, self.block.p))
        if kicks < 1:
            return
        _, mask = min(self._pool.values(), key=lambda pair: pair[0])
        found, energy = source.kicked(mask, kicks, seed)
        self.evaluations += SWAPS_A_KICK * kicks * self.block.p**2
        self._hold(found, energy + self._constant)

    def _draw(self, source: "DenseReads | FactorReads | BudgetReads", sweeps: int, rng: np.random.Generator) -> None:
        """Descents from masks drawn from the relaxation, which is solved the first time."""
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source) or not self._relax():
            return
        count = self._affordable_descents(DRAWS_A_KICK * _kicks_a_batch(sweeps, self.block.p))
        if self._draws is None or count < 1:
            return
        ranked = sorted(self._pool.values(), key=lambda pair: pair[0])[:DRAWN_FROM]
        drawn = self._draws.masks(count, self.block.keep, np.array([mask for _, mask in ranked]), rng)
        for start in drawn:
            found, energy = source.kicked(start, 0, np.uint64(1))
            self._hold(found, energy + self._constant)
        self.evaluations += SWAPS_A_KICK * count * self.block.p**2
        self.details["draws"] = self.details.get("draws", 0) + count

    def _relax(self) -> bool:
        """Whether there are moments to draw from; solves the relaxation if that fits the budget."""
        if self._draws is not None:
            return True
        from prunebench.solvers.anneal import draws

        budget = self.best.budget
        until = draws.RELAXED_SHARE * budget.seconds
        cost = draws.cost(self.block.p, until - self.best.seconds)
        left = budget.evaluations - self.evaluations
        if min(budget.seconds, budget.evaluations) == math.inf:
            # the search then ends after few reads, and the relaxation may take as long as they do
            left = float(READS * self.options.sweeps * self.block.p)
        if cost > left:
            return False
        self._draws = draws.Draws.of(self.block, self.best.objective, partial(_after, self.best, until))
        self.evaluations += cost
        return True

    def _descends(self, source: "DenseReads") -> bool:
        """Whether descents are to follow the batches: these bring nothing, and the block is large and has one count."""
        large = self.block.p > KICKED_SIZE and self.options.reads is None
        return large and self._stalled >= STALLED and source.layout is None

    def _affordable_descents(self, wanted: int) -> int:
        cost = SWAPS_A_KICK * self.block.p**2
        return int(min(wanted, (self.best.budget.evaluations - self.evaluations) // cost))

    def _read_limit(self) -> tuple[float, str]:
        """After how many reads the search ends by itself, inf if only a limit ends it; and the text of that stop."""
        options, budget, block = self.options, self.best.budget, self.block
        if options.reads is not None:
            return options.reads, f"finished {options.reads} reads"
        masks = block.mask_count if block.budget is None else 2**block.p
        proposals = PROPOSALS_PER_MASK * masks if block.p <= 64 else math.inf
        if proposals <= MOST_PROPOSALS:
            # equal with and without a limit, so that a limit that is not reached changes nothing
            reads = max(READS, math.ceil(proposals / (options.sweeps * block.p)))
            return reads, f"finished {reads} reads, {PROPOSALS_PER_MASK} or more swaps for each feasible mask"
        if min(budget.seconds, budget.evaluations) < math.inf:
            return math.inf, ""
        return READS, f"finished {READS} reads (no budget was set)"

    def _affordable_sweeps(self, source: "DenseReads | FactorReads | BudgetReads", seconds: float) -> int:
        """Sweeps of one read: fewer than requested if a whole read does not fit the budget."""
        sweeps = int(min(self.options.sweeps, self.best.budget.evaluations // self.block.p))
        if seconds == math.inf:
            return sweeps
        one, fitting = math.inf, 0.0
        for _ in range(MEASURES):
            before = self.best.clock()
            source.run(np.ones(1, dtype=np.uint64), np.full(1, source.unit * self.options.hot), never)
            one = min(one, max(self.best.clock() - before, 1e-9))
            fitting = max(0.0, seconds - self.best.seconds) / one
            if fitting >= sweeps:
                return sweeps
        self.shortened = True
        return int(fitting)

    def _affordable_reads(self, sweeps: int) -> float:
        return (self.best.budget.evaluations - self.evaluations) // (sweeps * self.block.p)


def _kicks_a_batch(sweeps: int, p: int) -> int:
    """Kicks that take as long as a batch of reads."""
    return max(1, round(KICKS_A_BATCH * BATCH * sweeps / p))


def _grouped(block: BlockProblem) -> bool:
    """Whether the block has a quota of several groups, whose kernels are their own."""
    return block.budget is None and not block.keeping.one_count


def _schedule(unit: float, hot: float, cold: float, sweeps: int) -> FloatArray:
    """Temperatures from `hot` to `cold`, geometrically, then zero. -> float64 (sweeps,)"""
    frozen = int(FROZEN_SHARE * sweeps)
    return unit * np.concatenate([np.geomspace(hot, cold, sweeps - frozen), np.zeros(frozen)])


def _after(best: Incumbent, seconds: float, spent: float) -> Stop | None:
    return best.time_limit() if best.seconds >= seconds else None


def _seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1, 2**63, size=count, dtype=np.uint64)


def _compile(block: BlockProblem, couplings: str) -> float:
    """Load or compile the kernels for such a block before the solve's clock starts. -> seconds it took"""
    started = perf_counter()
    from prunebench.kernels.local_search import descent, polish
    from prunebench.solvers.anneal import reads

    if block.budget is None:
        reads.warm(reads.factored(block, couplings), _grouped(block), block.p > KICKED_SIZE)
        polish.warm(block.form.factor is not None and block.p > descent.DENSE_SELECT_SIZE)
    return perf_counter() - started
