"""What can be measured of any network and its data, and by which the rules of `auto` go.

Importing this module loads no torch; `traits_of` does for a network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, ProblemLike, require_data

WINDOW = 64
"""Tokens of the window that is tried, as wide as those of the recipe for tokens."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the rules look at.

    network : whether there is one, and not a quadratic form by itself
    weights : prunable weights
    samples : calibration samples
    tokens : whether inputs and targets are rows of tokens, of which a window is a sample too
    batch_norm : whether the network has batch norms
    convolutions : whether weights of convolutions are pruned
    refittable : whether the recovery `layers` can refit a layer to its outputs; False where no convolutions are pruned
    walkable : whether it can be pruned layer by layer;  hindrance : why not, "" where it can
    """

    network: bool
    weights: int = 0
    samples: int = 0
    tokens: bool = False
    batch_norm: bool = False
    convolutions: bool = False
    refittable: bool = False
    hindrance: str = ""

    @property
    def walkable(self) -> bool:
        """Whether layers can be pruned one by one from their inputs."""
        return self.network and not self.hindrance


def traits_of(problem: ProblemLike, network: Any = None) -> Traits:
    """The traits of a problem; through a network one sample is sent.

    network : the problem's, a prunebench.networks.network.PrunableNetwork; where it is None, it is loaded

    Raises
    ------
    InvalidInput   data are missing, or the network cannot be pruned at all
    """
    if not isinstance(problem, NetworkProblem):
        return Traits(network=False)
    from prunebench.recovery.batch_norm import batch_norms

    network, samples = loaded(problem) if network is None else network, problem.calibration()
    convolutions = any(len(layer.shape) > 2 for layer in network.layers)  # outputs, inputs, places
    return Traits(
        network=True,
        weights=network.total,
        samples=len(samples),
        tokens=_takes_windows(network.model, problem, samples),
        batch_norm=bool(batch_norms(network.model)),
        convolutions=convolutions,
        refittable=convolutions and _refittable(network, samples),
        hindrance=_hindrance(network, samples),
    )


def loaded(problem: NetworkProblem) -> Any:
    """The problem's network, a prunebench.networks.network.PrunableNetwork.

    Raises
    ------
    InvalidInput   data are missing, or the network cannot be pruned at all
    """
    require_data(problem)
    from prunebench.networks.chosen import prunable_network

    return prunable_network(problem)


def _takes_windows(model: Any, problem: NetworkProblem, samples: Any) -> bool:
    """Whether the samples are rows of tokens, and the loss of a window of one is a number: it is tried."""
    import torch

    from prunebench.curvature.windows import Windows
    from prunebench.networks.network import evaluation_mode

    try:
        inputs, targets = Windows(samples, WINDOW, np.random.default_rng(0)).batch(np.zeros(1, dtype=np.int64))
    except InvalidInput:
        return False
    device = next(model.parameters()).device
    try:
        with evaluation_mode(model), torch.no_grad():
            losses = problem.loss(model(inputs.to(device)), targets.to(device))
    except Exception:
        # a model that takes samples of one length alone: what it raises is its own
        return False
    return bool(torch.isfinite(losses).all())


def _refittable(network: Any, samples: Any) -> bool:
    """Whether the recovery `layers` finds a layer that it can refit: it is begun with one sample."""
    from prunebench.recovery.layer_refit import LayerRefit

    try:
        LayerRefit(network, samples, np.zeros(1, dtype=np.int64), ridge=1.0)
    except Exception:
        # beside what it refuses, a model may raise what is its own
        return False
    return True


def _hindrance(network: Any, samples: Any) -> str:
    """Why at least half of the weights cannot be pruned from their layers' inputs, "" where they can.

    One sample is sent through the network to see.
    """
    from prunebench.curvature.layer_sources import chunks_of, look

    try:
        found = look(network, samples, chunks_of(np.zeros(1, dtype=np.int64), 1))
    except InvalidInput as error:
        return str(error)
    sizes = {layer.name: layer.size for layer in network.layers}
    left = {name: held.reason for held in found.left for name in held.names if name in sizes}
    if sum(sizes[name] for name in left) <= network.total / 2:
        return ""
    name = max(left, key=lambda held: sizes[held])
    return f"{name} {left[name]}"
