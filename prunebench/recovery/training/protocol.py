"""What a training does, as one object of plain values: the same protocol for every row of a table. Loads no torch.

Its fields are those in which papers on pruning differ: fine-tuning (Han et al. 2015), rewinding (Frankle, Carbin:
The Lottery Ticket Hypothesis, 2019; Frankle et al.: Linear Mode Connectivity, 2020), learning-rate rewinding (Renda,
Frankle, Carbin: Comparing Rewinding and Fine-tuning, 2020), training from scratch (Liu et al.: Rethinking the Value of
Network Pruning, 2019), distillation (Hinton, Vinyals, Dean 2015), and a penalty on what will go (Jiang et al.:
MaskSparsity, 2022).
"""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import numpy as np

from prunebench.core import options as option_tools
from prunebench.core.errors import InvalidInput
from prunebench.core.recovery import pairs_of
from prunebench.core.subset import SampleSubset, load_subset

Optimizer = Literal["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"]
"""Classes of torch.optim."""

Schedule = Literal["cosine", "constant", "steps", "one-cycle", "rewound"]
"""How the learning rate changes over a training: `Protocol.schedule`."""

START = re.compile(r"(pruned|dense|init)|step:(\d+)|fresh:(\d+)")
"""What a training can start from: `Protocol.start`."""


