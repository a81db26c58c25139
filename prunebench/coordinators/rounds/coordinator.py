"""Rounds: a block for any solver, its mask, the values that kept weights are set back to, and training.

Zhu, Gupta: To Prune, or Not to Prune, 2017; Frankle, Carbin: The Lottery Ticket Hypothesis, 2019; Renda, Frankle,
Carbin: Comparing Rewinding and Fine-tuning, 2020; Liu et al. (GraNet), 2021. Each pruning is a step, and so is each
epoch of training.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.quotas import QuotaKind, require_honoured
from prunebench.coordinators.rounds import amounts, learned, regrowth
from prunebench.coordinators.rounds.options import RoundsOptions
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem, Mode
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Task,
    calibration_seed,
    checked_number,
    checked_state,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem, spread
from prunebench.core.solution import Solution
from prunebench.curvature.fisher import network_form
from prunebench.recovery.training.protocol import Protocol, as_text

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork
    from prunebench.recovery.training.trainer import Trainer

MOST_ROUNDS = 10_000
"""Rounds are fewer: a checkpoint that says more is damaged."""

SCORE_BATCH = 128
"""Samples of a step in which scores are learned, as many as of the usual protocol."""

PQ_SHOWN = ((0.5, 1.0), (1.0, 2.0))
"""The p and q of the indices that are logged with every round, as in the paper's figures."""


