"""Controls of a trained mask: other values, other masks, another network, trained by the same protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray
from prunebench.core.controls import CONTROLS, require_controls
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.training import Trajectory
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.starts import place, trajectory_of
from prunebench.recovery.training.trainer import Trainer

HALVINGS = 60
"""Halvings of an interval of parts of widths: to the last bit of a float64."""


@dataclass(frozen=True)
class Control:
    """A network with its mask and values in place, and the protocol by which it is trained."""

    network: PrunableNetwork
    mask: BoolArray
    protocol: Protocol


def require_known(problem: NetworkProblem, protocol: Protocol, names: Sequence[str]) -> None:
    """Refuse controls that cannot be made for a problem, before any work.

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

    Raises
    ------
    InvalidInput   the narrowest dense network has more weights than are kept
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(10, list(CONTROLS).index(name))))
    length = protocol.at(float(mask.mean()))
    fresh = replace(length, start=f"fresh:{int(rng.integers(2**31))}")
    if name == "reinit":
        place(problem, network, fresh.begin)
        return Control(network, mask, fresh)
    if name == "small-dense":
        small = prunable_network(problem, _narrower(problem, network, int(mask.sum()), fresh.begin.number))
        return Control(small, np.ones(small.total, dtype=np.bool_), fresh)
    if name == "shuffle":
        place(problem, network, length.begin)
        orders = [rng.permutation(layer.stop - layer.start) + layer.start for layer in network.layers]
        order = np.concatenate(orders)
        network.assign(network.weights()[order])
        return Control(network, mask[order], length)
    there = length if length.begin.kind != "pruned" else replace(length, start="dense")
    place(problem, network, there.begin)
    if name == "random":
        return Control(network, _chosen(network, mask, lambda part: rng.random(part.size)), there)
    dense = prunable_network(problem).weights()
    return Control(network, _chosen(network, mask, lambda part: np.abs(dense[part])), there)


def training_of(control: Control, problem: NetworkProblem, teacher: torch.nn.Module | None, dense: Any) -> Trainer:
    """The training of a control. teacher, dense : as of `Trainer`"""
    return Trainer(problem, control.network, control.mask, control.protocol, teacher=teacher, dense=dense)


def _chosen(network: PrunableNetwork, mask: BoolArray, worth: Callable[[Any], Any]) -> BoolArray:
    """The mask of what is worth most in every layer, as many weights as another mask keeps there. bool (p,)

    worth : positions int64 (b,) -> float64 (b,)
    """
    out = np.zeros_like(mask)
    for layer in network.layers:
        positions = np.arange(layer.start, layer.stop)
        count = int(mask[layer.start : layer.stop].sum())
        out[positions[np.argsort(-worth(positions), kind="stable")[:count]]] = True
    return out


def _narrower(problem: NetworkProblem, network: PrunableNetwork, most: int, seed: int) -> torch.nn.Module:
    """The widest network of narrower hidden layers with at most `most` prunable weights, initialised."""
    known = trajectory_of(problem)
    assert known is not None
    names = [layer.name for layer in network.layers]

    def weights(part: float) -> int:
        return _count(known, part, names)

    low, high = 0.0, 1.0
    if weights(low) > most:
        raise InvalidInput(
            f"control small-dense: {most} weights are kept, and a dense network with one unit in each hidden layer has "
            f"{weights(low)}; leave it out"
        )
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if weights(middle) <= most else (low, middle)
    return known.fresh(seed, low)


def _count(known: Trajectory, part: float, names: Sequence[str]) -> int:
    assert known.narrower is not None
    model = known.narrower(part)
    return sum(model.get_parameter(name).numel() for name in names)
