"""A sampler inside a time budget: tune the encoding, sample in batches, keep build, tuning and device times apart."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, Protocol

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Recorder, Solution, Status
from prunebench.forms.dimod import encode, swap_unit, to_cqm
from prunebench.forms.sampled import Pool
from prunebench.forms.sampling import SamplerFailed, accepted, ask, keywords_of, masks_of, require_keywords, tuned

SEARCH_SHARE = 0.97
"""Share of the seconds that sampling uses when a polish follows."""
BATCH_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""A sampler may overrun the time that is left by this much before it is given up on."""
DEVICE_TIMES = {"programming": "qpu_programming_time", "sampling": "qpu_sampling_time", "access": "qpu_access_time"}
"""Phases by the key, in microseconds, under which a D-Wave device reports them."""

GoodMask = Callable[[], BoolArray]


class Settings(Protocol):
    """What a run needs to know of a solver."""

    extra_keywords: ClassVar[tuple[str, ...]]

    @property
    def encoding(self) -> Any:
        """One of prunebench.forms.dimod.ENCODINGS."""
        ...

    @property
    def reads(self) -> int:
        """Reads without a limit on seconds."""
        ...

    @property
    def keywords(self) -> tuple[str, ...]:
        """The caller's keywords as name=value."""
        ...

    @property
    def polish(self) -> bool:
        """Whether a polish follows, and time is kept for it."""
        ...

    def make_sampler(self) -> Any:
        """The dimod sampler object."""
        ...

    def defaults(self, seed: int) -> dict[str, Any]:
        """Keywords that are set unless the caller sets them."""
        ...


class SamplerRun:
    """One solve: tune, sample in batches, keep the times apart. A sampler that fails ends it, not the solve.

    block, recorder, rng : of the solve;  keep_samples : how many of the lowest samples are kept whole
    """

    def __init__(
        self, block: BlockProblem, recorder: Recorder, rng: np.random.Generator, keep_samples: int | None
    ) -> None:
        self._block, self._recorder, self._rng = block, recorder, rng
        self.details: dict[str, Any] = {}
        self.device: dict[str, float] = {}
        """Seconds that a device reports about itself: programming, sampling, access."""
        self._build, self._tune, self._decode, self._sample = 0.0, 0.0, 0.0, 0.0
        plain = encode(block)
        unit = swap_unit(plain, np.random.default_rng(rng.integers(2**63)))
        self._plain = encode(block, unit)
        self.pool = Pool(block, self._plain, unit, recorder, keep_samples)
        self._build = recorder.seconds

    def solve(self, solver: Settings, good_mask: GoodMask) -> Solution:
        """The best sample after repair, or the incumbent where none is better.

        good_mask : gives a swap-local optimum; the scale of the penalty is read off it, and nothing else

        Raises
        ------
        InvalidInput   a keyword that the sampler does not have
        """
        status = Status.FEASIBLE
        try:
            reason = self._go(solver, good_mask)
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, "interrupted"
        if reason.startswith("time limit"):
            status = Status.TIME_LIMIT
        timings = {"build": self._build, "tune": self._tune, "solve": self._sample, "decode": self._decode}
        return self.pool.solution(status, reason, {**timings, **self.device}, self.details)

    def _go(self, solver: Settings, good_mask: GoodMask) -> str:
        """Sample until the budget is used. -> why it stopped"""
        budget = self._recorder.budget
        if self._block.keep in (0, self._block.p):
            return "there is one feasible mask"
        if reason := self._recorder.expired():
            return reason
        sampler = solver.make_sampler()
        keywords = keywords_of(solver.keywords)
        require_keywords(sampler, keywords, solver.extra_keywords)
        seconds = budget.seconds * (SEARCH_SHARE if solver.polish else 1.0)
        self.details["sampler"] = f"{type(sampler).__module__}.{type(sampler).__qualname__}"
        try:
            model, method = self._model(sampler, solver.encoding, good_mask, seconds)
            timed = seconds < math.inf
            count = 1 if timed else solver.reads
            while True:
                count = int(min(count, budget.evaluations - self.pool.reads))
                before = self._recorder.seconds
                self._batch((sampler, method, model), solver, keywords, count, max(0.0, seconds - before))
                if not timed or self.pool.reads >= budget.evaluations:
                    return f"finished {self.pool.reads} reads"
                one = max(1e-6, (self._recorder.seconds - before) / count)
                left = seconds - self._recorder.seconds
                count = int(min(BATCH_SECONDS, 0.5 * left, 4 * count * one) / one) or 1
                if left < one:
                    return f"time limit of {budget.seconds:g} s"
        except SamplerFailed as error:
            self.details["sampler_failure"] = str(error)
            return f"{error}; the best of {self.pool.reads} earlier reads and the start is kept"

    def _model(self, sampler: Any, encoding: str, good_mask: GoodMask, seconds: float) -> tuple[Any, str]:
        """The model to hand over and the method that takes it."""
        before = perf_counter()
        if not hasattr(sampler, "sample") and hasattr(sampler, "sample_cqm"):
            self.details["encoding"] = "constraint"
            model, method = to_cqm(self._block), "sample_cqm"
        else:
            # half of the time at most goes into the search for the penalty
            late = partial(_after, self._recorder, 0.5 * seconds)
            found = tuned(self._plain, encoding, good_mask(), self._rng, late)
            self.details |= {
                "encoding": encoding,
                "penalty": found.penalty * self.pool.unit,
                "multiplier": found.multiplier * self.pool.unit,
                "tuning_rounds": found.rounds,
            }
            model, method = found.encoded.bqm(), "sample"
        self._tune = perf_counter() - before
        return model, method

    def _batch(
        self, call: tuple[Any, str, Any], solver: Settings, given: Mapping[str, Any], count: int, left: float
    ) -> None:
        sampler, method, model = call
        seed = int(self._rng.integers(2**31))
        defaults = {**solver.defaults(seed), "num_reads": count}
        keywords = {**accepted(sampler, defaults, solver.extra_keywords), **given}
        before = perf_counter()
        samples = ask(sampler, method, model, keywords, left + GRACE_SECONDS)
        after = perf_counter()
        masks = masks_of(samples, self._block.p)
        self.pool.add(masks, samples)
        self._sample += after - before
        self._decode += perf_counter() - after
        self._note(samples.info.get("timing", {}))

    def _note(self, timing: Mapping[str, Any]) -> None:
        """Add up what a device says about its own time, in seconds; keep a simulator's raw numbers."""
        raw = {key: float(value) for key, value in timing.items() if isinstance(value, (int, float, np.number))}
        for phase, key in DEVICE_TIMES.items():
            if key in raw:
                self.device[phase] = self.device.get(phase, 0.0) + raw[key] * 1e-6
        if raw:
            self.details["sampler_timing"] = raw


def _after(recorder: Recorder, seconds: float) -> bool:
    return recorder.seconds >= seconds
