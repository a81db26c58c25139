"""Structured pruning: whole channels, neurons and heads are the variables, and what is left is a smaller network.

The curvature of the loss in one gate a group says how many groups every family keeps within the budget. Then the
layers are refitted one after another, so that the pruned network gives what the dense one gives (Kurtić, Frantar,
Alistarh: ZipLM, NeurIPS 2023; Meng et al.: OSSCAR, ICML 2024). Which groups go is decided layer by layer on the way, by
the error that the refit leaves; with choice "gates", by one block problem over all gates before.
"""

import math
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from prunebench.coordinators.structured.blocks import gate_block
from prunebench.coordinators.structured.calibration import calibration_samples
from prunebench.coordinators.structured.counts import Counts
from prunebench.coordinators.structured.options import StructuredOptions
from prunebench.coordinators.structured.refusals import layers_choose, require
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.coordinator import (
    Coordinator,
    Move,
    Setting,
    Task,
    calibration_seed,
    checked_array,
    checked_number,
    checked_state,
    fewer,
    register,
)
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.keeping import Quota
from prunebench.core.problem import NetworkProblem, Samples, spread
from prunebench.core.recovery import Division, held_out
from prunebench.core.solution import Solution
from prunebench.curvature.group_scores.names import GATES, SCORES
from prunebench.recovery.steps.distil import Distil

LABELS = 7
"""The stream of random numbers that labels are drawn from: no other part of a run has it."""

TRAINING = "training."
"""What the names of a checkpoint's arrays begin with that are of training."""


