"""What every way of computing sample gradients works on: the network as a function of its prunable tensors."""

from collections.abc import Callable
from typing import Any

import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.networks.network import PrunableNetwork, call_with
from prunebench.networks.samples import fetched

Loss = Callable[[Any, Any], Any]
"""Outputs and targets of s samples -> the loss of every sample, (s,)."""

Parameters = dict[str, torch.Tensor]


def one_a_sample(losses: Any, count: int) -> torch.Tensor:
    """The losses, checked to be one number a sample.

    Raises
    ------
    InvalidInput   they are not
    """
    if not isinstance(losses, torch.Tensor) or losses.shape != (count,):
        shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise InvalidInput(
            f"the loss of {count} samples has shape {shape}; expected ({count},), "
            'one number a sample (reduction="none")'
        )
    return losses


class GradientWork:
    """The network's tensors on the device, and the loss of samples as a function of the prunable ones."""

    def __init__(self, network: PrunableNetwork, loss: Loss, samples: Samples, device: torch.device) -> None:
        self.network = network
        self.model = network.model
        self.loss = loss
        self.samples = samples
        self.device = device
        # Detached: the model's own requires_grad and .grad stay as they are.
        held = {name: item.detach().to(device) for name, item in self.model.named_parameters()}
        self.prunable: Parameters = {name: held.pop(name) for name in network.names}
        # Cloned: a forward pass may write into buffers.
        buffers = {name: item.detach().to(device, copy=True) for name, item in self.model.named_buffers()}
        self.fixed: Parameters = {**held, **buffers}

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the samples at `positions`, on the device."""
        return fetched(self.samples, positions, self.device)

    def losses(self, prunable: Parameters, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The losses (s,) of s samples with these prunable tensors in the network.

        Raises
        ------
        InvalidInput   the loss is not one number a sample
        """
        outputs = call_with(self.model, {**prunable, **self.fixed}, inputs)
        return one_a_sample(self.loss(outputs, targets), len(inputs))

    def leaves(self) -> Parameters:
        """The prunable tensors, recording for the backward pass."""
        return {name: item.requires_grad_(True) for name, item in self.prunable.items()}
