"""Rounds of structured pruning and training: some groups go, what is left is a smaller network and is trained.

Each round is structured pruning of the network that the round before left (`prunebench.coordinators.structured`), so
that counts and choices are those of trained weights. Gradual pruning and lottery tickets of whole groups are values of
its options (Zhu, Gupta: To Prune, or Not to Prune, 2017; Frankle, Carbin: The Lottery Ticket Hypothesis, 2019).
"""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from prunebench.coordinators import schedules
from prunebench.coordinators.structured import Structured, StructuredOptions
from prunebench.coordinators.structured_rounds.options import StructuredRoundsOptions
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.coordinator import Coordinator, Move, Setting, Task, checked_number, checked_state, register
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.problem import NetworkProblem
from prunebench.core.recovery import Division
from prunebench.core.solution import Solution
from prunebench.recovery.training.protocol import Protocol, as_text

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork
    from prunebench.recovery.training.cut import Cut
    from prunebench.recovery.training.trainer import Trainer
    from prunebench.structure.found import Found

ROUND = "round."
"""What the names of a checkpoint's arrays begin with that are of the round under way."""

WHOLE = "layers"
"""The kind of groups whose removal changes what a network computes, not the shapes of its tensors."""


@register
class StructuredRounds(Coordinator):
    """Prunes groups, trains the smaller network, and repeats. Its mask is over groups: bool (G,), true where kept.

    `density` is the part of the budget that is kept in the end, never exceeded.
    """

    name: ClassVar[str] = "structured-rounds"
    summary: ClassVar[str] = "Rounds of structured pruning and training of the smaller network: gradual, or rewound."
    reference: ClassVar[str] = "Zhu, Gupta: To Prune, or Not to Prune, 2017; Kurtić et al.: ZipLM, NeurIPS 2023"
    options_class: ClassVar[type] = StructuredRoundsOptions
    flags: ClassVar[Mapping[str, str]] = {**Structured.flags, "rounds": "T", "train": "PROTOCOL"}
    needs_network: ClassVar[bool] = True
    default_mode: ClassVar[Literal["refit"]] = "refit"
    protocol_options: ClassVar[tuple[str, ...]] = ("train", "train_end")
    large_blocks: ClassVar[bool] = True
    of_groups: ClassVar[bool] = True

    def __init__(self, setting: Setting, whole: Structured, cut: "Cut") -> None:
        self._setting, self.options = setting, setting.options
        self.found = whole.found
        """The dense network's groups: `prunebench.structure.found.Found`."""
        self.counting = whole.counting
        self._cut = cut
        self._sizes = [family.size for family in self.found.families]
        self.mask: BoolArray = np.ones(sum(self._sizes), dtype=np.bool_)
        self.weights: FloatArray = self.mask.astype(np.float64)
        self._plan = _planned(setting.options, setting.density)
        self._round = 0
        """Prunings done."""
        self._network: PrunableNetwork = setting.network
        """What is left, with its present values: the dense network before the first pruning."""
        self._inner: Structured | None = None
        """The pruning of the round, from its first task to its end."""
        self._trainer: Trainer | None = None
        """The training after the last pruning; None once it is done, and before the first."""
        self.errors: dict[str, float] = {}
        """By layer, what the refit of the last round left."""

    @classmethod
    def usual_solver(cls, options: Mapping[str, Any], mode: str | None) -> str:
        """As for structured pruning at once."""
        return Structured.usual_solver(options, mode)

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse what structured pruning refuses, densities that rise, and what cannot be trained."""
        from prunebench.recovery.training.starts import require_known

        options: StructuredRoundsOptions = setting.options
        if setting.recovery:
            raise InvalidInput(
                f"coordinator {cls.name} trains by its own protocols (--train), and takes no recovery; leave it out"
            )
        if options.budget == "latency":
            raise InvalidInput(
                f"coordinator {cls.name} plans costs that add up, and times are measured; give --flops or --params, or "
                "prune at once with coordinator structured"
            )
        if WHOLE in options.kinds:
            raise InvalidInput(
                f"coordinator {cls.name} trains a module of smaller shapes, and a residual branch that is gone is in "
                "no shape; leave layers out of --structure, or prune at once with coordinator structured"
            )
        Structured.require(setting)
        _planned(options, setting.density)
        assert isinstance(setting.problem, NetworkProblem)
        for protocol in options.protocols:
            if protocol.penalty:
                raise InvalidInput("penalty pulls at weights that go, and of a smaller network none does; leave it out")
            require_known(setting.problem, protocol)

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """As for structured pruning at once."""
        return Structured.division(setting, total)

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """As for structured pruning at once."""
        return Structured.fitted(asked, total, fixed)

    @classmethod
    def last_training(cls, options: StructuredRoundsOptions) -> str | None:
        """What is trained after the last round; None where that takes no step."""
        return None if options.protocols[1].nothing else as_text(options.protocols[1])

    @classmethod
    def begin(cls, setting: Setting) -> "StructuredRounds":
        """Find the groups, and see that the budget can be met and that the user's module takes smaller tensors.

        Raises
        ------
        InvalidInput   one of these does not hold, or a protocol does not fit the samples
        """
        from prunebench.recovery.training.cut import Cut
        from prunebench.recovery.training.starts import course_of

        assert isinstance(setting.problem, NetworkProblem)
        whole = Structured.begin(setting)
        cut = Cut(setting.problem, setting.problem.prunable(), whole.found)
        cut.require_possible()
        for protocol in setting.options.protocols:
            course_of(setting.problem, setting.network, protocol.at(setting.density))
        return cls(setting, whole, cut)

    def ask(self, count: int = 1) -> list[Task]:
        """The next tasks of the round's pruning; none while there is training."""
        if self._trainer is not None or self._pruned:
            return []
        if self._inner is None:
            self._inner = self._begun()
        return [
            replace(task, position=self._first + task.position, label=f"round {self._round + 1}, {task.label}")
            for task in self._inner.ask(count)
        ]

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Pass a solution to the round's pruning.

        Raises
        ------
        PrunebenchError   it was not solved
        """
        assert self._inner is not None
        return self._staged(self._inner.tell(replace(task, position=task.position - self._first), solution))

    def advance(self) -> Move | None:
        """A step of the round's pruning that needs no solver; the cut, once it is over; or an epoch of training.

        Raises
        ------
        PrunebenchError   a loss is no longer finite
        """
        if self._trainer is not None:
            return self._train()
        if self._inner is None:
            return None
        return self._shrink() if self._inner.complete else self._staged(self._inner.advance())

    @property
    def complete(self) -> bool:
        """Whether the last round is pruned and trained."""
        return self._pruned and self._trainer is None

    def check(self) -> None:
        """Raise PrunebenchError if the budget is exceeded."""
        from prunebench.structure.budget import ROUNDING

        if self._pruned and self._costs(self.kept()) > self.counting.limit() * (1.0 + ROUNDING):
            raise PrunebenchError("the budget is exceeded; please report this")

    def kept(self) -> list[BoolArray]:
        """What is kept of every family, in order."""
        return np.split(self.mask, np.cumsum(self._sizes)[:-1])

    @property
    def state(self) -> dict[str, Any]:
        """The present values at the dense network's shapes, zero where groups are gone."""
        return self._cut.grown(self.kept(), self._network.model)

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """What is kept, the smaller network's tensors, and where the round's pruning or training is."""
        from prunebench.recovery.tensors import array_of
        from prunebench.recovery.training.trainer import MODEL

        arrays: dict[str, npt.NDArray[Any]] = {"mask": self.mask, "weights": self.weights}
        info: dict[str, Any] = {"rounds_done": self._round, "pruning": None, "training": None, "errors": self.errors}
        if self._trainer is not None:
            held, info["training"] = self._trainer.state()
            return {**arrays, **held}, info
        arrays |= {f"{MODEL}{name}": array_of(tensor) for name, tensor in self._network.state().items()}
        if self._inner is not None:
            inner, info["pruning"] = self._inner.state_dict()
            arrays |= {f"{ROUND}{name}": array for name, array in inner.items()}
        return arrays, info

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue with the network that there is, within its pruning or its training."""
        from prunebench.recovery.training.trainer import MODEL, tensors_of

        mask, weights = checked_state(arrays, self.mask.size)
        self._round = checked_number(info, "rounds_done", most=len(self._plan))
        if not np.array_equal(weights, mask.astype(np.float64)) or (not self._round and not mask.all()):
            raise InvalidInput("mask and weights do not say the same groups, or groups are gone before the first round")
        self.mask, self.weights = mask, mask.astype(np.float64)
        self.errors = {str(name): float(value) for name, value in info["errors"].items()}
        self._inner = self._trainer = None
        if self._round:
            if self._costs(self.kept()) > self._limit(self._round - 1):
                raise InvalidInput(f"more is kept than round {self._round} leaves")
            self._network = self._cut.network(self.kept())
        if info["training"] is not None:
            self._begin_training()
            if self._trainer is None:
                raise InvalidInput("a training is under way of which the protocol has no steps")
            self._trainer.load(arrays, info["training"])
            return
        self._network.load_state(tensors_of(arrays, MODEL, self._network.model.state_dict()))
        if info["pruning"] is not None:
            self._inner = self._begun()
            inner = {name.removeprefix(ROUND): array for name, array in arrays.items() if name.startswith(ROUND)}
            self._inner.load_state_dict(inner, info["pruning"])

    # ------------------------------------------------------------ a round

    @property
    def _pruned(self) -> bool:
        """Whether no pruning is left."""
        return self._round == len(self._plan)

    @property
    def _first(self) -> int:
        """The position of the round's first task: no round has more tasks than lie between two of them."""
        return self._round * max(len(self._sizes), len(self.options.taus(self._setting.mode)))

    def _costs(self, kept: list[BoolArray]) -> float:
        """In the budget's unit."""
        return float(self.found.cost(self.options.budget).total([int(part.sum()) for part in kept]))

    def _limit(self, number: int) -> float:
        """What a round may leave, counted from 0, in the budget's unit, with room for rounding."""
        from prunebench.structure.budget import ROUNDING

        return self._plan[number] * float(self.found.cost(self.options.budget).total()) * (1.0 + ROUNDING)

    def _begun(self) -> Structured:
        """The pruning of the present network to what the next round leaves."""
        dense = self._costs([np.ones(size, dtype=np.bool_) for size in self._sizes])
        part = min(1.0, self._plan[self._round] * dense / self._costs(self.kept()))
        drawn = np.random.SeedSequence(self._setting.seed, spawn_key=(13, self._round)).generate_state(1)
        asked = {item.name: getattr(self.options, item.name) for item in fields(StructuredOptions)}
        return Structured.over(replace(
            self._setting, network=self._network, density=part, seed=int(drawn[0]), options=StructuredOptions(**asked),
        ), self._present())  # fmt: skip

    def _present(self) -> "Found":
        """The groups of the present network that the dense one's families have: one by itself is no family."""
        if not self._round:
            known: Found = self.found
            return known
        from prunebench.structure.found import find

        assert isinstance(self._setting.problem, NetworkProblem)
        labels = {family.label: family.name for family, part in self._families() if part.sum() > 1}
        found = find(self._network.model, self._setting.problem.calibration(), list(dict.fromkeys(labels.values())))
        return replace(found, families=tuple(family for family in found.families if family.label in labels))

    def _staged(self, move: Move | None) -> Move | None:
        """A move with the number of its round."""
        return None if move is None else replace(move, details={"stage": self._round + 1, **move.details})

    def _shrink(self) -> Move:
        """Cut away what the round's pruning leaves out, and begin to train."""
        from prunebench.recovery.training.cut import smaller_of
        from prunebench.structure.module import resized
        from prunebench.structure.resize import Living, shrunk_state

        clock, inner = perf_counter(), self._inner
        assert inner is not None
        assert inner.state is not None
        before, coupling = int(self.mask.sum()), inner.found.coupling
        living = Living(coupling, inner.found.families, inner.kept())
        module = resized(self._network.model, shrunk_state(coupling, inner.state, living))
        self._keep(inner)
        self.errors = {name: float(value) for name, value in inner.errors.items()}
        self._network, self._inner = smaller_of(self._cut.names, module), None
        self._round += 1
        self._begin_training()
        details = {
            "kind": "shrink", "stage": self._round, "part": self._part(),
            "layers": {family.label: int(part.sum()) for family, part in self._families()},
            "seconds": perf_counter() - clock,
        }  # fmt: skip
        return Move(True, None, before - int(self.mask.sum()), details)

    def _families(self) -> list[tuple[Any, BoolArray]]:
        return list(zip(self.found.families, self.kept(), strict=True))

    def _keep(self, inner: Structured) -> None:
        """Take over into the mask what a pruning of the present network keeps.

        Raises
        ------
        PrunebenchError   its families are not those of the network
        """
        own = {family.label: part for family, part in zip(inner.found.families, inner.kept(), strict=True)}
        parts = []
        for family, part in self._families():
            left = np.flatnonzero(part)
            # one group by itself is no family, and stays
            chosen = own.get(family.label, np.ones(left.size, dtype=np.bool_))
            if chosen.size != left.size:
                raise PrunebenchError(f"{family.label} has {left.size} groups left, and {chosen.size} were found")
            after = np.zeros_like(part)
            after[left[chosen]] = True
            parts.append(after)
        self.mask = np.concatenate(parts)
        self.weights = self.mask.astype(np.float64)

    def _part(self) -> float:
        """What the present network costs of the dense one's multiply-accumulates."""
        cost = self.found.cost("macs")
        return float(cost.total([int(part.sum()) for part in self.kept()]) / cost.total())

    def _protocol(self) -> Protocol:
        """What is trained after the round that was pruned last: with a seed of its own."""
        number = self._round - 1
        between, end = self.options.protocols
        protocol: Protocol = end if self._pruned else between
        drawn = np.random.SeedSequence(self._setting.seed, spawn_key=(6, number, protocol.seed)).generate_state(1)
        return replace(protocol, seed=int(drawn[0])).at(self._part())

    def _begin_training(self) -> None:
        """Put the values in place that training starts from, if there is any training."""
        from prunebench.recovery.training.starts import trainer

        problem, network = self._setting.problem, self._network
        assert isinstance(problem, NetworkProblem)
        whole = np.ones(network.total, dtype=np.bool_)
        kept = self.kept()
        self._trainer = trainer(
            problem, network, whole, self._protocol(), put=lambda begin: self._cut.place(network, kept, begin)
        )
        self._end_training()

    def _train(self) -> Move:
        """One epoch."""
        clock = perf_counter()
        assert self._trainer is not None
        epoch, number = self._trainer.epoch(), len(self._trainer.epochs)
        self._end_training()
        details = {
            "kind": "train", "stage": self._round, "epoch": number, "training_loss": epoch.loss,
            "judged": epoch.judged, "rate": epoch.rate, "seconds": perf_counter() - clock,
        }  # fmt: skip
        return Move(True, None, 0, details)

    def _end_training(self) -> None:
        """Leave a training once it is done."""
        assert self._trainer is not None
        if self._trainer.done:
            self._trainer.finish()
            self._trainer = None


def _planned(options: StructuredRoundsOptions, density: float) -> list[float]:
    """The part of the budget that every round keeps.

    Raises
    ------
    InvalidInput   parts that rise
    """
    return schedules.densities(options.schedule, options.start_density, density, options.rounds)
