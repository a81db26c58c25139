"""What can be measured of any network and its data, and by which the rules of `auto` go.

Importing this module loads no torch; `traits_of` does for a network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, ProblemLike, require_data

TOKEN_AXES = 2
"""Targets that are whole numbers with so many axes or more are tokens: one row of them a sample."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the rules look at.

    network : whether there is one, and not a quadratic form by itself
    weights : prunable weights
    samples : calibration samples
    tokens : whether the targets are tokens
    batch_norm : whether the network has batch norms
    convolutions : whether weights of convolutions are pruned
    walkable : whether it can be pruned layer by layer;  hindrance : why not, "" where it can
    """

    network: bool
    weights: int = 0
    samples: int = 0
    tokens: bool = False
    batch_norm: bool = False
    convolutions: bool = False
    hindrance: str = ""

    @property
    def walkable(self) -> bool:
        """Whether layers can be pruned one by one from their inputs."""
        return self.network and not self.hindrance


def traits_of(problem: ProblemLike) -> Traits:
    """The traits of a problem; of a network the model is loaded and one sample sent through it.

    Raises
    ------
    InvalidInput   data are missing, or the network cannot be pruned at all
    """
    if not isinstance(problem, NetworkProblem):
        return Traits(network=False)
    require_data(problem)
    from prunebench.networks.chosen import prunable_network
    from prunebench.networks.samples import row_weight
    from prunebench.recovery.batch_norm import batch_norms

    network, samples = prunable_network(problem), problem.calibration()
    return Traits(
        network=True,
        weights=network.total,
        samples=len(samples),
        tokens=row_weight(samples) > 1.0 or _are_tokens(samples.batch(np.zeros(1, dtype=np.int64))[1]),
        batch_norm=bool(batch_norms(network.model)),
        convolutions=any(len(layer.shape) > 2 for layer in network.layers),  # outputs, inputs, places
        hindrance=_hindrance(network, samples),
    )


def _are_tokens(targets: Any) -> bool:
    """Whether targets are whole numbers, a row of them a sample."""
    floating = getattr(targets, "is_floating_point", None)
    return floating is not None and not floating() and targets.ndim >= TOKEN_AXES and targets.shape[-1] > 1


def _hindrance(network: Any, samples: Any) -> str:
    """Why the network's layers cannot be walked one by one, "" where they can: it is tried with one sample."""
    from prunebench.curvature.layer_walk import LayerWalk

    try:
        LayerWalk(network, samples, np.zeros(1, dtype=np.int64), dense=False)
    except InvalidInput as error:
        return str(error)
    return ""
