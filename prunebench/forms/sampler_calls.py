"""Running a dimod sampler on an encoded block: keywords checked, answers checked, penalties tuned."""

import ast
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.cost import Cost
from prunebench.core.errors import InvalidInput, SolverFailed, unknown_name
from prunebench.core.stop import Stop, StopKind
from prunebench.forms.dimod import (
    ENCODINGS,
    Encoded,
    flip_penalty,
    safe_penalty,
    sampler_of,
    search_multiplier,
    search_penalty,
)

TUNE_SWEEPS = 200
"""Sweeps of a sampler while a penalty is searched."""
TUNE_READS = 20
"""Reads of a sampler while a penalty is searched."""
FEWEST_SWEEPS = 20
"""Sweeps below which a short time limit does not press a sampler."""
FEWEST_READS = 4
"""Reads below which a short time limit does not press a sampler."""
TUNE_ROUNDS = 4
"""Rounds that a search for a penalty is expected to take."""
BETA_RANGE = (1.0 / 0.3, 1.0 / 1e-3)
"""Inverse temperatures in units of a random swap's mean energy change; a library's own range is far off."""


class SamplerFailed(SolverFailed):
    """A sampler raised, hung, or gave back what is no answer; the message names it and what it did."""


@dataclass(frozen=True)
class Tuned:
    """An encoding and how it was found: feasible share of the last short run, and how many runs."""

    encoded: Encoded
    share: float = float("nan")
    rounds: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def penalty(self) -> float:
        """The weight of (Σ m − keep)²."""
        return self.encoded.penalty

    @property
    def multiplier(self) -> float:
        """The weight of (Σ m − keep)."""
        return self.encoded.multiplier


def tuned(
    encoded: Encoded,
    encoding: str,
    mask: BoolArray,
    rng: np.random.Generator,
    left: Callable[[], float] = lambda: math.inf,
    clock: Callable[[], float] = perf_counter,
) -> Tuned:
    """The encoding of that name, tuned by short anneals where it needs tuning.

    encoded : without penalty, in units of a random swap;  mask : a good feasible mask
    left : seconds left for tuning; the short anneals are sized to fit, after two that measure
    clock : what these seconds are read from

    Raises
    ------
    InvalidInput   an unknown encoding
    """
    if encoding not in ENCODINGS:
        raise unknown_name("encoding", encoding, ENCODINGS)
    if isinstance(encoded.keeping, Cost) and not encoded.keeping.binds:
        # any sample will do: there is nothing to price
        return Tuned(encoded, 1.0)
    if encoding == "safe":
        return Tuned(encoded.with_penalty(max(safe_penalty(encoded), np.finfo(np.float64).tiny)))
    start = flip_penalty(encoded, mask)
    if isinstance(encoded.keeping, Cost):
        # without slack variables a budget has no penalty: both other encodings price it
        encoding = "lagrange"
    first = encoded if encoding == "lagrange" else encoded.with_penalty(start)
    short = _ShortAnneals(first, rng, left, clock)
    if encoding == "lagrange":
        return Tuned(*search_multiplier(encoded, start, short.draw, short.stop))
    return Tuned(*search_penalty(encoded, start, short.draw, short.stop))


