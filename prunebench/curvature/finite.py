"""Where NaN and infinity begin: the sample and the module that an error has to name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.gradient_work import Loss
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import all_finite, at_once, fetched

BATCH = 256
"""Samples that are run together while a broken one is looked for."""


class Cause(NamedTuple):
    """Where NaN or infinity begins. in_backward_pass : the loss itself is finite"""

    text: str
    in_backward_pass: bool = False


def first_broken(network: PrunableNetwork, loss: Loss, samples: Samples, positions: IndexArray) -> tuple[int, Cause]:
    """The first of several samples whose own loss is not finite, else the first of all, and its `cause`."""
    for position in positions:
        found = cause(network, loss, samples, int(position))
        if not found.in_backward_pass:
            return int(position), found
    return int(positions[0]), cause(network, loss, samples, int(positions[0]))


def cause(network: PrunableNetwork, loss: Loss, samples: Samples, position: int) -> Cause:
    """Where NaN or infinity begins when one sample is run: its inputs, a module, the loss, or the backward pass."""
    model = network.model
    inputs, targets = fetched(samples, np.array([position]), next(model.parameters()).device)
    if not all_finite(inputs):
        return Cause("the sample itself holds NaN or infinity")
    first: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _given: Any, output: Any) -> None:
            if not first and isinstance(output, torch.Tensor) and not bool(torch.isfinite(output).all()):
                first.append(name)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            losses = loss(model(inputs), targets)
    finally:
        for handle in handles:
            handle.remove()
    if first and not bool(torch.isfinite(losses).all()):
        return Cause(
            f"the outputs of module {first[0]!r} are the first that are not finite; look for a diverged network"
        )
    if not bool(torch.isfinite(losses).all()):
        return Cause("the network's outputs make a loss that is not finite; look at the sample's target and the loss")
    words = "its loss is finite and the backward pass is not; look for an overflowing loss or a root of zero"
    return Cause(words, in_backward_pass=True)


def require_finite_losses(network: PrunableNetwork, loss: Loss, samples: Samples) -> None:
    """Raise InvalidInput for the first sample whose loss is NaN or infinite, with where that begins."""
    model = network.model
    device = next(model.parameters()).device
    step = at_once(samples, BATCH)
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for start in range(0, len(samples), step):
            positions = np.arange(start, min(start + step, len(samples)))
            inputs, targets = fetched(samples, positions, device)
            if bool(torch.isfinite(loss(model(inputs), targets)).all()):
                continue
            which, why = first_broken(network, loss, samples, positions)
            raise InvalidInput(f"the dense network's loss is NaN or infinite at sample {which}: {why.text}")
