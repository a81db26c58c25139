"""The best of many masks by ever longer training of ever fewer of them.

Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.recovery.training.protocol import Protocol

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

SHORTEST = 0.2
"""The part of the last training that the first is at least: the study oracle finds shorter ones a poor guide to the
order of good masks (docs/studies.md)."""


@dataclass(frozen=True)
class Rung:
    """Masks that were trained equally long, and what that made of them.

    epochs : of training, 0: none;  positions : the masks, int64 (m,);  losses : mean loss on calibration samples after
    it, float64 (m,)
    """

    epochs: int
    positions: IndexArray
    losses: FloatArray


@dataclass(frozen=True)
class Halving:
    """How masks were ranked.

    order : all masks, best first: those that came further before those that did not, and by loss among equals.
    int64 (M,);  rungs : from the shortest training to the longest
    """

    order: IndexArray
    rungs: tuple[Rung, ...]


def rungs_of(count: int, epochs: int, shrink: float) -> list[tuple[int, int]]:
    """How many masks are trained for how many epochs, the last as long as asked for.

    The first rung trains nothing; then masks become `shrink` times fewer and epochs as many times more, so that every
    rung costs about the same: 100 masks, 20 epochs, shrink 4 give (100, 0), (25, 5), (7, 20).
    """
    lengths = [epochs]
    while round(lengths[0] / shrink) >= max(1.0, SHORTEST * epochs) and round(lengths[0] / shrink) < lengths[0]:
        lengths.insert(0, round(lengths[0] / shrink))
    return [(count, 0), *((max(1, -int(-count // shrink**step)), long) for step, long in enumerate(lengths, 1))]


def successive_halving(
    problem: NetworkProblem,
    network: "PrunableNetwork",
    masks: BoolArray,
    protocol: Protocol,
    *,
    weights: FloatArray | None = None,
    shrink: float = 4.0,
) -> Halving:
    """Rank masks by what training makes of them, at a fraction of the cost of training all.

    Judged is by calibration samples: validation samples are for the report alone. Every rung trains from the masked
    values again, with a schedule of its own length.

    Parameters
    ----------
    problem, network : the samples and the loss; the dense network, which is left as it is
    masks : bool (M, p);  protocol : of the last rung, in epochs
    weights : values of every mask to start from, float (M, p); None: the network's
    shrink : by what the number of masks is divided from rung to rung

    Raises
    ------
    InvalidInput   no mask, a protocol or a problem that does not fit (`require_ranking`), or a shrink of 1 or less
    """
    from prunebench.recovery.training.many import judge, looked_at, trained

    if masks.ndim != 2 or not masks.shape[0]:
        raise InvalidInput(f"masks are {masks.shape}; give bool (masks, {network.total})")
    require_ranking(problem, protocol)
    if not shrink > 1.0:
        raise InvalidInput(f"shrink is {shrink!r}; choose a number above 1, such as 4")
    calibration = problem.calibration()
    looked = looked_at(calibration)
    left, done = np.arange(masks.shape[0]), []
    for count, epochs in rungs_of(masks.shape[0], protocol.epochs, shrink):
        left = left[:count]
        own = None if weights is None else weights[left]
        losses = np.empty(left.size)
        for copies in trained(problem, network, masks[left], replace(protocol, epochs=epochs), weights=own):
            losses[copies.positions] = judge(copies.outputs, problem, calibration, looked).loss
        done.append(Rung(epochs, left, losses))
        left = left[np.argsort(losses, kind="stable")]
    order = np.concatenate([left, *(_left_behind(done, step) for step in range(len(done) - 1, 0, -1))])
    return Halving(order.astype(np.int64), tuple(done))


def require_ranking(problem: NetworkProblem, protocol: Protocol) -> None:
    """Refuse what successive halving cannot rank, before any work.

    Raises
    ------
    InvalidInput   a protocol in steps or without epochs, or samples that have no class each
    """
    if protocol.steps is not None or protocol.nothing or protocol.per_density:
        raise InvalidInput("halving lengthens training from rung to rung; give the protocol epochs, and no steps")
    targets = problem.calibration().batch(np.zeros(1, dtype=np.int64))[1]
    if getattr(targets, "ndim", 0) != 1 or targets.is_floating_point():
        raise InvalidInput(
            f"halving judges by the loss of classes, and samples of {problem.name!r} have no class each; train all "
            "masks instead"
        )


def _left_behind(rungs: list[Rung], step: int) -> IndexArray:
    """The masks of the rung before that did not come to this one, best first."""
    before = rungs[step - 1]
    ranked = before.positions[np.argsort(before.losses, kind="stable")]
    return np.asarray(ranked[rungs[step].positions.size :])