@register
class Rounds(Coordinator):
    """Asks for a block, prunes, sets weights back, trains, and repeats.

    Parameters of the network that are not pruned are trained too and are part of the state.
    """

    name: ClassVar[str] = "rounds"
    summary: ClassVar[str] = "Rounds of pruning and training: tickets, gradual pruning, regrowth, from scratch."
    reference: ClassVar[str] = "Frankle, Carbin: The Lottery Ticket Hypothesis, ICLR 2019"
    options_class: ClassVar[type] = RoundsOptions
    flags: ClassVar[Mapping[str, str]] = {"rounds": "T", "train": "PROTOCOL"}
    needs_network: ClassVar[bool] = True
    default_mode: ClassVar[Mode] = "refit"
    validate_every: ClassVar[int] = 1
    protocol_options: ClassVar[tuple[str, ...]] = ("train", "train_end")
    large_blocks: ClassVar[bool] = True
    shares_passes: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._setting, self.options = setting, setting.options
        self._network: PrunableNetwork = setting.network
        self.weights: FloatArray = self._network.weights()
        self._values = self.weights
        """What the network has: other than `weights`, off the mask too while a penalty pulls."""
        self.mask: BoolArray = np.ones(self.weights.size, dtype=np.bool_)
        self._rng = np.random.default_rng(setting.seed)
        self._last = keep_count(setting.density, self.weights.size)
        self._plan = amounts.planned(setting.options, setting.density, self.weights.size)
        self._round = 0
        """Prunings done."""
        self._asked_from: Mapping[str, Any] | None = None
        """The random generator's state before the present block was asked for; None if no block is out."""
        self._trainer: Trainer | None = None
        """The training after the last pruning; None once it is done, and before the first."""

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse densities that rise, a solver without quotas where layers have counts, and unknown beginnings."""
        options: RoundsOptions = setting.options
        amounts.planned(options, setting.density, 10**9)
        if options.counts != "network":
            require_honoured(setting.solver, QuotaKind("layer"), "leave counts at network")
        from prunebench.recovery.training.starts import require_known

        assert isinstance(setting.problem, NetworkProblem)
        for protocol in options.protocols:
            require_known(setting.problem, protocol)

    @classmethod
    def begin(cls, setting: Setting) -> "Rounds":
        """Over a network, whose present weights are the dense ones.

        Raises
        ------
        InvalidInput   every layer is to keep more than the density leaves, or a protocol does not fit the samples
        """
        made = cls(setting)
        least = amounts.fewest(setting.options.least, made._network.layers)
        if setting.options.scores == "learned":
            setting.say(f"scores are learned, so solver {setting.solver.name} is not asked")
        if least > made._last:
            raise InvalidInput(
                f"coordinator rounds: least={setting.options.least:g} keeps {least} weights and the density only "
                f"{made._last}; choose a smaller least"
            )
        for protocol in setting.options.protocols:
            made._epochs(protocol, setting.density)
        return made

    @classmethod
    def last_training(cls, options: RoundsOptions) -> str | None:
        """What is trained after the last round; None where that takes no step."""
        return None if options.protocols[1].nothing else as_text(options.protocols[1])

    def network_facts(self) -> dict[str, Any]:
        """How gradients are computed, and which weights no calibration sample reaches."""
        from prunebench.curvature import reach
        from prunebench.curvature.gradient_ways import way_of

        network, problem, options = self._network, self._problem, self.options
        calibration = problem.calibration()
        count = min(options.samples, len(calibration))
        looked = spread(len(calibration), count, np.random.default_rng(calibration_seed(self._setting.seed)))
        way = way_of(network, problem.loss, calibration, looked, batch_size=options.batch_size)
        reached = reach.reached_by_gradients(network, problem.loss, calibration, looked)
        return {"gradients": asdict(way), "unreached": reach.unreached(network.layers, reached, count).as_json()}

    @property
    def total_steps(self) -> int | None:
        """Prunings and epochs, fewer where patience ends a training; None where the weights decide on the way."""
        if self._plan is None:
            return None
        last = len(self._plan) - 1
        densities = [keep / self.weights.size for keep in self._plan]
        return sum(1 + self._epochs(self._protocol(at, at == last), part) for at, part in enumerate(densities))

    def ask(self, count: int = 1) -> list[Task]:
        """What is kept, or the whole network where weights may come back, as one block if a pruning is next."""
        if self._asked_from is not None or self._trainer is not None or self._pruned:
            return []
        if self.options.scores == "learned":
            return []
        self._network.assign(self.weights)
        self._asked_from = self._rng.bit_generator.state
        form = network_form(self._problem, self._network, self.options.fisher, self._rng)
        label = f"round {self._round + 1}"
        indices = self._candidates()
        quota = self._quota(indices, keep := self._due())
        if indices.size < self.weights.size:
            form = form.restrict(indices, self.weights)
        block = BlockProblem(
            form, self.weights[indices], keep, self._setting.mode, problem=f"{self._setting.name}/{label}",
            indices=indices, quota=quota,
        )  # fmt: skip
        return [Task(self._round, label, block)]

    def tell(self, task: Task, solution: Solution | None) -> Move:
        """Prune, exchange what is to grow, and set weights back to where training begins.

        Raises
        ------
        PrunebenchError   there is no solution to continue from
        """
        if solution is None:
            raise PrunebenchError(f"{task.block.name} was not solved; there is no answer to go on with")
        indices = self._candidates()
        mask, weights = np.zeros_like(self.mask), np.zeros_like(self.weights)
        mask[indices], weights[indices] = solution.mask, solution.weights
        return self._prune(mask, weights, solution.objective - task.block.form.constant, {})

    def _prune(self, mask: BoolArray, weights: FloatArray, change: float | None, more: Mapping[str, Any]) -> Move:
        """Take a round's answer over: raise layers to what they keep at least, exchange, and begin to train.

        change : of the quadratic model, None where there is none;  more : for the log
        """
        before, trained = self.mask, self.weights
        details: dict[str, Any] = {"pq_index": self._pq_indices(), **more}
        if self.options.least:
            allowed = np.zeros_like(before)
            allowed[self._candidates()] = True
            worth = np.where(mask, np.abs(weights), np.abs(trained))
            floored = amounts.with_least(mask, worth, self._network.layers, self.options.least, allowed)
            details["raised"] = int((floored & ~mask).sum())
            mask, weights = floored, np.where(floored, np.where(mask, weights, trained), 0.0)
        if self.options.regrow:
            mask, details["grown"] = self._regrown(mask, weights)
            weights = np.where(mask, weights, 0.0)
        self._network.assign(weights)
        self.mask = mask
        self._round, self._asked_from = self._round + 1, None
        layers = {layer.name: int(mask[layer.start : layer.stop].sum()) for layer in self._network.layers}
        if empty := [name for name, kept in layers.items() if not kept]:
            self._setting.say(f"round {self._round}: nothing is left of {', '.join(empty)} (least=0.0005 keeps some)")
        self._begin_training()
        return Move(True, change, int((mask != before).sum()), self._details("prune", layers=layers, **details))

    def advance(self) -> Move | None:
        """Train one epoch if one is next, or prune by scores that are learned.

        Raises
        ------
        PrunebenchError   the loss is no longer finite
        """
        if self._trainer is None and self.options.scores == "learned" and not self._pruned:
            return self._learned()
        if self._trainer is None:
            return None
        clock = perf_counter()
        # evaluation may have written zeros where a penalty still pulls
        self._network.assign(self._values)
        epoch = self._trainer.epoch()
        number = len(self._trainer.epochs)
        self._end_training()
        more = {"epoch": number, "training_loss": epoch.loss, "judged": epoch.judged, "rate": epoch.rate}
        return Move(True, None, 0, self._details("train", seconds=perf_counter() - clock, **more))

    @property
    def complete(self) -> bool:
        """Whether the last pruning is done."""
        return self._pruned

    def check(self) -> None:
        """Raise PrunebenchError if a layer keeps fewer weights than `least` says."""
        floor = int(np.ceil(self.options.least * self.weights.size))
        for layer in self._network.layers:
            kept = int(self.mask[layer.start : layer.stop].sum())
            if kept < min(floor, layer.stop - layer.start):
                raise PrunebenchError(f"layer {layer.name} keeps {kept} weights where {floor} are due; please report")

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Mask, the model's tensors, what the optimizer remembers, and the random generator's state."""
        from prunebench.recovery.tensors import array_of
        from prunebench.recovery.training.trainer import MODEL

        if self._trainer is None:
            arrays: dict[str, Any] = {f"{MODEL}{name}": array_of(t) for name, t in self._network.state().items()}
            training: dict[str, Any] | None = None
        else:
            # evaluation may have written zeros where a penalty still pulls
            self._network.assign(self._values)
            arrays, training = self._trainer.state()
        drawn = self._asked_from if self._asked_from is not None else self._rng.bit_generator.state
        info = {"rounds_done": self._round, "draws": dict(drawn), "training": training}
        return {"mask": self.mask, "weights": self.weights, **arrays}, info

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue after the finished steps."""
        from prunebench.recovery.training.trainer import MODEL, tensors_of

        mask = checked_state(arrays, self.mask.size)[0].astype(np.bool_)
        done = checked_number(info, "rounds_done", most=MOST_ROUNDS if self._plan is None else len(self._plan))
        if self._plan is not None and (kept := int(mask.sum())) != (due := self._plan[done - 1] if done else mask.size):
            raise InvalidInput(f"{kept} weights are kept where {due} are due after {done} rounds")
        if int(mask.sum()) < self._last:
            raise InvalidInput(f"{int(mask.sum())} weights are kept, fewer than the {self._last} that the density says")
        self._rng.bit_generator.state = info["draws"]
        self.mask, self._round, self._asked_from, self._trainer = mask, done, None, None
        if info["training"] is not None:
            self._begin_training()
            if self._trainer is None:
                raise InvalidInput("a training is under way of which the protocol has no steps")
            self._trainer.load(arrays, info["training"])
        else:
            self._network.load_state(tensors_of(arrays, MODEL, self._network.model.state_dict()))
        self._take()
        if (self._values[~mask] != 0.0).any() and not self._trainer:
            raise InvalidInput("the model has weights that are not zero where mask is false")

    @property
    def _problem(self) -> NetworkProblem:
        problem = self._setting.problem
        assert isinstance(problem, NetworkProblem)
        return problem

    @property
    def _pruned(self) -> bool:
        """Whether no pruning is left."""
        return (
            self._round > 0
            and int(self.mask.sum()) == self._last
            and (self._plan is None or self._round == len(self._plan))
        )

    def _due(self) -> int:
        """How many weights the next round keeps."""
        if self._plan is not None:
            return self._plan[self._round]
        return amounts.kept_by_pq(self.weights[self.mask], self.options, self._last)

    def _candidates(self) -> IndexArray:
        """The weights that the next round may keep. int64 (b,)"""
        back = self.options.back or not self._round
        return np.arange(self.mask.size) if back else np.flatnonzero(self.mask).astype(np.int64)

    def _quota(self, indices: IndexArray, keep: int) -> Quota | None:
        """What every layer keeps of the candidates, where that is said; None: what is best in all."""
        if self.options.counts == "network":
            return None
        layers = self._network.layers
        starts = np.array([layer.start for layer in layers])
        owner = np.searchsorted(starts, indices, side="right") - 1
        # rounding may give a layer one weight more than an earlier round left it
        present = np.bincount(owner, minlength=len(layers)).astype(np.int64)
        return Quota(owner, amounts.layer_counts(self.options, layers, keep, present))

    def _learned(self) -> Move:
        """Prune by scores that are learned."""
        options, network = self.options, self._network
        network.assign(self.weights)
        indices, keep = self._candidates(), self._due()
        quota = self._quota(indices, keep)
        allowed = np.zeros_like(self.mask)
        allowed[indices] = True
        if quota is not None:
            sizes = [layer.stop - layer.start for layer in network.layers]
            quota = Quota(np.repeat(np.arange(len(sizes)), sizes), quota.counts)
        choice = learned.Choice(allowed, keep, quota)
        how = learned.ScoreSteps(
            steps=options.score_steps, batch_size=SCORE_BATCH, rate=options.score_rate,
            weight_rate=options.weight_rate, ridge=options.score_ridge, polarise=options.polarise,
        )  # fmt: skip
        rng = np.random.default_rng(np.random.SeedSequence(self._setting.seed, spawn_key=(11, self._round)))
        mask, weights, losses = learned.learned(self._problem, network, choice, how, rng)
        if self._setting.mode == "select":
            weights = np.where(mask, self.weights, 0.0)
        tenth = max(1, len(losses) // 10)
        shown = {"first_loss": float(np.mean(losses[:tenth])), "last_loss": float(np.mean(losses[-tenth:]))}
        return self._prune(mask, weights, None, {"scores": shown})

    def _regrown(self, mask: BoolArray, weights: FloatArray) -> tuple[BoolArray, int]:
        """The mask after the exchange, and how many weights grew.

        Growth is scored where training ended, before the round's pruning, as in GraNet's own program: right after it,
        the gradients are those of what pruning broke.
        """
        options, network = self.options, self._network
        rounds = len(self._plan) if self._plan is not None else self._round + 1
        network.assign(self.weights)
        rng = np.random.default_rng(np.random.SeedSequence(self._setting.seed, spawn_key=(9, self._round)))
        worth = regrowth.scores(self._problem, network, options.regrow_by, options.samples, rng)
        part = regrowth.part_of(options.regrow, self._round, rounds)
        after = regrowth.exchanged(mask, weights, worth, network.layers, part)
        return after, int((after & ~mask).sum())

    def _protocol(self, number: int, last: bool) -> Protocol:
        """What is trained after a round, counted from 0: with a seed of its own."""
        options: RoundsOptions = self.options
        between, end = options.protocols
        protocol = end if last else between
        drawn = np.random.SeedSequence(self._setting.seed, spawn_key=(6, number, protocol.seed)).generate_state(1)
        return replace(protocol, seed=int(drawn[0]))

    def _begin_training(self) -> None:
        """Put the values in place that training starts from, if there is any training."""
        from prunebench.recovery.training.starts import trainer

        protocol = self._protocol(self._round - 1, self._pruned)
        self._trainer = trainer(self._problem, self._network, self.mask, protocol)
        self._end_training()

    def _end_training(self) -> None:
        """Take over what training came to, and leave it once it is done."""
        assert self._trainer is not None
        if self._trainer.done:
            self._trainer.finish()
            self._trainer = None
        self._take()

    def _take(self) -> None:
        """Note the network's present weights."""
        self._values = self._network.weights()
        self.weights = np.where(self.mask, self._values, 0.0)

    def _epochs(self, protocol: Protocol, density: float) -> int:
        """Epochs of a protocol."""
        from prunebench.recovery.training.starts import course_of

        return course_of(self._problem, self._network, protocol.at(density)).total_epochs

    def _pq_indices(self) -> dict[str, float]:
        """The PQ indices of what was kept before a round, by p and q."""
        kept = self.weights[self.mask]
        return {f"{p:g},{q:g}": amounts.pq_index(kept, p, q) for p, q in PQ_SHOWN}

    def _details(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"stage": self._round, "kind": kind, "density": float(self.mask.mean()), **more}
