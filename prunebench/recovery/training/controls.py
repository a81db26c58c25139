"""Controls of a trained mask: other values, other masks, another network, trained by the same protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, IndexArray
from prunebench.core.controls import CONTROLS, require_controls
from prunebench.core.errors import InvalidInput
from prunebench.core.keeping import Quota
from prunebench.core.masks import keep_count
from prunebench.core.problem import NetworkProblem
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.training import Trajectory
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.starts import place, require_initialisable, trajectory_of
from prunebench.recovery.training.trainer import Trainer

HALVINGS = 20
"""Halvings of an interval of parts of widths: a millionth of the widest layer, less than a unit."""


@dataclass(frozen=True)
class Control:
    """A network with its mask and values in place, and the protocol by which it is trained."""

    network: PrunableNetwork
    mask: BoolArray
    protocol: Protocol


def require_known(problem: NetworkProblem, protocol: Protocol, names: Sequence[str], density: float | None) -> None:
    """Refuse controls that cannot be made for a problem, before any work.

    density : the part of the prunable weights that is kept; None where whole groups are, one of every family at least

    Raises
    ------
    InvalidInput   with the remedy
    """
    require_controls(names)
    if "small-dense" in names:
        known = trajectory_of(problem)
        if known is None or known.narrower is None:
            raise InvalidInput(
                f"control small-dense needs a narrower network of the kind of {problem.name}, which is known of "
                "networks trained here (digits-mlp, and mlpnet-mnist and garment-fashion-mnist with --option "
                "weights=train); leave it out"
            )
        total = prunable_network(problem, known.make()).total
        most = total if density is None else keep_count(density, total)
        if (least := _weights(problem, known, 0.0)) > most:
            raise InvalidInput(
                f"control small-dense: {most} weights are kept, and a dense network with one unit in each hidden layer "
                f"has {least}; leave it out"
            )
    if "reinit" in names:
        require_initialisable(problem)
    if protocol.nothing:
        raise InvalidInput("controls are trained, and the protocol takes no step; give epochs or steps")


def made(
    name: str, problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, protocol: Protocol, seed: int
) -> Control:
    """A control of a mask, its values in place.

    A protocol that starts from the pruned values starts from the dense ones where a control keeps other weights, since
    those have no pruned values.

    Parameters
    ----------
    name : of CONTROLS
    network : the problem's, whose values are overwritten
    mask : bool (p,), what is kept;  protocol : by which it is trained, at its density
    seed : of what is drawn
    """
    rng = drawing(name, seed)
    length = protocol.at(float(mask.mean()))
    fresh = anew(length, rng)
    if name == "reinit":
        place(problem, network, fresh.begin)
        return Control(network, mask, fresh)
    if name == "small-dense":
        small = prunable_network(problem, _narrower(problem, int(mask.sum()), fresh.begin.number))
        return Control(small, np.ones(small.total, dtype=np.bool_), fresh)
    if name == "shuffle":
        place(problem, network, length.begin)
        return Control(network, mask[shuffle(network, rng)], length)
    there = of_all(length)
    place(problem, network, there.begin)
    worth = rng.random(mask.size) if name == "random" else np.abs(prunable_network(problem).weights())
    return Control(network, _layer_counts(network, mask).top_mask(worth), there)


def drawing(name: str, seed: int) -> np.random.Generator:
    """The generator of what a control draws."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10, list(CONTROLS).index(name))))


def anew(protocol: Protocol, rng: np.random.Generator) -> Protocol:
    """The protocol that starts from a new initialisation."""
    return replace(protocol, start=f"fresh:{int(rng.integers(2**31))}")


def of_all(protocol: Protocol) -> Protocol:
    """The protocol that starts from values that all weights have, pruned ones too: the dense ones in place of those
    that are left.
    """
    return protocol if protocol.begin.kind != "pruned" else replace(protocol, start="dense")


def shuffle(network: PrunableNetwork, rng: np.random.Generator) -> IndexArray:
    """Move the weights of every layer to random places of it. -> where each came from, int64 (p,)"""
    orders = [rng.permutation(layer.stop - layer.start) + layer.start for layer in network.layers]
    order = np.concatenate(orders)
    network.assign(network.weights()[order])
    return order


def training_of(control: Control, problem: NetworkProblem, teacher: torch.nn.Module | None, dense: Any) -> Trainer:
    """The training of a control. teacher, dense : as of `Trainer`"""
    return Trainer(problem, control.network, control.mask, control.protocol, teacher=teacher, dense=dense)


def _layer_counts(network: PrunableNetwork, mask: BoolArray) -> Quota:
    """What a mask (p,) keeps of every layer."""
    sizes = [layer.stop - layer.start for layer in network.layers]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return Quota(owner, np.bincount(owner[mask], minlength=len(sizes)))


def _narrower(problem: NetworkProblem, most: int, seed: int) -> torch.nn.Module:
    """The widest network of narrower hidden layers with at most `most` prunable weights, initialised."""
    known = trajectory_of(problem)
    assert known is not None
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _weights(problem, known, middle) <= most else (low, middle)
    return known.fresh(seed, low)


def _weights(problem: NetworkProblem, known: Trajectory, part: float) -> int:
    """Prunable weights of the network whose hidden layers have at most this part of the widest one's width."""
    assert known.narrower is not None
    return prunable_network(problem, known.narrower(part)).total
