"""Whether a network gives the same outputs for the same samples when it is asked twice."""

import numpy as np
import torch

from prunebench.core.problem import Samples
from prunebench.curvature.module_use import tensors
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, fetched

LOOKED_AT = 4
"""Samples that are sent through twice: dropout shows in one."""

CLOSE = 1e-2
"""By what part of their largest outputs may differ: above what threads and 16 bits round differently, and below what
dropout does, which takes away whole features."""


def difference_when_repeated(network: PrunableNetwork, samples: Samples) -> float:
    """By what part of their largest the outputs of a few samples differ between two runs; 0.0 where within rounding.

    In evaluation mode, so what differs is random by function: dropout without `training=self.training`, noise.
    """
    model = network.model
    count = min(LOOKED_AT, at_once(samples, LOOKED_AT), len(samples))
    inputs, _ = fetched(samples, np.arange(count), next(model.parameters()).device)
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = tensors(model(inputs)), tensors(model(inputs))
    worst = 0.0
    for one, other in zip(first, second, strict=True):
        scale = float(one.abs().max()) if one.numel() else 0.0
        if one.shape == other.shape and scale > 0.0:
            worst = max(worst, float((one - other).abs().max()) / scale)
    return worst if worst > CLOSE else 0.0
