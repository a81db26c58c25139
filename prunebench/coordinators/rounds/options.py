"""How rounds of pruning and training alternate: one table of plain values, of which papers are presets (recipes)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.coordinators import schedules
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.curvature.fisher import FisherOptions
from prunebench.recovery.training.protocol import Protocol, parse


@dataclass(frozen=True, kw_only=True)
class RoundsOptions:
    """How pruning and training alternate.

    Raises
    ------
    InvalidInput   a count, part, name or protocol is invalid; the message names it
    """

    train: str = "epochs=1"
    """What is trained after every round but the last: a protocol, K=V,K=V as of 'prunebench retrain'. Its `start` says
    what the kept weights are set back to: pruned (not at all), init, step:K, dense, fresh:SEED."""

    train_end: str | None = None
    """The same after the last round; none: as after the others."""

    amount: Literal["schedule", "share", "pq"] = "schedule"
    """How much a round prunes: to the densities of a schedule; a share of what is kept; or what the PQ index of the
    kept weights says."""

    schedule: str = "polynomial"
    """amount=schedule: how the density falls: polynomial, exponential, geometric, linear or constant."""

    start_density: float = 0.5
    """amount=schedule: density of the first round."""

    rounds: int = 7
    """amount=schedule: how often the network is pruned."""

    share: float = 0.2
    """amount=share: the part of the kept weights that a round prunes, the last one as much as is left to prune."""

    pq: tuple[float, ...] = (1.0, 2.0)
    """amount=pq: p and q of the index, 0 < p < q, p at most 1."""

    pq_scale: float = 1.0
    """amount=pq: the γ by which the part that the index allows to be pruned is multiplied."""

    pq_most: float = 0.9
    """amount=pq: the β of the kept weights that a round prunes at most."""

    counts: Literal["network", "layer", "erk"] = "network"
    """What is kept where: as the solver finds best in the whole network; the same part of every layer; or parts by
    Erdős–Rényi's rule, in which wide layers keep less."""

    last_layer: float = 1.0
    """counts=layer: the last layer is pruned at this part of the others' rate: its density is theirs to this power."""

    least: float = 0.0
    """Every layer keeps at least this part of all the network's weights; smaller layers stay dense."""

    back: bool = True
    """Whether weights that an earlier round pruned may be kept again, where the solver finds them worth it."""

    regrow: float = 0.0
    """The part of every layer's kept weights that is dropped after a round, smallest first, for others that grow from
    zero; it falls along a cosine over the rounds."""

    regrow_by: Literal["gradient", "quadratic", "random"] = "gradient"
    """What grows: the largest gradients of the loss; the largest falls of its quadratic model, g²/(2h),
    with the mean of all h added to h; or any."""

    scores: Literal["solver", "learned"] = "solver"
    """Who says what a round keeps: the solver, of a quadratic form; or scores that are learned by gradients together
    with the weights, the largest of which are kept. No solver is asked then; in mode select the weights that were
    learned are dropped, and only the mask is taken."""

    score_steps: int = 400
    """scores=learned: steps of a round, a batch of 128 samples each."""

    score_rate: float = 0.001
    """scores=learned: by how much a step moves scores, which are 0 to 1, in root mean square."""

    weight_rate: float = 0.05
    """scores=learned: the learning rate of the weights meanwhile."""

    score_ridge: float = 0.001
    """scores=learned: γ, the ridge of the weights, by which the effect of a mask on its best weights is divided."""

    polarise: float = 0.0
    """scores=learned: factor of the penalty Σ s(1 − s), which drives scores to 0 or 1."""

    samples: int = 1000
    """Calibration samples whose gradients make the quadratic form of a round, and choose what grows."""

    batch_size: int = 1
    """Samples whose mean gradient makes a row of it."""

    ridge: float = 0.01
    """Ridge of the form, relative to the mean of the curvature's diagonal."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InvalidInput(f"coordinator rounds: rounds is {self.rounds!r}; choose a whole number from 1")
        if self.schedule not in schedules.SCHEDULES:
            raise unknown_name("schedule", self.schedule, schedules.SCHEDULES)
        for name, least, most in (("share", 0.0, 1.0), ("pq_most", 0.0, 1.0), ("last_layer", 0.0, math.inf),
                                  ("pq_scale", 0.0, math.inf), ("score_rate", 0.0, math.inf),
                                  ("weight_rate", 0.0, math.inf), ("score_ridge", 0.0, math.inf)):  # fmt: skip
            value = getattr(self, name)
            if not (np.isfinite(value) and least < value <= most) or (name == "share" and value == most):
                raise InvalidInput(f"coordinator rounds: {name} is {value!r}; choose a number above {least:g}"
                                   + (f" and below {most:g}" if np.isfinite(most) else ""))  # fmt: skip
        if self.score_steps < 1:
            raise InvalidInput(f"coordinator rounds: score_steps is {self.score_steps!r}; choose a number from 1")
        if not (np.isfinite(self.polarise) and self.polarise >= 0.0):
            raise InvalidInput(f"coordinator rounds: polarise is {self.polarise!r}; choose a number from 0")
        if self.polarise and self.scores != "learned":
            raise InvalidInput("coordinator rounds: polarise is of scores=learned; choose that, or leave it out")
        for name in ("least", "regrow"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InvalidInput(
                    f"coordinator rounds: {name} is {getattr(self, name)!r}; choose a number from 0 to below 1"
                )
        if len(self.pq) != 2 or not 0.0 < self.pq[0] < self.pq[1] or self.pq[0] > 1.0:
            raise InvalidInput(f"coordinator rounds: pq is {self.pq!r}; choose 0 < p < q with p at most 1, such as 1,2")
        if self.last_layer != 1.0 and self.counts != "layer":
            raise InvalidInput("coordinator rounds: last_layer is of counts=layer; choose that, or leave it out")
        _ = self.protocols, self.fisher

    @property
    def protocols(self) -> tuple[Protocol, Protocol]:
        """What is trained after every round but the last, and after the last.

        Raises
        ------
        InvalidInput   a text that says none
        """
        return parse(self.train), parse(self.train if self.train_end is None else self.train_end)

    @property
    def fisher(self) -> FisherOptions:
        """The options of the quadratic form."""
        return FisherOptions(samples=self.samples, batch_size=self.batch_size, ridge=self.ridge)
