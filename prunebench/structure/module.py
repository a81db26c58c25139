"""The user's own module with smaller parameters, where its code takes its sizes from them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def resized(model: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of a module with these tensors in the place of its own, and the sizes that torch's own layers hold.

    Whether it runs, and gives what the shrunk graph gives, is for the caller to see: a module's own code may hold sizes
    that nothing here knows.

    Parameters
    ----------
    state : parameters and buffers by name, of other shapes; of tied ones, one name is enough
    """
    made = copy.deepcopy(model)
    names: dict[int, list[str]] = {}
    for name, parameter in made.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    with torch.no_grad():
        for name, buffer in list(made.named_buffers()):
            if name in state:
                module, leaf = _place(made, name)
                module._buffers[leaf] = state[name].to(buffer).clone()
        for parameter in list(made.parameters()):
            same = names[id(parameter)]
            held = next((state[other] for other in same if other in state), None)
            if held is None:
                continue
            new = nn.Parameter(held.to(parameter).clone(), requires_grad=parameter.requires_grad)
            for other in same:
                module, leaf = _place(made, other)
                module._parameters[leaf] = new
    for module in made.modules():
        _resize(module)
    return made


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return model.get_submodule(owner), leaf


def difference(first: Any, second: Any) -> float:
    """The largest difference of two outputs, relative to the largest value; infinity where shapes differ."""
    ones, others = _tensors(first), _tensors(second)
    if [item.shape for item in ones] != [item.shape for item in others]:
        return float("inf")
    worst = max((float((a - b).abs().max()) for a, b in zip(ones, others, strict=True)), default=0.0)
    scale = max((float(a.abs().max()) for a in ones), default=0.0)
    return worst / scale if scale > 0.0 else worst


def _resize(module: nn.Module) -> None:
    """Set the sizes that a layer of torch holds beside its parameters."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return
    shape: Sequence[int] = weight.shape
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.modules.conv._ConvTransposeNd):
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = shape[0] // max(1, module.out_channels // module.in_channels)
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = max(1, module.num_groups * shape[0] // module.num_channels)
        module.num_channels = shape[0]


def _tensors(value: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()]