class _ShortAnneals:
    """Samples for tuning: 20 anneals of 200 sweeps a round, fewer and shorter ones where the clock asks for it."""

    def __init__(
        self, first: Encoded, rng: np.random.Generator, left: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._sampler = sampler_of("dwave.samplers:SimulatedAnnealingSampler")
        self._rng, self._left, self._clock = rng, left, clock
        self._reads, self._sweeps, self._round = TUNE_READS, TUNE_SWEEPS, 0.0
        if left() < math.inf:
            self._fit(first, left())

    def draw(self, trial: Encoded) -> BoolArray:
        """The samples of one round."""
        before, left = self._clock(), self._left()
        masks = self._run(trial, self._reads, self._sweeps)
        spent = self._clock() - before
        self._round = max(0.5 * self._round, spent)
        if spent > left / (TUNE_ROUNDS - 1):
            self._reads = max(FEWEST_READS, self._reads // 2)
            self._sweeps = max(FEWEST_SWEEPS, self._sweeps // 2)
        return masks

    def stop(self, spent: float) -> Stop | None:
        """Why to settle for what has been tried: another round would not fit."""
        return Stop(StopKind.TIME, "no time for another round") if self._left() <= self._round else None

    def _fit(self, trial: Encoded, seconds: float) -> None:
        # two runs tell the fixed cost of a call from that of a sweep; a limit that fits all must change no draw
        began = self._clock()
        self._run(trial, 1, 1, seed=0)
        fixed = self._clock() - began
        if fixed > seconds / TUNE_ROUNDS:
            self._round = math.inf
            return
        work = FEWEST_READS * FEWEST_SWEEPS // 4
        self._run(trial, 1, work, seed=0)
        one = max(1e-9, self._clock() - began - 2.0 * fixed) / work
        affordable = max(0.0, seconds / TUNE_ROUNDS - fixed) / one
        share = math.sqrt(min(1.0, affordable / (TUNE_READS * TUNE_SWEEPS)))
        self._reads = max(FEWEST_READS, int(TUNE_READS * share))
        self._sweeps = max(FEWEST_SWEEPS, int(TUNE_SWEEPS * share))
        self._round = fixed + one * self._reads * self._sweeps

    def _run(self, trial: Encoded, reads: int, sweeps: int, seed: int | None = None) -> BoolArray:
        samples = self._sampler.sample(
            trial.bqm(),
            num_reads=reads,
            num_sweeps=sweeps,
            beta_range=BETA_RANGE,
            seed=int(self._rng.integers(2**31)) if seed is None else seed,
        )
        return masks_of(samples, trial.linear.size)


def keywords_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Sampler keywords out of texts like "num_sweeps=2000"; values are Python literals, else text.

    Raises
    ------
    InvalidInput   a text without "="
    """
    out: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise InvalidInput(f"sampler keyword {text!r} is not of the form name=value")
        try:
            out[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            out[name.strip()] = value.strip()
    return out


def require_keywords(sampler: Any, keywords: Mapping[str, Any], also: tuple[str, ...] = ()) -> None:
    """Raise InvalidInput for a keyword that the sampler's `parameters` do not list; dimod drops it silently."""
    known = {*getattr(sampler, "parameters", {}), *also}
    for name in keywords:
        if name not in known:
            raise unknown_name(f"keyword of sampler {type(sampler).__name__}", name, known)


def accepted(sampler: Any, keywords: Mapping[str, Any], also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Those of our own default keywords that the sampler lists."""
    known = {*getattr(sampler, "parameters", {}), *also}
    return {name: value for name, value in keywords.items() if name in known}


def ask(sampler: Any, method: str, model: Any, keywords: Mapping[str, Any], seconds: float) -> Any:
    """The SampleSet of `sampler.method(model, **keywords)`, resolved.

    A sampler that does not answer within `seconds` is left behind in its daemon thread.

    Raises
    ------
    SamplerFailed   it raised or did not answer in time
    """
    name = type(sampler).__name__
    answer: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with warnings.catch_warnings():
                # a dropped keyword is an error here, not a warning: require_keywords has seen to it
                warnings.simplefilter("ignore", UserWarning)
                found = getattr(sampler, method)(model, **keywords)
                if hasattr(found, "resolve"):
                    found.resolve()
            answer.append(found)
        except Exception as error:
            failure.append(error)

    if seconds == np.inf:
        run()
    else:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise SamplerFailed(f"sampler {name} gave no answer within {seconds:.3g} s")
    if failure:
        raise SamplerFailed(f"sampler {name} raised {type(failure[0]).__name__}: {failure[0]}") from failure[0]
    return answer[0]


def masks_of(samples: Any, size: int, prefix: str = "") -> BoolArray:
    """The samples as masks over the variables 0 … p−1, one row each, repeats by their count left out. -> bool (s, p)

    Raises
    ------
    SamplerFailed   not a SampleSet, no samples, a variable missing, or values other than 0 and 1 (or −1 and 1)
    """
    record = getattr(samples, "record", None)
    if record is None:
        raise SamplerFailed(f"the sampler gave back {type(samples).__name__}, not a dimod.SampleSet")
    if len(record) == 0:
        raise SamplerFailed("the sampler gave back no samples")
    places = {label: place for place, label in enumerate(samples.variables)}
    wanted = [f"{prefix}{i}" if prefix else i for i in range(size)]
    missing = [label for label in wanted if label not in places]
    if missing:
        raise SamplerFailed(f"the samples lack {len(missing)} of {size} variables, the first being {missing[0]!r}")
    values: FloatArray = np.asarray(record.sample, dtype=np.float64)[:, [places[label] for label in wanted]]
    low = -1.0 if str(samples.vartype.name) == "SPIN" else 0.0
    if not np.isin(values, (low, 1.0)).all():
        wrong = values[~np.isin(values, (low, 1.0))][0]
        raise SamplerFailed(f"the samples hold the value {wrong}, which is neither {low:g} nor 1")
    return np.asarray(values == 1.0)
