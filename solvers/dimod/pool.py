"""From samples to a solution: feasible share, best before and after repair, and a pool of good masks."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.incumbent import Incumbent
from prunebench.forms.dimod import Encoded, repair

ALTERNATIVES = 16
"""Most further masks in a solution."""
MERGE = 32
"""Sample sets collected before they are merged into one."""
REPAIRS = 256
"""Most infeasible samples of a batch that are repaired, those of lowest energy first."""


@dataclass
class Pool:
    """The samples of one solve.

    best : of the solve;  encoded : the objective without penalty, divided by `unit`
    keep_samples : how many of the lowest samples are kept in full
    """

    best: Incumbent
    encoded: Encoded
    unit: float
    keep_samples: int | None = 0
    reads: int = 0
    feasible: int = 0
    raw: float = np.inf
    repaired: float = np.inf
    batches: int = 0
    _sets: list[Any] = field(default_factory=list)
    _held: dict[bytes, tuple[float, BoolArray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = self.best.block.incumbent
        self._held[start.tobytes()] = (self.best.objective / self.unit, start)

    def add(self, masks: BoolArray, samples: Any) -> None:
        """Take one batch: count it, evaluate feasible samples, repair the others, keep the best.

        masks : bool (s, p), the samples' rows;  samples : the SampleSet they come from
        """
        counts = np.asarray(samples.record.num_occurrences, dtype=np.int64)
        good = self.encoded.feasible(masks)
        self.batches += 1
        self.reads += int(counts.sum())
        self.feasible += int(counts[good].sum())
        if self.keep_samples != 0:
            self._sets.append(samples if self.keep_samples is None else samples.truncate(self.keep_samples))
            if len(self._sets) > MERGE:
                self._sets = [self._merged()]
        if good.any():
            self.raw = min(self.raw, self._hold(masks[good]))
            self.repaired = min(self.repaired, self.raw)
        broken = masks[~good]
        if len(broken):
            order = np.argsort(self.encoded.energies(broken), kind="stable")[:REPAIRS]
            lowest = np.unique(broken[order], axis=0)
            self.repaired = min(self.repaired, self._hold(repair(self.encoded, lowest)))

    def tell(self) -> None:
        """Offer the best samples; write the others and the counters into the answer."""
        best = self.best
        ranked = sorted(self._held.values(), key=lambda pair: pair[0])
        for _, mask in ranked[:2]:
            if not np.array_equal(mask, best.mask):
                best.offer(mask, "sample")
        others = [mask for _, mask in ranked if not np.array_equal(mask, best.mask)]
        best.alternatives = np.array(others[:ALTERNATIVES]) if others else None
        best.details |= {
            "reads": self.reads,
            "batches": self.batches,
            "feasible_share": self.feasible / self.reads if self.reads else None,
            "objective_raw": self.raw if np.isfinite(self.raw) else None,
            "objective_repaired": self.repaired if np.isfinite(self.repaired) else None,
        }
        if self._sets:
            best.details["sampleset"] = self._sampleset()

    def _hold(self, masks: BoolArray) -> float:
        """Keep the best of these feasible masks. -> the best objective among them"""
        energies: FloatArray = self.encoded.energies(masks)
        order = np.argsort(energies, kind="stable")[: ALTERNATIVES + 1]
        for row in order:
            key = masks[row].tobytes()
            if key not in self._held:
                self._held[key] = (float(energies[row]), masks[row].copy())
        if len(self._held) > 4 * ALTERNATIVES:
            ranked = sorted(self._held.items(), key=lambda item: item[1][0])
            self._held = dict(ranked[: ALTERNATIVES + 1])
        self.best.offer(masks[order[0]], "sample")
        return self.best.objectives["sample"]

    def _sampleset(self) -> dict[str, Any]:
        """The kept samples as dimod's JSON-able record, with energies in units of `unit`, encoding included."""
        import dimod

        whole = self._merged()
        make: Any = dimod.SampleSet.from_samples
        plain = make(
            (np.asarray(whole.record.sample), list(whole.variables)),
            energy=np.asarray(whole.record.energy),
            num_occurrences=np.asarray(whole.record.num_occurrences),
            vartype=whole.vartype,
        )
        return dict(json.loads(json.dumps(plain.to_serializable())))

    def _merged(self) -> Any:
        """The sets merged: repeats counted together, reduced to the lowest `keep_samples`."""
        import dimod

        join: Any = dimod.concatenate
        whole = join(self._sets).aggregate()
        return whole if self.keep_samples is None else whole.truncate(self.keep_samples)
