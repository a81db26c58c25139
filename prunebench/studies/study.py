"""What every study is: options that refuse what cannot be, and one method that gives findings. Loads no torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, ProblemLike, require_data
from prunebench.core.quadratic import QuadraticForm
from prunebench.curvature.fisher import DEFAULT_RIDGE, FisherOptions, network_form
from prunebench.recovery.training.protocol import Protocol, parse
from prunebench.studies.findings import Findings

if TYPE_CHECKING:
    import torch

    from prunebench.comparison.cache import AnswerCache
    from prunebench.networks.network import PrunableNetwork
    from prunebench.runs.executors import Workers

Say = Callable[[str], None]

State = Mapping[str, "torch.Tensor"]
"""A model's state."""

Told = Callable[[str, int, int], None]
"""Takes in words which piece of work is going on, and how many parts of it are done, of how many."""

STREAMS = {"curvature": 0, "masks": 1, "bootstrap": 2, "samples": 3, "noise": 4}
"""What is drawn at random in a study: each has a stream of its own, so that none shifts another."""


@dataclass(frozen=True)
class Setting:
    """What a study works on.

    problem, network : the samples and the loss; the dense network, whose weights a study may move
    workers : where blocks are solved;  cache : of answers
    say : takes lines of progress;  told : takes how far the work is
    """

    problem: NetworkProblem
    network: "PrunableNetwork"
    workers: "Workers"
    cache: "AnswerCache"
    say: Say = lambda _line: None
    told: Told = lambda _words, _done, _total: None


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """A question about masks of a network, as plain values.

    Raises
    ------
    InvalidInput   a value that cannot be, or two that contradict each other; the message names them and the remedy
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """The question, in a line."""
    reference: ClassVar[str] = ""
    """The paper that asked it."""

    protocol: str = ""
    """How masks are trained, as K=V,K=V of a training protocol; epochs are said apart. Empty: the usual."""

    samples: int = 1000
    """Calibration samples of the quadratic model; fewer where there are fewer."""

    ridge: float = DEFAULT_RIDGE
    """Its ridge, relative to the mean of the curvature's diagonal."""

    seed: int = 0
    """Of all that is drawn: samples, masks, orders of training."""

    def __post_init__(self) -> None:
        option_tools.require_kinds(self)
        if self.seed < 0:
            raise InvalidInput(f"study {self.name}: seed is {self.seed}; choose a whole number from 0")
        FisherOptions(samples=self.samples, ridge=self.ridge)
        given = {part.partition("=")[0].strip() for part in self.protocol.split(",")}
        if said := given & {"epochs", "steps", "seed", "per_density"}:
            raise InvalidInput(
                f"study {self.name}: protocol says {', '.join(sorted(said))}, which the study says itself; leave it "
                "out there (options epochs and seed)"
            )
        # only to refuse what cannot be read
        parse(self.protocol)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuse values of the study's own options that cannot be."""

    def require(self, problem: ProblemLike) -> NetworkProblem:
        """Refuse a problem of which the study's question has no meaning, before its network is loaded.

        Raises
        ------
        InvalidInput   with the remedy
        """
        if not isinstance(problem, NetworkProblem):
            raise InvalidInput(
                f"study {self.name} asks what masks of a network are worth, and problem {problem.name!r} has none; "
                "choose a network such as digits-mlp ('prunebench problems' lists them)"
            )
        require_data(problem)
        return problem

    @abstractmethod
    def run(self, setting: Setting) -> Findings:
        """Do the study.

        Raises
        ------
        InvalidInput   the network or its samples do not fit
        """

    def training(self, epochs: int, seed: int) -> Protocol:
        """The protocol of a training of so many epochs with this order of samples."""
        said = f"{self.protocol}," if self.protocol else ""
        return parse(f"{said}epochs={epochs},seed={seed}")

    def rng(self, stream: str) -> np.random.Generator:
        """The generator of one of the STREAMS."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(11, STREAMS[stream])))

    def form(self, setting: Setting, **more: Any) -> QuadraticForm:
        """The quadratic model about the network's present weights; `more` are further options of its curvature."""
        count = min(self.samples, len(setting.problem.calibration()))
        options = FisherOptions(samples=count, ridge=self.ridge, **more)
        return network_form(setting.problem, setting.network, options, self.rng("curvature"))


def require_from(study: Study, least: float, *names: str) -> None:
    """Refuse options, or entries of lists, below a least value, and empty lists."""
    for name in names:
        value = getattr(study, name)
        parts = value if isinstance(value, tuple) else (value,)
        if not parts or any(part < least for part in parts):
            raise InvalidInput(f"study {study.name}: {name} is {value!r}; choose numbers from {least:g}")


def require_density(study: Study, *values: float) -> None:
    """Refuse densities that keep nothing or more than all."""
    for value in values or (float("nan"),):
        if not 0.0 < value <= 1.0:
            raise InvalidInput(
                f"study {study.name}: density is {value}; choose a number above 0 and at most 1 (0.1 keeps a tenth)"
            )


def require_labels(problem: NetworkProblem, network: "PrunableNetwork", study: str) -> int:
    """Refuse a network whose samples have no class each, since accuracy is what a study judges by. -> classes

    Raises
    ------
    InvalidInput   with the remedy
    """
    import torch

    from prunebench.networks.network import evaluation_mode

    inputs, targets = problem.validation().batch(np.arange(1))
    with torch.no_grad(), evaluation_mode(network.model):
        outputs = network.model(inputs)
    labelled = isinstance(targets, torch.Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    if not (labelled and isinstance(outputs, torch.Tensor) and outputs.ndim == 2):
        raise InvalidInput(
            f"study {study} judges by accuracy, and samples of {problem.name!r} have no class each; choose a "
            "classifier such as digits-mlp"
        )
    return int(outputs.shape[1])


@dataclass(frozen=True)
class Request:
    """What was asked for, as run.json holds it.

    study : the study with its options;  problem : its registered name;  problem_options : given
    executor : where blocks are solved, None: here;  cache : whether answers of earlier runs are taken
    """

    study: Study
    problem: str
    problem_options: dict[str, Any] = field(default_factory=dict)
    executor: str | None = None
    cache: bool = True

    def as_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {
            "kind": "study",
            "study": self.study.name,
            "problem": self.problem,
            "problem_options": self.problem_options,
            "options": option_tools.as_json(self.study),
            "executor": self.executor,
            "cache": self.cache,
            "seed": self.study.seed,
        }
