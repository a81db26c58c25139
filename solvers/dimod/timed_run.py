"""Running a sampler within a time budget: tunes the encoding, samples in batches, times each phase separately."""

import math
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any, ClassVar, Protocol

import numpy as np

from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.solution import Budget
from prunebench.core.stop import Stop, StopKind
from prunebench.forms.dimod import encode, swap_unit, to_cqm
from prunebench.forms.sampler_calls import SamplerFailed, accepted, ask, keywords_of, masks_of, require_keywords, tuned
from prunebench.solvers.dimod.pool import Pool

SEARCH_SHARE = 0.95
"""Share of the time limit that tuning and sampling use if a polish follows."""
TUNE_SHARE = 0.4
"""Largest share of that spent on finding a penalty."""
BATCH_SECONDS = 0.5
"""Approximate seconds of one batch of samples."""
SHORT, GROWTH, LONGEST = 1.0 / 64.0, 4.0, 0.25
"""Under a time limit, length of the first read; its growth while one read takes at most LONGEST of the time left."""
GRACE_SECONDS = 5.0
"""How long a sampler may overrun the time left before it is given up."""
DEVICE_TIMES = {
    "programming": "qpu_programming_time",
    "sampling": "qpu_sampling_time",
    "access": "qpu_access_time",
    "run": "run_time",
    "charge": "charge_time",
}
"""Keys, by phase, of the times in microseconds that D-Wave devices and hybrid solvers report."""


class Settings(Protocol):
    """The options of a solver that a run uses."""

    extra_keywords: ClassVar[tuple[str, ...]]
    simulated: ClassVar[bool]

    @property
    def encoding(self) -> Any:
        """One of prunebench.forms.dimod.ENCODINGS."""
        ...

    @property
    def reads(self) -> int:
        """Number of reads without a time limit."""
        ...

    @property
    def keywords(self) -> tuple[str, ...]:
        """The caller's keywords as name=value."""
        ...

    @property
    def polish(self) -> bool:
        """Whether a polish follows, for which time is reserved."""
        ...

    @property
    def keep_samples(self) -> int | None:
        """How many of the lowest samples are kept in full."""
        ...

    @property
    def patience(self) -> float:
        """Seconds after which a call without answer is given up, if there is no time limit."""
        ...

    def sampler_for(self, block: BlockProblem) -> Any:
        """The sampler, ready for the block."""
        ...

    def defaults(self, seed: int, effort: float) -> dict[str, Any]:
        """Default keywords, unless the caller sets them; effort, in (0, 1], is the length of a read."""
        ...


def sample_block(solver: Settings, best: Incumbent, rng: np.random.Generator) -> Stop:
    """Run a sampler on a block: the best sample after repair and polish, or the incumbent if none is better.

    The time to load libraries and kernels, `timings["load"]`, counts in `timings["build"]`, not in the budget.

    Raises
    ------
    InvalidInput    a keyword that the sampler does not have, or a sampler that cannot be made
    SamplerFailed   the sampler raised, hung or returned no samples before any call of it had succeeded
    """
    from prunebench.kernels.local_search.polish import polish

    started = perf_counter()
    with best.building():
        load(best.block)
        sampler = solver.sampler_for(best.block)
        require_keywords(sampler, keywords_of(solver.keywords), solver.extra_keywords)
        loading = perf_counter() - started
        run = SamplerRun(best, rng, solver.keep_samples)
    run.device["load"] = loading
    try:
        stop = run.go(solver, sampler)
    finally:
        run.tell()
    if solver.polish:
        polish(best)
    return stop


