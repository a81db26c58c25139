"""Controls of groups that were kept: other values, other groups, another network, trained by the same protocol.

To move whole groups to other places of their layer would give the same network, so `shuffle` moves single weights.
"""

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.problem import NetworkProblem
from prunebench.curvature.group_scores.evidence import Evidence
from prunebench.curvature.group_scores.table import scored
from prunebench.networks.network import PrunableNetwork
from prunebench.recovery.training import controls
from prunebench.recovery.training.controls import Control
from prunebench.recovery.training.cut import Cut, Kept, Remaining
from prunebench.recovery.training.protocol import Protocol

LARGEST = "l2"
"""The score of groups by which one-shot keeps the largest dense weights."""


def made(
    name: str, problem: NetworkProblem, network: PrunableNetwork, left: Remaining, protocol: Protocol, seed: int
) -> Control:
    """A control of a smaller network, its values in place.

    A protocol that starts from the pruned values starts from the dense ones where a control keeps other groups, since
    those have no pruned values.

    Parameters
    ----------
    name : of `prunebench.core.controls.GROUPS`
    network : the smaller network with its pruned values, which are overwritten
    left : what was kept;  protocol : by which it is trained, at the dense network's length
    seed : of what is drawn
    """
    whole, rng = np.ones(network.total, dtype=np.bool_), controls.drawing(name, seed)
    length = protocol.at(left.part)
    if name in ("reinit", "small-dense"):
        return controls.made(name, problem, network, whole, length, seed)
    if name == "shuffle":
        left.cut.place(network, left.kept, length.begin)
        controls.shuffle(network, rng)
        return Control(network, whole, length)
    worth = rng.random(sum(part.size for part in left.kept)) if name == "random" else _sizes(problem, left.cut)
    chosen, there = _largest(worth, left.kept), controls.of_all(length)
    other = left.cut.network(chosen)
    left.cut.place(other, chosen, there.begin)
    return Control(other, np.ones(other.total, dtype=np.bool_), there)


def _sizes(problem: NetworkProblem, cut: Cut) -> np.ndarray:
    """How large the dense weights of every group are. float64 (groups,)"""
    samples = problem.calibration()
    return scored(LARGEST, Evidence(
        coupling=cut.found.coupling, families=cut.found.families, samples=samples,
        positions=np.zeros(1, dtype=np.int64), loss=problem.loss,
    ))  # fmt: skip


def _largest(worth: np.ndarray, kept: Kept) -> list[BoolArray]:
    """The groups of the largest worth, as many of every family as are kept."""
    out = []
    for values, part in zip(np.split(worth, np.cumsum([held.size for held in kept])[:-1]), kept, strict=True):
        mask = np.zeros(part.size, dtype=np.bool_)
        mask[np.argsort(-values, kind="stable")[: int(part.sum())]] = True
        out.append(mask)
    return out
