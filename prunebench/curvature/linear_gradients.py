"""Per-sample gradients of linear layers and convolutions: one backward pass a chunk, then outer products.

For y = x W' + b the gradient of sample i is the outer product of ∂loss_i/∂y_i and x_i (Goodfellow:
Efficient per-example gradient computations, 2015). Written straight into the result, they cost one
pass over its memory, where vmap makes temporaries of the same size and copies them.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.problem import Samples
from prunebench.curvature import linear_passes
from prunebench.curvature.gradient_work import GradientWork
from prunebench.networks.network import PrunableNetwork

NEUTRAL = (
    torch.nn.Flatten,
    torch.nn.Identity,
    torch.nn.Dropout,
    torch.nn.ReLU,
    torch.nn.GELU,
    torch.nn.Tanh,
    torch.nn.Sigmoid,
)
"""Layers that treat every sample by itself and leave the outputs of the layer before untouched."""


def applies(network: PrunableNetwork) -> bool:
    """Whether the network is a chain of linear layers, each used once, whose weights are what is prunable."""
    modules = [module for _, module in network.model.named_modules(remove_duplicate=False)]
    linear = [module for module in modules if type(module) is torch.nn.Linear]
    parameters = {id(module.weight) for module in linear}
    return (
        isinstance(network.model, torch.nn.Sequential)
        and all(_is_plain(module) for module in modules)
        and len(parameters) == len(linear)
        and all(id(network.model.get_parameter(name)) in parameters for name in network.names)
    )


def fill(work: GradientWork, positions: IndexArray, chunk: int, out: torch.Tensor) -> Iterator[int]:
    """Write the gradients of up to `chunk` samples at a time into the rows of `out`, (n, p); yields how many."""
    prunable = work.leaves()
    layers = work.network.layers
    for start in range(0, positions.size, chunk):
        inputs, targets = work.batch(positions[start : start + chunk])
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = [_linear(work, layer.name).register_forward_hook(_note(seen, layer.name)) for layer in layers]
        try:
            with torch.enable_grad():
                total = work.losses(prunable, inputs, targets).sum()
        finally:
            for hook in hooks:
                hook.remove()
        slopes = torch.autograd.grad(total, [seen[layer.name][1] for layer in layers], materialize_grads=True)
        for layer, slope in zip(layers, slopes, strict=True):
            rows = out[start : start + len(inputs), layer.start : layer.stop].view(len(inputs), *layer.shape)
            _outer(slope, seen[layer.name][0].detach(), rows)
        yield len(inputs)


Weighted = torch.nn.Linear | torch.nn.Conv2d
"""A layer whose sample gradients are products of its inputs and the slopes of its outputs."""


def weighted_modules(network: PrunableNetwork) -> dict[str, Weighted]:
    """The linear layers and plain convolutions (ungrouped, zeros around) that are pruned, by parameter name."""
    found: dict[str, Weighted] = dict(linear_passes.linear_modules(network))
    modules = dict(network.model.named_modules())
    for layer in network.layers:
        owner, _, leaf = layer.name.rpartition(".")
        module = modules.get(owner)
        plain = isinstance(module, torch.nn.Conv2d) and _is_plain_convolution(module)
        if leaf == "weight" and plain and layer.name not in network.tied:
            assert isinstance(module, torch.nn.Conv2d)
            found[layer.name] = module
    return found


def unfolded_bytes(network: PrunableNetwork, samples: Samples) -> int:
    """Bytes that the windows of one sample take in the convolution where they take most; 0 without one."""
    most = 0

    def note(module: torch.nn.Module, _given: Any, output: torch.Tensor) -> None:
        nonlocal most
        held = cast(torch.nn.Conv2d, module)
        most = max(most, 4 * output[0, 0].numel() * held.weight[0].numel())

    convolutions = [m for m in weighted_modules(network).values() if isinstance(m, torch.nn.Conv2d)]
    if not convolutions:
        return 0
    handles = [module.register_forward_hook(note) for module in convolutions]
    try:
        with torch.no_grad():
            inputs = samples.batch(np.zeros(1, dtype=np.int64))[0]
            network.model(inputs.to(next(network.model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return most


def fill_by_passes(work: GradientWork, positions: IndexArray, chunk: int, out: torch.Tensor) -> Iterator[int]:
    """The same for any network of `weighted_modules` that `linear_passes.unsuited` has nothing against.

    The gradient of a convolution is the product of its outputs' slopes with the windows of its inputs,
    summed over places (Rochette, Manoel, Tramel: Efficient per-example gradient computations in
    convolutional neural networks, 2019). Where the model is; its memory is written row by row.
    """
    spans = {layer.name: layer for layer in work.network.layers}
    modules = weighted_modules(work.network)
    for start in range(0, positions.size, chunk):
        inputs, targets = work.batch(positions[start : start + chunk])
        block = out[start : start + len(inputs)]
        block.zero_()

        def add(name: str, given: torch.Tensor, slopes: torch.Tensor, block: torch.Tensor = block) -> None:
            layer = spans[name]
            rows = block[:, layer.start : layer.stop].view(len(block), *layer.shape)
            rows += sample_products(modules[name], given, slopes).view(rows.shape).to(block.device)

        linear_passes.send(work.model, modules, work.loss, (inputs, targets), add)
        yield len(inputs)


def sample_products(module: torch.nn.Module, given: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Each sample's gradient of a layer's weight by one use of the layer. (s, outputs, inputs or window)

    Parameters
    ----------
    module : a linear layer or a plain convolution;  given : what it got;  slopes : of its outputs
    """
    count = len(given)
    if isinstance(module, torch.nn.Conv2d):
        windows = torch.nn.functional.unfold(
            given,
            module.kernel_size,
            dilation=module.dilation,
            padding=cast(tuple[int, int], module.padding),
            stride=module.stride,
        )
        return slopes.reshape(count, slopes.shape[1], -1) @ windows.transpose(1, 2)
    slopes = slopes.reshape(count, -1, slopes.shape[-1])
    return slopes.transpose(1, 2) @ given.reshape(count, -1, given.shape[-1])


def _is_plain_convolution(module: torch.nn.Conv2d) -> bool:
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _is_plain(module: torch.nn.Module) -> bool:
    """One of the known types, and nothing that changes a linear layer's output before its slope is taken."""
    known = type(module) in (torch.nn.Sequential, torch.nn.Linear, *NEUTRAL)
    return known and not (getattr(module, "inplace", False) or module._forward_hooks or module._forward_pre_hooks)


def _outer(slopes: torch.Tensor, inputs: torch.Tensor, rows: torch.Tensor) -> None:
    """slopes (s, ..., o), inputs (s, ..., i) -> rows (s, o, i), summed over the axes between."""
    if inputs.ndim == 2 and rows.device == inputs.device and rows.dtype == inputs.dtype:
        torch.mul(slopes.unsqueeze(2), inputs.unsqueeze(1), out=rows)
        return
    count = len(rows)
    slopes = slopes.reshape(count, -1, slopes.shape[-1])
    inputs = inputs.reshape(count, -1, inputs.shape[-1])
    rows.copy_(slopes.transpose(1, 2) @ inputs)


def _linear(work: GradientWork, name: str) -> torch.nn.Module:
    return work.model.get_submodule(name.rpartition(".")[0])


def _note(seen: dict[str, tuple[torch.Tensor, torch.Tensor]], name: str) -> Any:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[name] = (inputs[0], output)

    return hook