class SamplerRun:
    """One solve: tunes, samples in batches, times the phases. If a sampler fails later, earlier samples are kept.

    best, rng : of the solve;  keep_samples : how many of the lowest samples are kept in full
    """

    def __init__(self, best: Incumbent, rng: np.random.Generator, keep_samples: int | None) -> None:
        self._block, self._best, self._rng = best.block, best, rng
        self.details: dict[str, Any] = {}
        self.device: dict[str, float] = {}
        """Seconds reported by a device (programming, sampling, access); and queue, the rest of a call."""
        self._tune, self._decode, self._sample = 0.0, 0.0, 0.0
        plain = encode(best.block)
        unit = swap_unit(plain, np.random.default_rng(rng.integers(2**63)))
        self._plain = encode(best.block, unit)
        self.pool = Pool(best, self._plain, unit, keep_samples)

    def tell(self) -> None:
        """Write the best samples, times and measurements into the answer."""
        self._best.details |= self.details
        self._best.timings = {"tune": self._tune, "solve": self._sample, "decode": self._decode, **self.device}
        self.pool.tell()

    def go(self, solver: Settings, sampler: Any) -> Stop:
        """Sample until the budget is used up. -> why it stopped

        sampler : has `sample`, `sample_cqm` or `sample_block`
        """
        if stop := self._best.stop():
            return stop
        seconds = self._best.budget.seconds * (SEARCH_SHARE if solver.polish else 1.0)
        self.details["sampler"] = f"{type(sampler).__module__}.{type(sampler).__qualname__}"
        self.details["seeded"] = "seed" in {*getattr(sampler, "parameters", {}), *solver.extra_keywords}
        try:
            model, method = self._model(sampler, solver.encoding, seconds)
            return self._batches((sampler, method, model), solver, seconds)
        except SamplerFailed as error:
            if not self.pool.reads:
                # nothing was sampled, and the start is not an answer of this sampler
                raise
            self.details["sampler_failure"] = str(error)
            return Stop(StopKind.FAILED, f"{error}; the best of {self.pool.reads} earlier reads is kept")

    def _batches(self, call: tuple[Any, str, Any], solver: Settings, seconds: float) -> Stop:
        """Request reads until a limit is met. -> which one"""
        best, budget = self._best, self._best.budget
        given = keywords_of(solver.keywords)
        limits = self._time_limit(call, given, seconds - best.seconds)
        if limits is None:
            words = "is below the shortest run that the sampler accepts"
            return Stop(StopKind.TIME, f"{best.time_limit().text} {words}")
        timed = seconds < math.inf
        if timed and not limits and budget.evaluations < math.inf and solver.simulated:
            # if the limit on reads ends the search first, it is run as if without a time limit
            timed = not self._fits(call, solver, int(min(solver.reads, budget.evaluations)), seconds)
        effort, count = (SHORT, 1) if timed else (1.0, solver.reads)
        while True:
            count = int(min(count, budget.evaluations - self.pool.reads))
            before = best.seconds
            if count < 1:
                return Stop.finished(f"finished {self.pool.reads} reads")
            ours = {**solver.defaults(int(self._rng.integers(2**31)), effort), "num_reads": count, **limits}
            keywords = {**accepted(call[0], ours, solver.extra_keywords), **given}
            timed_out = seconds < math.inf and not budget.cpu
            patience = max(0.0, seconds - before) + GRACE_SECONDS if timed_out else solver.patience
            self._batch(call, keywords, patience, solver.simulated)
            if not timed or limits:
                return Stop.finished(f"finished {self.pool.reads} reads")
            one = max(1e-6, (best.seconds - before) / count)
            left = seconds - best.seconds
            if left < one:
                return best.time_limit()
            if effort < 1.0 and GROWTH * one < LONGEST * left:
                effort = min(1.0, GROWTH * effort)
            else:
                count = int(min(BATCH_SECONDS, 0.5 * left, 4 * count * one) / one) or 1

    def _fits(self, call: tuple[Any, str, Any], solver: Settings, reads: int, seconds: float) -> bool:
        """Whether that many reads take at most a quarter of the time left, judged by one short, discarded read."""
        if reads < 1:
            return True
        sampler, method, model = call
        before = self._best.seconds
        keywords = {**solver.defaults(0, SHORT), "num_reads": 1}
        given = {**accepted(sampler, keywords, solver.extra_keywords), **keywords_of(solver.keywords)}
        ask(sampler, method, model, given, max(0.0, seconds - before) + GRACE_SECONDS)
        now = self._best.seconds
        return (now - before) / SHORT * reads <= LONGEST * (seconds - now)

    def _model(self, sampler: Any, encoding: str, seconds: float) -> tuple[Any, str]:
        """The model, and the sampler's method that takes it."""
        before = perf_counter()
        model: Any = self._block
        if hasattr(sampler, "sample_block") or not hasattr(sampler, "sample"):
            self.details["encoding"] = "constraint"
            method = "sample_block" if hasattr(sampler, "sample_block") else "sample_cqm"
            if method == "sample_cqm":
                with self._best.building():
                    model = to_cqm(self._block)
        else:
            from prunebench.kernels.local_search.descent import swap_descent

            end = self._best.seconds + TUNE_SHARE * (seconds - self._best.seconds)
            # a swap-local optimum gives the penalty's scale; its mask is discarded
            brief_limit = Budget(seconds=0.25 * max(0.0, end - self._best.seconds), cpu=self._best.budget.cpu)
            brief = Incumbent(self._block, brief_limit)
            good = swap_descent(self._block, self._block.incumbent, brief).mask
            found = tuned(self._plain, encoding, good, self._rng, lambda: end - self._best.seconds, self._best.clock)
            self.details |= {
                "encoding": encoding if self._block.budget is None else "lagrange",
                "penalty": found.penalty * self.pool.unit,
                "multiplier": found.multiplier * self.pool.unit,
                "tuning_rounds": found.rounds,
            }
            model, method = found.encoded.bqm(), "sample"
        self._tune = perf_counter() - before
        return model, method

    @staticmethod
    def _time_limit(call: tuple[Any, str, Any], given: Mapping[str, Any], left: float) -> dict[str, float] | None:
        """The `time_limit` of samplers that take one: the time left, or their minimum if unlimited. None: too short."""
        sampler, method, model = call
        if method == "sample" or "time_limit" not in getattr(sampler, "parameters", {}):
            return {}
        least = float(sampler.min_time_limit(model)) if hasattr(sampler, "min_time_limit") else 0.0
        if "time_limit" in given:
            return {"time_limit": given["time_limit"]}
        if left < least:
            return None
        return {"time_limit": least if left == math.inf else left}

    def _batch(self, call: tuple[Any, str, Any], keywords: Mapping[str, Any], patience: float, simulated: bool) -> None:
        sampler, method, model = call
        before = perf_counter()
        samples = ask(sampler, method, model, keywords, patience)
        after = perf_counter()
        masks = masks_of(samples, self._block.p)
        self.pool.add(masks, samples)
        self._sample += after - before
        self._decode += perf_counter() - after
        self._note(samples, after - before, simulated)

    def _note(self, samples: Any, wall: float, simulated: bool) -> None:
        """Sum up the times a device reports, in seconds; keep chain breaks and raw numbers."""
        timing = samples.info.get("timing", {})
        raw = {key: float(value) for key, value in timing.items() if isinstance(value, (int, float, np.number))}
        if raw:
            self.details["sampler_timing"] = raw
        told = {phase: raw[key] * 1e-6 for phase, key in DEVICE_TIMES.items() if key in raw}
        if told:
            self.details["timing_simulated"] = simulated
            told["queue"] = max(0.0, wall - max(told.get("access", 0.0), told.get("run", 0.0)))
        for phase, seconds in told.items():
            self.device[phase] = self.device.get(phase, 0.0) + seconds
        if "chain_break_fraction" in (samples.record.dtype.names or ()):
            broken = float(np.average(samples.record.chain_break_fraction, weights=samples.record.num_occurrences))
            earlier = self.details.get("chain_break_fraction", 0.0)
            self.details["chain_break_fraction"] = earlier + (broken - earlier) / self.pool.batches
        # without couplings there are no chains, and the chain strength is None
        strength = samples.info.get("embedding_context", {}).get("chain_strength")
        if strength is not None:
            self.details["chain_strength"] = float(strength) * self.pool.unit


def load(block: BlockProblem) -> None:
    """Load dimod, dwave-samplers and the compiled polish of such a block before a clock starts."""
    from prunebench.kernels.local_search.descent import DENSE_SELECT_SIZE
    from prunebench.kernels.local_search.polish import warm

    if block.budget is None:
        warm(block.form.factor is not None and block.p > DENSE_SELECT_SIZE)
    _warm_tuning()


@lru_cache(maxsize=1)
def _warm_tuning() -> None:
    """Load dimod and dwave-samplers on a problem of two weights."""
    from prunebench.core.quadratic import QuadraticForm

    form = QuadraticForm(hessian=np.eye(2), ridge=0.1, centre=np.ones(2))
    block = BlockProblem(form, np.ones(2), 1, "select")
    tuned(encode(block), "adaptive", block.incumbent, np.random.default_rng(0))
