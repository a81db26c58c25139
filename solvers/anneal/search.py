"""One solve of the annealer: batches of reads, and between them kicks, draws and joins of good masks, in turn."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.solver import Incumbent, Stop
from prunebench.core.stop import StopCheck, StopKind, never

if TYPE_CHECKING:
    from prunebench.solvers.anneal.beamed import Beamed
    from prunebench.solvers.anneal.budget import BudgetReads
    from prunebench.solvers.anneal.draws import Draws
    from prunebench.solvers.anneal.reads import DenseReads, FactorReads
    from prunebench.solvers.anneal.solver import Anneal

    Source: TypeAlias = DenseReads | FactorReads | BudgetReads

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
"""Blocks of more weights are also searched by kicks, draws and joins; smaller ones are settled by reads and double
swaps."""
KICKS_A_BATCH = 40.0
"""Kicks between two batches, times p over the batch's sweeps: some three times as long as the batch, at .25 ns for
each pair of weights and kick and 2.5 ns a proposal, as reads rarely find anything where kicks do not."""
EVALUATIONS_A_KICK = 0.1
"""What a kick counts as, as a share of p²: it takes as long as so many proposals."""
DRAWS_A_KICK = 0.5
"""Draws from the relaxation for each kick: they take somewhat longer, and find more where they find anything."""
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
ALTERNATIVES = 16
"""Most further masks in a solution."""
POOL = 64
"""Good masks that are held, at most twice as many: joined ones lead on where there are many, ten are too alike."""
BEAM_SHARE = 0.3
"""Evaluations of beams, as a share of all so far: more leave too little for what improves their masks."""
JOINED_SHARE = 0.5
"""Swaps that joins of good masks examine, as a share of those of the kicks: they take about as long."""


@dataclass
class Search:
    """One solve: schedule, pool of good masks, counters."""

    options: "Anneal"
    best: Incumbent
    reads: int = 0
    evaluations: float = 0.0
    shortened: bool = False
    """Whether the limit was too short for one whole read."""
    details: dict[str, float] = field(default_factory=dict)
    _pool: dict[bytes, tuple[float, BoolArray]] = field(default_factory=dict)
    _exchanged: set[bytes] = field(default_factory=set)
    """The masks from which double swaps have been tried."""
    turns: int = 0
    _stalled: int = 0
    _draws: "Draws | None" = None
    _beams: "Beamed | None" = None

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
        while self.reads < limit:
            turn = self.turns
            kick = options.reads is None and limit > READS and self._stalled >= STALLED and turn % 4 in (1, 2)
            start, temperatures = self._plan(source.unit, sweeps, rng, turn, kick)
            wanted = BATCH * sweeps // temperatures.size if kick else BATCH
            count = int(min(wanted, limit - self.reads, self._affordable_reads(temperatures.size)))
            if count < 1:
                return Stop(StopKind.EVALUATIONS, f"evaluation limit of {best.budget.evaluations:g}")
            self._add(*in_threads(source, _seeds(rng, count), temperatures, check, options.threads, start))
            self.evaluations += float(count * temperatures.size * block.p)
            self._exchange_pairs(source, check)
            self._kick(source, sweeps, rng, check)
            self._beam(source, check)
            self._draw(source, sweeps, rng, check)
            self._join(source, sweeps, rng, check)
            self.turns += 1
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
        if len(self._pool) > 2 * POOL:
            ranked = sorted(self._pool.items(), key=lambda item: item[1][0])
            self._pool = dict(ranked[:POOL])

    def _exchange_pairs(self, source: "Source", stop: StopCheck) -> None:
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

    def _kick(self, source: "Source", sweeps: int, rng: np.random.Generator, stop: StopCheck) -> None:
        """Iterated descent from the best mask, for as long as it finds better ones."""
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source):
            return
        seed = _seeds(rng, 1)[0]
        # the best swaps from the incumbent may lead elsewhere than reads from it do
        start = self.block.incumbent if self.turns == 0 else None
        while kicks := self._affordable_descents(_kicks_a_batch(sweeps, self.block.p)):
            lowest, mask = min(self._pool.values(), key=lambda pair: pair[0])
            found, energy = source.kicked(mask if start is None else start, kicks, seed, stop)
            start = None
            self.evaluations += EVALUATIONS_A_KICK * kicks * self.block.p**2
            self._hold(found, energy + self._constant)
            # as long as they find something
            if not energy + self._constant < lowest or stop(0.0):
                return

    def _beam(self, source: "Source", stop: StopCheck) -> None:
        """Descents from the masks of beams, as long as these have had less than their share."""
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source):
            return
        if self._beams is None:
            self._beams = self._planned_beams()
            self.evaluations += self._beams.spent
        while self._beams.spent <= BEAM_SHARE * self.evaluations and not stop(0.0):
            before = self._beams.spent
            masks = self._beams.masks(stop)
            if masks is None:
                return
            for start in masks:
                found, energy = source.kicked(start, 0, np.uint64(1), stop)
                self._hold(found, energy + self._constant)
            self.evaluations += self._beams.spent - before + EVALUATIONS_A_KICK * len(masks) * self.block.p**2
            self.details["beams"] = self.details.get("beams", 0) + 1

    def _planned_beams(self) -> "Beamed":
        """Beams over the relaxation, or a narrow one over none where that does not fit the budget."""
        from prunebench.kernels.relaxations.programs import SelectProgram
        from prunebench.solvers.anneal.beamed import Beamed

        if self._relax() and self._draws is not None:
            return Beamed(self._draws.program, self._draws.shift, relaxed=True)
        return Beamed(SelectProgram.of(self.block, self.best.objective), np.zeros(self.block.p), relaxed=False)

    def _draw(self, source: "Source", sweeps: int, rng: np.random.Generator, stop: StopCheck) -> None:
        """Descents from masks drawn from the relaxation, which is solved the first time."""
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source) or not self._relax():
            return
        count = self._affordable_descents(max(1, round(DRAWS_A_KICK * _kicks_a_batch(sweeps, self.block.p))))
        if self._draws is None or count < 1:
            return
        ranked = sorted(self._pool.values(), key=lambda pair: pair[0])[:DRAWN_FROM]
        drawn = self._draws.masks(count, self.block.keep, np.array([mask for _, mask in ranked]), rng)
        for start in drawn:
            found, energy = source.kicked(start, 0, np.uint64(1), stop)
            self._hold(found, energy + self._constant)
            if stop(0.0):
                break
        self.evaluations += EVALUATIONS_A_KICK * count * self.block.p**2
        self.details["draws"] = self.details.get("draws", 0) + count

    def _join(self, source: "Source", sweeps: int, rng: np.random.Generator, stop: StopCheck) -> None:
        """Searches of what good masks decide differently, each followed by a descent."""
        from prunebench.solvers.anneal.elites import KICKS, joined
        from prunebench.solvers.anneal.reads import DenseReads

        if not isinstance(source, DenseReads) or not self._descends(source):
            return
        pairs = EVALUATIONS_A_KICK * self.block.p**2
        until = self.evaluations + JOINED_SHARE * pairs * _kicks_a_batch(sweeps, self.block.p)
        # a join takes at most as long as its kicks do on the whole block
        while self.evaluations < until and self._affordable_descents(1 + KICKS) > KICKS:
            ranked = sorted(self._pool.values(), key=lambda pair: pair[0])[:POOL]
            if len(ranked) < 2 or stop(0.0):
                return
            mask, swaps = joined(source.couplings, source.linear, np.array([mask for _, mask in ranked]), rng, stop)
            if mask is not None:
                found, energy = source.kicked(mask, 0, np.uint64(1), stop)
                self._hold(found, energy + self._constant)
            self.evaluations += pairs + EVALUATIONS_A_KICK * swaps

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
        # an infinite cost says that the seconds do not suffice
        if cost == math.inf or cost > left:
            return False
        self._draws = draws.Draws.of(self.block, self.best.objective, partial(_after, self.best, until))
        self.evaluations += cost
        return True

    def _descends(self, source: "DenseReads") -> bool:
        """Whether kicks, beams, draws and joins take turns with the batches: the block is large and has one count."""
        return self.block.p > KICKED_SIZE and self.options.reads is None and source.layout is None

    def _affordable_descents(self, wanted: int) -> int:
        cost = EVALUATIONS_A_KICK * self.block.p**2
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

    def _affordable_sweeps(self, source: "Source", seconds: float) -> int:
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
    """Kicks between two batches, at least one: `KICKS_A_BATCH`."""
    return max(1, round(KICKS_A_BATCH * BATCH * sweeps / p))


def _schedule(unit: float, hot: float, cold: float, sweeps: int) -> FloatArray:
    """Temperatures from `hot` to `cold`, geometrically, then zero. -> float64 (sweeps,)"""
    frozen = int(FROZEN_SHARE * sweeps)
    return unit * np.concatenate([np.geomspace(hot, cold, sweeps - frozen), np.zeros(frozen)])


def _after(best: Incumbent, seconds: float, spent: float) -> Stop | None:
    return best.time_limit() if best.seconds >= seconds else None


def _seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(1, 2**63, size=count, dtype=np.uint64)