@register
class Structured(Coordinator):
    """Gates, then counts and choice, then the refit. Its mask is over groups: bool (G,), true where kept.

    `density` is the part of the budget that is kept, never exceeded; how many groups that leaves follows from costs.
    """

    name: ClassVar[str] = "structured"
    summary: ClassVar[str] = (
        "Whole channels, neurons, heads and branches go; counts by gates, groups by what the refit leaves."
    )
    reference: ClassVar[str] = "Kurtić et al.: ZipLM, NeurIPS 2023; Meng et al.: OSSCAR, ICML 2024"
    options_class: ClassVar[type] = StructuredOptions
    flags: ClassVar[Mapping[str, str]] = {
        "multiple": "N", "choice": "HOW", "score": "NAME", "allocation": "HOW", "calibration": "WHAT",
    }  # fmt: skip
    needs_network: ClassVar[bool] = True
    default_mode: ClassVar[Literal["refit"]] = "refit"
    large_blocks: ClassVar[bool] = True
    of_groups: ClassVar[bool] = True

    def __init__(self, setting: Setting, found: Any) -> None:
        self._setting, self._found = setting, found
        self.options: StructuredOptions = setting.options
        self._taus = self.options.taus(setting.mode)
        self._layers = layers_choose(setting)
        self._families = found.families
        self.counting = Counts(setting, found)
        """Decides how many groups stay."""
        self._sizes = [family.size for family in self._families]
        self.mask: BoolArray = np.ones(sum(self._sizes), dtype=np.bool_)
        self.weights: FloatArray = self.mask.astype(np.float64)
        self._samples: Samples | None = None
        self._rows: FloatArray | None = None
        self._counts: list[int] = []
        self._answers: dict[int, BoolArray] = {}
        """By number of a coupling, or of a family where layers choose: what its block keeps."""
        self._asked: set[int] = set()
        self._judged: list[float] = []
        self._best = -1
        self._walk: Generator[Any, BoolArray, Any] | None = None
        self._waiting: Any = None
        self.state: dict[str, Any] | None = None
        """Parameters and buffers of the pruned network at its old shapes, once it is refitted."""
        self.errors: dict[str, float] = {}
        self._told = False
        self._training: Any = None
        """`TrainedStructure`, once training begins;  then whether it is over, and a checkpoint's arrays and epochs."""
        self._trained = not setting.recovery
        self._resumed: tuple[Mapping[str, Any], int] | None = None

    @classmethod
    def usual_solver(cls, options: Mapping[str, Any], mode: str | None) -> str:
        """The solver where none is named.

        group-swap where layers choose; obd, which is exact without couplings; swap for blocks that have them.
        """
        alone = options.get("score", GATES) == GATES and options.get("allocation") != "block"
        choice = options.get("choice", "auto")
        coupled = bool(options.get("couplings")) or (mode == "select" and options.get("score", GATES) == GATES)
        if choice == "layers" or (choice == "auto" and alone and not coupled):
            return "group-swap"
        return "swap" if coupled or options.get("allocation") == "block" else "obd"

    @classmethod
    def require(cls, setting: Setting) -> None:
        """Refuse options that do not fit each other."""
        require(setting)

    @classmethod
    def division(cls, setting: Setting, total: int) -> Division:
        """Held-out samples judge couplings where there are several."""
        return Division.of(total, setting.seed)

    @classmethod
    def fitted(cls, asked: Mapping[str, Any], total: int, fixed: Collection[str]) -> dict[str, int]:
        """Its samples are not those that judge."""
        return fewer(StructuredOptions, "samples", asked, max(1, total - held_out(total)), fixed)

    @classmethod
    def begin(cls, setting: Setting) -> "Structured":
        """Find the groups, check them, and see that the budget can be met.

        Raises
        ------
        InvalidInput   the network's structure cannot be found, nothing can be pruned, or the budget cannot be met
        """
        from prunebench.structure.found import find

        assert isinstance(setting.problem, NetworkProblem)
        samples = setting.problem.calibration()
        return cls.over(setting, find(setting.network.model, samples, setting.options.kinds, setting.say))

    @classmethod
    def over(cls, setting: Setting, found: Any) -> "Structured":
        """Of groups that are found already: `prunebench.structure.found.Found`.

        Raises
        ------
        InvalidInput   the budget cannot be met, or there are too few samples
        """
        options: StructuredOptions = setting.options
        problem = setting.problem
        assert isinstance(problem, NetworkProblem)
        coordinator = cls(setting, found)
        if options.calibration and not (options.draws and found.classifies(problem.calibration())):
            raise InvalidInput(
                f"calibration {options.calibration} has no targets of this problem, and labels are drawn for classes "
                "alone: take draws of 1 or more and a problem of classes, or the problem's own samples"
            )
        pool = cls.division(setting, len(coordinator._calibration())).pool.size
        if options.samples > pool:
            raise InvalidInput(
                f"coordinator structured: samples is {options.samples}, but {pool} of the calibration samples of "
                f"{options.calibration or setting.name} are not held out; take fewer"
            )
        coordinator.counting.limit()
        return coordinator

    @property
    def found(self) -> Any:
        """The network's groups: `prunebench.structure.found.Found`."""
        return self._found

    @property
    def _epochs(self) -> int:
        """Of all training."""
        return sum(step.epochs for step in self._setting.recovery if isinstance(step, Distil))

    @property
    def total_steps(self) -> int | None:
        """What is measured; a block and a refit for every coupling, or what layers choose; then epochs."""
        more = self._epochs + len(self.counting.to_measure()) + len(self.counting.curves)
        return more + (len(self._late()) if self._layers else 2 * len(self._taus))

    def ask(self, count: int = 1) -> list[Task]:
        """The block of gates, once for every coupling; or the next layer's. Gates are gathered before the first."""
        if count < 1 or self._chosen:
            return []
        if self._rows is None:
            self._gather()
        if self.counting.to_measure():
            return []
        if self._layers:
            return self._ask_layer()
        wanted = [k for k in range(len(self._taus)) if k not in self._answers and k not in self._asked][:count]
        self._asked |= set(wanted)
        what = "gates" if self.options.score == GATES else f"score {self.options.score}"
        return [Task(k, f"{what}, coupling {self._taus[k]:g}", self._block(self._taus[k])) for k in wanted]

    def tell(self, task: Task, solution: Solution | None) -> Move | None:
        """Take what a block keeps.

        Raises
        ------
        PrunebenchError   it was not solved: nothing else says which groups go
        """
        self._asked.discard(task.position)
        if solution is None:
            raise PrunebenchError(f"block {task.label} was not solved, and without it no group can be chosen")
        mask = np.asarray(solution.mask, dtype=np.bool_)
        together = self.options.allocation == "block"
        self._answers[task.position] = self._gate_budget().within(mask) if together else mask
        details = {"kind": task.label, "objective": solution.objective}
        return Move(True, None, int((~solution.mask).sum()), details)

    def advance(self) -> Move | None:
        """Refit the network of the next coupling; when it is chosen, train it for an epoch where that is asked for."""
        clock = perf_counter()
        if self.counting.to_measure():
            return self._measure()
        if self._chosen:
            return None if self._trained else self._train()
        if self._layers:
            return None
        k = len(self._judged)
        kept = self._split(self._answers[k])
        state, errors = self._pruned(kept)
        loss = self._held_out_loss(state, kept) if len(self._taus) > 1 else math.nan
        better = self._best < 0 or loss < self._judged[self._best]
        self._judged.append(loss)
        if better:
            self._take(k, self._answers[k], state, errors)
        details = {"kind": "refit" if self._setting.mode == "refit" else "masked", "coupling": self._taus[k]}
        if len(self._taus) > 1:
            details["true_after"] = loss
        details["seconds"] = perf_counter() - clock
        return Move(better, None, int((~self._answers[k]).sum()), details)

    @property
    def complete(self) -> bool:
        """Whether every coupling's network, or every layer, is done, and trained."""
        return self._chosen and self._trained

    @property
    def _chosen(self) -> bool:
        if self._layers:
            return self.state is not None
        return len(self._judged) == len(self._taus)

    def check(self) -> None:
        """Raise PrunebenchError if the budget is exceeded; of time, what was measured is told instead."""
        from prunebench.structure.budget import ROUNDING

        if self.options.budget == "latency":
            return

        cost = self._found.cost(self.options.budget)
        counts = [int(part.sum()) for part in self._split(self.mask)]
        if self.complete and cost.total(counts) > self.counting.limit() * (1.0 + ROUNDING):
            raise PrunebenchError("the budget is exceeded; please report this")

    def kept(self) -> list[BoolArray]:
        """What is kept of every family, in order."""
        return self._split(self.mask)

    def state_dict(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The gates' rows, and what was chosen; refits are made again."""
        arrays: dict[str, npt.NDArray[Any]] = {"mask": self.mask, "weights": self.weights}
        if self._rows is not None:
            arrays["rows"] = self._rows
        for k, mask in self._answers.items():
            arrays[f"answer{k}"] = mask
        for k, rises in self.counting.curves.items():
            arrays[f"curve{k}"] = rises
        epochs = 0
        if self._training is not None:
            held, epochs = self._training.state()
            arrays |= {f"{TRAINING}{name}": array for name, array in held.items()}
        rows = 0 if self._rows is None else len(self._rows)
        return arrays, {"answers": sorted(self._answers), "rows": rows, "epochs": epochs}

    def load_state_dict(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Continue with the gates and the choices that there are; what they led to is found again."""
        mask, _ = checked_state(arrays, self.mask.size)
        if count := checked_number(info, "rows"):
            rows = checked_array(arrays, "rows", (count, self.mask.size), "f")
            if not np.isfinite(rows).all():
                raise InvalidInput("rows holds NaN or infinity")
            self._rows = rows.astype(np.float64)
            for k in self.counting.to_measure():
                if f"curve{k}" in arrays:
                    self.counting.curves[k] = checked_array(arrays, f"curve{k}", (len(self.counting.levels(k)),), "f")
            self._allocate()
        together = self.options.allocation == "block"
        if not together and not mask.all() and [int(part.sum()) for part in self._split(mask)] != self._counts:
            raise InvalidInput(f"mask keeps {int(mask.sum())} groups, which is not what the budget leaves")
        most = max(len(self._families), len(self._taus)) - 1
        for k in info["answers"]:
            number = checked_number({"answer": k}, "answer", most=most)
            size = self._sizes[number] if self._layers else self.mask.size
            self._answers[number] = checked_array(arrays, f"answer{number}", (size,), "b")
        if epochs := checked_number(info, "epochs", most=self._epochs):
            held = {name.removeprefix(TRAINING): array for name, array in arrays.items() if name.startswith(TRAINING)}
            self._resumed = held, epochs

    def gates_block(self, coupling: float = 1.0) -> BlockProblem:
        """All gates as one block, counts within the budget as its quota; gates are gathered first if they are not.

        coupling : the part of the gates' mutual curvature that counts, 0 to 1
        """
        if self._rows is None:
            self._gather()
        return self._block(coupling)

    # ------------------------------------------------------------ steps

    def _calibration(self) -> Samples:
        if self._samples is None:
            self._samples = calibration_samples(self._setting, self.options.calibration)
        return self._samples

    def _positions(self) -> IndexArray:
        """The samples of gates and refit."""
        samples = self._calibration()
        rng = np.random.default_rng(calibration_seed(self._setting.seed))
        pool = self.division(self._setting, len(samples)).pool
        count = self.options.samples
        if tokens := self._found.tokens:
            count = max(1, min(count, self.options.tokens // tokens))
        return np.sort(pool[spread(pool.size, count, rng)])

    def _gather(self) -> None:
        from prunebench.curvature.gates import as_measured
        from prunebench.curvature.group_scores.of_samples import rows
        from prunebench.curvature.group_scores.table import scored

        options = self.options
        evidence, words = self._evidence()
        count = evidence.positions.size
        if options.score == GATES:
            found = rows(evidence)
            self._rows = as_measured(found / math.sqrt(len(found)), evidence.rises())
        else:
            # of another score only the diagonal is asked for, and one row gives it
            self._rows = np.sqrt(2.0 * scored(options.score, evidence))[None, :]
        self._setting.say(self._scored_words(count, words))
        if count < options.samples:
            self._setting.say(
                f"samples lowered to {count:,}: of {self._found.tokens:,} tokens each, and option tokens is "
                f"{options.tokens:,}"
            )
        self._allocate()

    def _scored_words(self, count: int, labels: str) -> str:
        """What groups are scored by, from how many samples, for the user."""
        score = SCORES[self.options.score]
        noted = f" of {self.options.calibration}" if self.options.calibration else ""
        seen = {"weights": "", "samples": f"; {count} samples{noted}", "labels": f"; {count} samples{noted}, {labels}"}
        if self.options.score == GATES:
            return f"gates of {self.mask.size} groups from {count} samples{noted}, {labels}"
        source = f" ({score.source})" if score.source else ""
        return f"score {self.options.score} of {self.mask.size} groups: {score.summary}{source}{seen[score.needs]}"

    def _evidence(self) -> tuple[Any, str]:
        """What scores look at, and which labels, in words."""
        from prunebench.curvature.drawn_labels import DrawnLabels, EveryLabel
        from prunebench.curvature.group_scores.evidence import Evidence

        problem, options = self._setting.problem, self.options
        assert isinstance(problem, NetworkProblem)
        samples, seed = self._calibration(), self._setting.seed
        draws = options.draws if self._found.classifies(problem.calibration()) else 0
        drawn = [
            DrawnLabels(
                samples,
                self._setting.network,
                np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(LABELS, k))),
                options.temperature,
            )
            for k in range(draws)
        ]

        every = EveryLabel(options.temperature) if draws < 0 else None

        def labels(outputs: Any, targets: Any, chosen: IndexArray) -> list[Any]:
            if every is not None:
                return every.labels(outputs)
            if not drawn:
                return [targets]
            return [draw.labels(outputs.detach(), chosen).to(outputs.device) for draw in drawn]

        softened = every or (drawn[0] if drawn else None)
        evidence = Evidence(
            coupling=self._found.coupling,
            families=self._families,
            samples=samples,
            positions=self._positions(),
            labels=labels,
            loss=softened.loss(problem.loss) if softened is not None else problem.loss,
            shares=None if every is None else every.shares,
            seed=seed,
        )
        words = "every label as it is predicted" if every is not None else f"{draws} drawn labels each"
        return evidence, words if draws else "their own targets"

    def _allocate(self) -> None:
        """Decide the counts, unless something is still to be measured for them."""
        if not self.counting.to_measure():
            self._counts = self.counting.of(self._scores())

    def _scores(self) -> list[FloatArray]:
        """What the loss rises by if a group goes, by family."""
        assert self._rows is not None
        return self._split(0.5 * (self._rows**2).sum(axis=0))

    def _measure(self) -> Move:
        samples = self._calibration()
        held = self.division(self._setting, len(samples)).held
        move = self.counting.measure(self._by_score, samples, self._positions(), held)
        self._allocate()
        return move

    def _gate_budget(self) -> Any:
        return self.counting.gate_budget(self._scores(), self._counts)

    def _block(self, tau: float) -> BlockProblem:
        """All gates as one block: couplings scaled by τ, the diagonal as it is."""
        assert self._rows is not None
        diagonal = (self._rows**2).sum(axis=0)
        if self.options.allocation == "block":
            gates = self._gate_budget()
            free = gates.free
            if free.size == 0:
                raise InvalidInput("every family has one group, which stays: allocation block leaves nothing to choose")
            row = gates.row(self._counts)
            block = gate_block(
                self._rows[:, free], diagonal[free], tau, free.size, None, (), f"{self._setting.name}/gates"
            )
            layer = np.repeat([family.name for family in self._families], self._sizes)[free]
            return replace(block.with_budget(row), layer=layer, indices=free)
        quota = Quota(np.repeat(np.arange(len(self._sizes)), self._sizes), np.array(self._counts, dtype=np.int64))
        return gate_block(
            self._rows,
            diagonal,
            tau,
            sum(self._counts),
            quota,
            self._families,
            f"{self._setting.name}/{self.options.score}",
        )

    def _pruned(self, kept: Sequence[BoolArray]) -> tuple[dict[str, Any], dict[str, float]]:
        """The network without what is not kept, refitted in mode refit."""
        from prunebench.structure.resize import Living, masked_state, state_of

        if self._setting.mode == "select":
            living = Living(self._found.coupling, self._families, kept)
            return masked_state(self._found.coupling, state_of(self._found.coupling), living), {}
        walk = self._reconstruction(kept, frozenset())
        state = walk.run()
        self._tell_thin(walk)
        return state, walk.errors

    def _reconstruction(self, kept: Sequence[BoolArray], late: frozenset[int]) -> Any:
        from prunebench.recovery.reconstruction import Reconstruction

        inputs = self._found.inputs(self._calibration(), self._positions())
        return Reconstruction(
            self._found.coupling,
            self._families,
            kept,
            inputs,
            ridge=self.options.ridge,
            seed=self._setting.seed,
            targets=self.options.targets,
            chosen_late=late,
        )

    def _late(self) -> frozenset[int]:
        from prunebench.recovery.reconstruction import single_followers

        found = single_followers(self._found.coupling, self._families)
        # what is inside of a branch that goes has nothing to choose
        return frozenset(k for k in found if not self._counts or self._counts[k] > 0)

    def _ask_layer(self) -> list[Task]:
        if self._asked:
            return []
        if self._walk is None:
            self._reconstructed = self._reconstruction(self._by_score(), self._late())
            self._walk = self._reconstructed.steps()
            self._next(None)
        while self._waiting is not None and self._waiting.family in self._answers:
            self._next(self._answers[self._waiting.family])
        if self._waiting is None:
            return []
        held = self._waiting
        self._asked.add(held.family)
        form = GroupForm(
            gram=held.gram,
            cross=held.cross,
            group=held.group,
            ridge=self.options.ridge * float(np.mean(np.diag(held.gram))),
            constant=held.constant,
        )
        block = GroupBlock(form=form, keep=self._counts[held.family], problem=f"{self._setting.name}/{held.name}")
        return [Task(held.family, held.name, block)]  # type: ignore[arg-type]

    def _next(self, kept: BoolArray | None) -> None:
        """Go on to the next layer that chooses; at the end, take the network."""
        assert self._walk is not None
        try:
            self._waiting = next(self._walk) if kept is None else self._walk.send(kept)
        except StopIteration as done:
            self._waiting = None
            self._tell_thin(self._reconstructed)
            mask = np.concatenate(self._reconstructed.masks)
            self._take(0, mask, done.value, self._reconstructed.errors)

    def _tell_thin(self, walk: Any) -> None:
        """Say once which layers were refitted from few rows."""
        if walk.thin and not self._told:
            self._told = True
            self._setting.say(
                f"refitted from fewer than 10 rows of data for each input: {len(walk.thin)} layers, {walk.thin[0]} "
                "among them; more samples or a larger ridge make that safer"
            )

    def _by_score(self, counts: Sequence[int] | None = None) -> list[BoolArray]:
        """What gates would keep of every family, with the counts of the budget or others."""
        assert self._rows is not None
        out = []
        for scores, count in zip(
            self._split((self._rows**2).sum(axis=0)), self._counts if counts is None else counts, strict=True
        ):
            mask = np.zeros(scores.size, dtype=np.bool_)
            mask[np.argsort(-scores, kind="stable")[:count]] = True
            out.append(mask)
        return out

    def _take(self, k: int, mask: BoolArray, state: dict[str, Any], errors: dict[str, float]) -> None:
        self._best, self.state, self.errors = k, state, errors
        self.mask, self.weights = mask, mask.astype(np.float64)

    def _train(self) -> Move:
        """An epoch of training; after the last, the network is taken if it came nearer to the dense one."""
        from prunebench.recovery.trained_structure import TrainedStructure

        clock = perf_counter()
        if self._training is None:
            (step,) = self._setting.recovery
            assert isinstance(step, Distil)
            assert self.state is not None
            samples = self._calibration()
            self._training = TrainedStructure(
                self._found, self.kept(), self.state, step,
                samples=samples, division=self.division(self._setting, len(samples)), seed=self._setting.seed,
            )  # fmt: skip
            if self._resumed is not None:
                self._training.load(*self._resumed)
        details: dict[str, Any] = {} if self._training.done else self._training.epoch()
        better = True
        if self._training.done:
            self._trained = True
            before, after = self._training.judged()
            details |= {"true_before": before, "true_after": after}
            if better := after < before:
                self.state = self._training.trained()
        return Move(better, None, int((~self.mask).sum()), {**details, "seconds": perf_counter() - clock})

    def _held_out_loss(self, state: Mapping[str, Any], kept: Sequence[BoolArray]) -> float:
        problem = self._setting.problem
        assert isinstance(problem, NetworkProblem)
        held = self.division(self._setting, len(self._calibration())).held
        return float(self._found.loss(state, self._calibration(), held, problem.loss, kept))

    def _split(self, values: Any) -> list[Any]:
        return np.split(values, np.cumsum(self._sizes)[:-1])
