"""What a forward and backward pass through linear layers needs, in bytes, told before it is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.core.errors import InvalidInput
from prunebench.curvature.gradients import available_memory
from prunebench.curvature.linear_passes import repeated_blocks
from prunebench.networks.network import evaluation_mode

GRADIENT_SHARE = 2
"""Activations' gradients and temporaries exist beside the activations while a block is gone through backwards."""


@dataclass(frozen=True)
class Activations:
    """Bytes that one sample's pass keeps: `inside` each repeated block, between blocks, and `outside` of them."""

    inside: tuple[int, ...]
    between: int
    outside: int

    def kept(self, recompute: bool) -> int:
        """What is there at the worst moment of the backward pass, for one sample."""
        largest = max(self.inside, default=0)
        if recompute:
            return self.between + GRADIENT_SHARE * largest + GRADIENT_SHARE * self.outside
        return sum(self.inside) + self.between + (GRADIENT_SHARE - 1) * largest + GRADIENT_SHARE * self.outside


@dataclass(frozen=True)
class PassMemory:
    """What a pass needs beside the model's weights, in bytes.

    activations : on the device, of the samples that go through together
    gathered : on the device, the rows of one batch for the blocks' columns
    factor : on the CPU, the rows of all batches
    gradient : on the CPU, the mean gradient of all weights, where it is wanted
    """

    activations: int
    gathered: int
    factor: int
    gradient: int


def activations(model: torch.nn.Module, inputs: torch.Tensor) -> Activations:
    """Measure what the modules of a model put out for one sample, by sending it forward without gradients.

    Parameters
    ----------
    model : taken in evaluation mode
    inputs : one sample (1, ...), where the model is
    """
    blocks = repeated_blocks(model)
    place = {id(part): number for number, block in enumerate(blocks) for part in block.modules()}
    inside, sums = [0] * len(blocks), {"between": 0, "outside": 0}

    def note(number: int | None, whole: bool) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _given: Any, output: Any) -> None:
            held = _first_tensor(output)
            size = 0 if held is None else held.nbytes
            if whole:
                sums["between"] += size
            elif number is None:
                sums["outside"] += size
            else:
                # In the model's precision, and what nonlinearities and norms keep in float32 beside it.
                inside[number] += 2 * size

        return hook

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(note(place.get(id(leaf)), False)) for leaf in leaves]
    handles += [block.register_forward_hook(note(None, True)) for block in blocks]
    try:
        with evaluation_mode(model), torch.no_grad():
            answer = _first_tensor(model(inputs))
    finally:
        for handle in handles:
            handle.remove()
    if answer is not None:
        # The loss works on the outputs in float32: they, their logarithms, their gradients.
        sums["outside"] += 2 * 4 * answer.numel()
    return Activations(tuple(inside), sums["between"], sums["outside"])


def pass_memory(
    held: Activations, *, batch: int, rows: int, batch_rows: int, columns: int, weights: int, recompute: bool
) -> PassMemory:
    """What a pass needs.

    Parameters
    ----------
    held : of the longest sample
    batch : samples that go through together
    rows, batch_rows : rows of the factor, in all and in a batch
    columns : weights in all blocks together
    weights : prunable weights, 0 where the whole gradient is not wanted
    recompute : whether activations inside the blocks are computed again
    """
    return PassMemory(
        activations=batch * held.kept(recompute),
        gathered=2 * 4 * batch_rows * columns,
        factor=4 * rows * columns,
        gradient=4 * weights,
    )


def require_room(need: PassMemory, device: torch.device, limits: tuple[int | None, int | None] | None = None) -> None:
    """Raise InvalidInput, saying what to reduce, unless the device and the CPU have room for a pass.

    Parameters
    ----------
    need : PassMemory
    device : where the model is
    limits : bytes on the device and on the CPU; None for what is free now
    """
    on_device, on_cpu = limits if limits is not None else (_free(device), available_memory())
    first, second = need.activations + need.gathered, need.factor + need.gradient
    if device.type == "cpu":
        first, second = first + second, 0
        on_device = on_cpu if limits is None else on_device
    if on_device is not None and first > on_device:
        raise InvalidInput(
            f"a pass needs {first:,} bytes on {device} ({need.activations:,} of activations) and {on_device:,} are "
            "free; use a smaller batch or context, checkpointing=true, fewer samples, or smaller or fewer blocks a step"
        )
    if on_cpu is not None and second > on_cpu:
        raise InvalidInput(
            f"the blocks' factor and gradient need {second:,} bytes of memory and {on_cpu:,} are free; use fewer "
            "samples, smaller or fewer blocks a step, or a block score other than gradient"
        )


def _free(device: torch.device) -> int | None:
    if device.type != "cuda":
        return available_memory() if device.type == "cpu" else None
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def _first_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, torch.Tensor):
        return value
    if hasattr(value, "logits"):
        logits: torch.Tensor = value.logits
        return logits
    if isinstance(value, (tuple, list)) and value:
        return _first_tensor(value[0])
    return None
