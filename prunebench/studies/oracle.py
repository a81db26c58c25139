"""Is the oracle an oracle: is the mask of the lowest loss still the best once its weights are trained?

Three links are measured apart: what the quadratic model says of a mask and its true loss, the true loss and what
training makes of it, and the model and what training makes of it. Beside them stands the ceiling, the agreement of two
trainings of the same masks that differ in the order of the samples: no predictor can be expected above it.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.masks import keep_count, top_mask
from prunebench.core.problem import NetworkProblem, ProblemLike
from prunebench.scores import score
from prunebench.studies import candidates, enumeration, oracle_tables
from prunebench.studies.findings import Findings, epochs_in_words
from prunebench.studies.oracle_tables import MODEL, PRUNED, REFITTED, Population, Seed
from prunebench.studies.study import Setting, Study, require_density, require_from, require_labels

if TYPE_CHECKING:
    from prunebench.recovery.training.many import Judged

FEWEST = 10
"""Masks below which a rank correlation means nothing."""

DESCENTS = 6
"""Of so many masks of a population one is a local optimum from a noisy start: the good ones among them."""

ENUMERATED_AT_ONCE = 2000
"""Masks of an enumeration that are written out at a time: 20 MB of digits-mlp."""


@dataclass(frozen=True, kw_only=True)
class Oracle(Study):
    """A population of masks, what is known of each before training, and what each comes to after it."""

    name: ClassVar[str] = "oracle"
    summary: ClassVar[str] = "Is the mask of the lowest loss the best after training?"
    reference: ClassVar[str] = "Feng et al.: Is Oracle Pruning the True Oracle?, arXiv 2412.00143, 2024"

    density: float = 0.1
    """The part of the weights that masks keep; with enumerate=neurons the items say that."""

    masks: int = 100
    """Masks that are trained; of an enumeration a third of them are the best, the others lie evenly among all."""

    epochs: tuple[int, ...] = (1, 5, 20)
    """Lengths of training, each with its own schedule."""

    seeds: int = 2
    """Trainings of every mask, with different orders of the samples; 1 leaves the ceiling unknown."""

    solvers: tuple[str, ...] = ("swap", "admm", "chita", "woodfisher")
    """Solvers whose masks are in the population, as NAME:OPTION=VALUE."""

    time_limit: float = 60.0
    """Seconds for each of them."""

    enumerate: str = ""
    """All masks in place of a population: neurons:K/N of a hidden layer, or weights:K/N of a pruned network."""

    within: str = ""
    """With enumerate=weights: the run directory whose mask is the pruned network; empty: by magnitude, at density."""

    def check(self) -> None:
        """Refuse counts that are too small, and options that contradict each other."""
        require_density(self, self.density)
        require_from(self, 1, "seeds", "epochs")
        require_from(self, 0.0, "time_limit")
        if self.masks < FEWEST:
            raise InvalidInput(f"study {self.name}: {self.masks} masks say nothing of an order; take {FEWEST} or more")
        if len(set(self.epochs)) < len(self.epochs):
            raise InvalidInput(f"study {self.name}: epochs {self.epochs} name a length twice; leave it out once")
        candidates.require_solvers(self.solvers)
        if self.enumerate:
            asked = enumeration.parse(self.enumerate, self.name)
            if asked.count < FEWEST:
                raise InvalidInput(f"study {self.name}: enumerate={self.enumerate} has {asked.count} masks; take more")
        if self.within and not self.enumerate.startswith("weights"):
            raise InvalidInput(f"study {self.name}: within is the network of enumerate=weights:K/N; leave it out")

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse a run of another network too."""
        made = super().require(problem)
        if self.within:
            candidates.require_run(self.within, made.name)
        return made

    def run(self, setting: Setting) -> Findings:
        """Make the masks, judge them before training, train them, and compare."""
        require_labels(setting.problem, setting.network, self.name)
        chosen = self._enumerated(setting) if self.enumerate else self._population(setting)
        return oracle_tables.findings(chosen, self._trained(setting, chosen), self.rng("bootstrap"))

    def _population(self, setting: Setting) -> Population:
        """Masks from good to random over the whole network."""
        network = setting.network
        dense, form = network.weights(), self.form(setting)
        keep, rng = keep_count(self.density, dense.size), self.rng("masks")
        asked = candidates.Asked(form, dense, keep, seconds=self.time_limit, seed=self.seed)
        found, notes = candidates.solved(setting, candidates.require_solvers(self.solvers), asked)
        held: dict[bytes, candidates.Candidate] = {}
        named: dict[str, bytes] = {}
        number = 0
        # noise so small that it changes no mask may give the same ones again: there is an end to trying
        while len(held) < self.masks and number < 10 * self.masks:
            for candidate in found:
                key = candidate.mask.tobytes()
                held.setdefault(key, candidate)
                if candidate.name == candidate.family:
                    named[candidate.name] = key
            found, more = self._another(setting, asked, number, rng)
            notes += more
            number += 1
            setting.told("masks", min(len(held), self.masks), self.masks)
        chosen = list(held.values())
        if len(chosen) < FEWEST:
            raise InvalidInput(
                f"study {self.name}: only {len(chosen)} different masks came about at density {self.density:g}; choose "
                "a density further from 0 and 1"
            )
        every = np.array([candidate.mask for candidate in chosen])
        known = {MODEL: np.array([form.value(dense * mask) for mask in every])}
        refits = np.array([form.refit(mask) for mask in every])
        known[f"{MODEL}, refitted"] = np.array([form.value(weights) for weights in refits])
        known |= self._true_losses(setting, every, refits)
        return Population(
            every, tuple(c.name for c in chosen), tuple(c.family for c in chosen), known,
            named={name: list(held).index(key) for name, key in named.items()}, notes=tuple(dict.fromkeys(notes)),
        )  # fmt: skip

    def _another(
        self, setting: Setting, asked: candidates.Asked, number: int, rng: np.random.Generator
    ) -> tuple[list[candidates.Candidate], list[str]]:
        """The next masks of the population, by their number; and why there are none."""
        form, dense, keep = asked.form, asked.dense, asked.keep
        turn, place = divmod(number, DESCENTS)
        if place == DESCENTS - 1:
            start = top_mask(np.abs(dense) * np.exp(candidates.START_NOISE * rng.standard_normal(dense.size)), keep)
            swap = candidates.require_solvers(["swap"])
            words = f" from noisy start {turn + 1}"
            found, notes = candidates.solved(setting, swap, replace(asked, seed=turn), start=start, words=words)
            return [candidates.Candidate(c.name, "swap, noisy start", c.mask, c.weights) for c in found], notes
        drawn = turn * (DESCENTS - 1) + place
        if drawn < 2:
            # without noise first: the masks by magnitude and by OBD themselves
            name = ("magnitude", "obd")[drawn]
            family, mask = name, top_mask(score(name, form, dense), keep)
        else:
            family, mask = candidates.noisy(form, dense, keep, drawn - 2, rng)
            name = f"{family} {drawn}"
        return [candidates.Candidate(name, family, mask, np.where(mask, dense, 0.0))], []

    def _enumerated(self, setting: Setting) -> Population:
        """All masks of some items, of which some are trained."""
        network, form = setting.network, self.form(setting)
        dense, asked = network.weights(), enumeration.parse(self.enumerate, self.name)
        known_of: dict[str, FloatArray] = {}
        if asked.kind == "neurons":
            every = enumeration.neurons(network.layers, asked, self.name)
        else:
            within = self._within(setting, dense)
            every = enumeration.weights_of(form, dense, within, asked, self.name)
            network.assign(np.where(within, dense, 0.0))
            # the network is no minimum there, so the slope belongs to the model
            near = self.form(setting, gradient_scale=1.0)
            known_of[f"{MODEL} about the pruned network"] = every.objectives(near, dense)
            network.assign(dense)
        known_of = {MODEL: every.objectives(form, dense), **known_of}
        count = every.kept.shape[0]
        parts = []
        for first in range(0, count, ENUMERATED_AT_ONCE):
            part = every.masks(slice(first, first + ENUMERATED_AT_ONCE))
            parts.append(self._true_losses(setting, part)[PRUNED])
            setting.told("true losses", min(first + ENUMERATED_AT_ONCE, count), count)
        known_of[PRUNED] = np.concatenate(parts)
        picked = _picked(known_of, self.masks)
        optima = {_optimum(name): int(np.argmin(values)) for name, values in known_of.items() if name != PRUNED}
        return Population(
            every.masks(picked), tuple(f"mask {number}" for number in picked), ("enumerated",) * picked.size,
            {name: values[picked] for name, values in known_of.items()},
            named={name: int(np.flatnonzero(picked == number)[0]) for name, number in optima.items()},
            enumerated=known_of, best_of_all=int(np.argmin(known_of[PRUNED])) in picked,
        )  # fmt: skip

    def _within(self, setting: Setting, dense: FloatArray) -> BoolArray:
        if not self.within:
            return top_mask(np.abs(dense), keep_count(self.density, dense.size))
        from prunebench.runs.start import load_start

        base = setting.network.state()
        found = load_start(Path(self.within), setting.network)
        setting.network.load_state(base)
        return found.mask

    def _true_losses(
        self, setting: Setting, every: BoolArray, refits: FloatArray | None = None
    ) -> dict[str, FloatArray]:
        """The network's own loss on calibration samples, with dense values, and with refitted ones where given."""
        from prunebench.recovery.training.many import reached

        untrained = self.training(0, self.seed)
        out = {PRUNED: reached(setting.problem, setting.network, every, untrained).training.loss}
        if refits is not None:
            out[REFITTED] = reached(setting.problem, setting.network, every, untrained, weights=refits).training.loss
        return out

    def _trained(self, setting: Setting, chosen: Population) -> dict[int, list[Seed]]:
        """By length of training what every mask comes to, with each order of the samples; 0 epochs: untrained."""
        from prunebench.recovery.training.many import reached

        def seed_of(epochs: int, seed: int) -> Seed:
            words = f"masks, {epochs_in_words(epochs)}, order {seed - self.seed + 1}"
            told = partial(setting.told, words)
            training = self.training(epochs, seed)
            found = reached(setting.problem, setting.network, chosen.masks, training, told=told)
            judged: Judged = found.validation
            return Seed(found.training.loss, judged.loss, judged.accuracy)

        seeds = range(self.seed, self.seed + self.seeds)
        return {0: [seed_of(0, self.seed)], **{length: [seed_of(length, s) for s in seeds] for length in self.epochs}}


def _optimum(name: str) -> str:
    return f"optimum of the {name}"


def _picked(known: dict[str, FloatArray], count: int) -> IndexArray:
    """Of all masks those that are trained: the best third, others evenly down the order, and every model's optimum."""
    order = np.argsort(known[PRUNED], kind="stable")
    best = order[: count // 3]
    spread = order[np.linspace(0, order.size - 1, count - best.size).astype(np.int64)]
    optima = [int(np.argmin(values)) for values in known.values()]
    return np.unique(np.concatenate([best, spread, optima])).astype(np.int64)
