"""Layers that can be refitted by themselves: every output is a weighted sum of inputs that its group's rows share.

A linear layer, or a convolution in any number of dimensions. What is looked at of each: its inputs, or the patches
of its inputs, and its outputs, as rows, group by group; of a convolution at every so many places.
"""

import math

import torch

from prunebench.curvature.activations import input_rows
from prunebench.curvature.products import windows

PLACES = 64
"""Places of a sample's feature map that are looked at, at most: neighbours say nearly the same."""

Refittable = torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d


def groups_of(module: Refittable) -> int:
    """How many groups of output rows there are, each with inputs of its own."""
    return 1 if isinstance(module, torch.nn.Linear) else int(module.groups)


def step_of(module: Refittable, output: torch.Tensor) -> int:
    """Every how many places of a feature map are looked at, in all directions."""
    if isinstance(module, torch.nn.Linear):
        return 1
    places = output.shape[2:]
    apart: float = (math.prod(places) / PLACES) ** (1 / len(places))
    return max(1, math.ceil(apart))


def inputs_of(module: Refittable, given: torch.Tensor, step: int) -> torch.Tensor:
    """What each output is a weighted sum of. (groups, n, inputs of an output)

    given : of the layer, with the samples along the first axis
    """
    if isinstance(module, torch.nn.Linear) or (
        isinstance(module, torch.nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
    ):
        return input_rows(module, given, step=step).unsqueeze(0)
    padding: tuple[int, ...]
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        # torch keeps there what "same" means, in the order of torch.nn.functional.pad
        given = torch.nn.functional.pad(given, module._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * len(module.kernel_size)
    else:
        padding = module.padding
    seen = windows(
        given,
        module.kernel_size,
        stride=[step * held for held in module.stride],
        padding=padding,
        dilation=module.dilation,
    )
    return seen.reshape(len(seen), module.groups, -1).movedim(1, 0)


def outputs_of(module: Refittable, output: torch.Tensor) -> torch.Tensor:
    """The outputs that are looked at, in the order of `inputs_of`. (groups, n, rows of a group)"""
    if isinstance(module, torch.nn.Linear):
        return output.reshape(1, -1, output.shape[-1])
    step = step_of(module, output)
    places = (slice(None, None, step),) * (output.ndim - 2)
    rows = output[(slice(None), slice(None), *places)].movedim(1, -1).reshape(-1, output.shape[1])
    return rows.reshape(len(rows), module.groups, -1).movedim(1, 0)