@dataclass(frozen=True)
class Begin:
    """The values that a training starts from.

    kind : pruned, dense, step (of the dense training; 0 is its initialisation) or fresh (a new initialisation)
    number : the step, or the seed of the new initialisation; 0 for the others
    """

    kind: Literal["pruned", "dense", "step", "fresh"]
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the kept weights of a network, and all its other parameters, are trained.

    Weights off the mask stay zero, and so does what the optimizer remembers of them. Everything random comes from
    `seed`. The validation samples are never looked at.

    Raises
    ------
    InvalidInput   a value that cannot be, or two that contradict each other; the message names them
    """

    name: ClassVar[str] = "training protocol"

    epochs: int = 3
    """How often the samples are gone through."""

    steps: int | None = None
    """Steps of the optimizer in place of epochs; none: `epochs`."""

    optimizer: Optimizer = "Adam"
    """A class of torch.optim."""

    learning_rate: float = 0.005
    """Its learning rate, at its highest."""

    momentum: float | None = None
    """SGD's and RMSprop's momentum; none: .9 for SGD, the optimizer's own for others."""

    weight_decay: float = 0.0
    """Its weight decay."""

    batch_size: int = 128
    """Samples of a step."""

    schedule: Schedule = "cosine"
    """cosine: falls to 0; constant; steps: a tenth after half, a hundredth after three quarters; one-cycle: rises over
    the first third, then falls to 0 along a cosine; rewound: the last part of the schedule of the dense training."""

    start: str = "pruned"
    """The values it begins with: pruned, dense, init or step:K of the dense training, or fresh:SEED."""

    batch_norm: Literal["train", "frozen", "re-estimate"] = "train"
    """Statistics of batch norms: train: averaged as in training; frozen: as they are; re-estimate: frozen, and averaged
    anew over the samples at the end."""

    distil: float = 0.0
    """The part of the loss, 0 to 1, that is the divergence from the dense network's predictions."""

    temperature: float = 4.0
    """By what scores are divided before their distributions are compared in distillation."""

    penalty: float = 0.0
    """Pull |w| on the weights off the mask, which then start at their values, in the first half of the steps; they are
    zero from there on. Only with another start than pruned."""

    augment: Literal["none", "shift", "mirror"] = "none"
    """What is done to images: shift, by up to a sixteenth of their size; mirror: shift, and every second mirrored."""

    per_density: bool = False
    """Divide epochs or steps by the density, so that as many multiplications are made as for the dense network."""

    samples: int | None = None
    """Calibration samples to train on, drawn once; none: all that do not judge."""

    subset: str = ""
    """A file of 'prunebench samples': train on its calibration samples alone, each counting as the file says."""

    subset_hash: str = ""
    """Hash of the subset's samples and weights, 16 hexadecimal digits: a run notes it where it begins, and from there
    on a file of the same name with others is refused."""

    held_out: int = 0
    """Calibration samples that judge after every epoch; the best epoch's values are then returned."""

    patience: int = 0
    """With held_out: epochs without a better loss after which training ends; 0: never before its time."""

    seed: int = 0
    """Of the order of the samples, of what is drawn of them, and of what the network draws, such as dropout."""

    def __post_init__(self) -> None:
        option_tools.require_kinds(self)
        for name, least in (("epochs", 0), ("steps", 0), ("batch_size", 1), ("samples", 1), ("held_out", 0),
                            ("patience", 0), ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidInput(f"{self.name}: {name} is {value!r}; choose a whole number from {least}")
        for name in ("learning_rate", "temperature"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise InvalidInput(f"{self.name}: {name} is {getattr(self, name)!r}; choose a positive number")
        for name in ("weight_decay", "penalty"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise InvalidInput(f"{self.name}: {name} is {getattr(self, name)!r}; choose a number from 0")
        if not 0.0 <= self.distil <= 1.0:
            raise InvalidInput(f"{self.name}: distil is {self.distil!r}; choose a number from 0 to 1")
        self._require_agreement()

    def _require_agreement(self) -> None:
        begin = self.begin
        if self.momentum is not None and self.optimizer not in ("SGD", "RMSprop"):
            raise InvalidInput(f"{self.name}: {self.optimizer} has no option momentum; leave it out, or choose SGD")
        if self.penalty and begin.kind == "pruned":
            raise InvalidInput(
                f"{self.name}: penalty pulls at pruned weights, and start=pruned leaves none; choose start=dense"
            )
        if self.patience and not self.held_out:
            raise InvalidInput(f"{self.name}: patience needs samples that judge; give held_out")
        if self.subset_hash and not self.subset:
            raise InvalidInput(f"{self.name}: subset_hash says which samples a subset has; give subset too")
        if (self.distil or self.penalty) and self.nothing:
            raise InvalidInput(f"{self.name}: no step is taken, so distil and penalty do nothing; give epochs or steps")

    @property
    def begin(self) -> Begin:
        """The values it begins with.

        Raises
        ------
        InvalidInput   `start` is none of its texts
        """
        found = START.fullmatch(self.start)
        if found is None:
            raise InvalidInput(
                f"{self.name}: start is {self.start!r}; choose pruned, dense, init, step:K or fresh:SEED"
            )
        if found[2] is not None or found[1] == "init":
            return Begin("step", int(found[2] or 0))
        if found[3] is not None:
            return Begin("fresh", int(found[3]))
        return Begin("dense" if found[1] == "dense" else "pruned")

    def at(self, density: float) -> "Protocol":
        """The protocol of a network that keeps this part of its weights: its length where that depends on it."""
        if not self.per_density:
            return self
        steps = None if self.steps is None else math.ceil(self.steps / density)
        return replace(self, epochs=math.ceil(self.epochs / density), steps=steps, per_density=False)

    @property
    def nothing(self) -> bool:
        """Whether no step is taken: the values that it starts from are only masked."""
        return (self.epochs if self.steps is None else self.steps) == 0


def chosen_samples(protocol: Protocol) -> SampleSubset | None:
    """The samples of the protocol's subset; None where it has none.

    Raises
    ------
    InvalidInput   no file of samples, or other samples than the protocol knows
    """
    if not protocol.subset:
        return None
    subset = load_subset(protocol.subset)
    if protocol.subset_hash not in ("", subset.hash):
        raise InvalidInput(
            f"{protocol.subset} has other samples than when this training was asked for ({subset.hash}, not "
            f"{protocol.subset_hash}); put the first file back, or begin a new run"
        )
    return subset


def with_known_samples(protocol: Protocol) -> Protocol:
    """The protocol with its subset's hash, by which a training is known again whatever its file holds by then.

    Raises
    ------
    InvalidInput   as `chosen_samples`
    """
    subset = chosen_samples(protocol)
    return protocol if subset is None else replace(protocol, subset_hash=subset.hash)


def parse(text: str) -> Protocol:
    """A protocol from a text like "epochs=2,distil=0.9"; "" is the usual one.

    Raises
    ------
    UnknownName    no option of that name
    InvalidInput   a text without K=V, or a value that does not fit
    """
    made: Protocol = option_tools.build(Protocol, pairs_of(text, f"{Protocol.name} {text!r}"))
    return made


def as_text(protocol: Protocol) -> str:
    """The text from which `parse` makes this protocol: what differs from the usual one."""
    usual = Protocol()
    pairs = [
        f"{item.name}={'none' if (value := getattr(protocol, item.name)) is None else value}"
        for item in fields(protocol)
        if getattr(protocol, item.name) != getattr(usual, item.name)
    ]
    return ",".join(pairs)
