"""Per-sample gradients of linear layers and convolutions: one backward pass a chunk, then outer products.

For y = x W' + b the gradient of sample i is the outer product of ∂loss_i/∂y_i and x_i (Goodfellow:
Efficient per-example gradient computations, 2015). Written straight into the result, they cost one
pass over its memory, where vmap makes temporaries of the same size and copies them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.problem import Samples
from prunebench.curvature import convolution_products, linear_passes
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

PRODUCT_ELEMENTS = 2**14
"""From so many weights on a sample's outer product is one call of the matrix product, which writes it a third faster
than a broadcast over all samples does; for fewer the calls cost more than they save."""

SAFE = 1e37
"""Sums whose terms' sizes add up to less are finite in float32, whatever their rounding."""


class Written(NamedTuple):
    """How many rows were written, and whether they are known to be finite, so that nobody need read them again.

    refused : why they could not be vectorised where others could; "" where they could
    """

    rows: int
    finite: bool = False
    refused: str = ""


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


def fill(work: GradientWork, positions: IndexArray, chunk: int, out: torch.Tensor) -> Iterator[Written]:
    """Write the gradients of up to `chunk` samples at a time into the rows of `out`, (n, p)."""
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
        finite = True
        for layer, slope in zip(layers, slopes, strict=True):
            rows = out[start : start + len(inputs), layer.start : layer.stop].view(len(inputs), *layer.shape)
            given = seen[layer.name][0].detach()
            _multiply(given, slope, rows)
            finite = finite and _bound(given, slope, slope[0].numel() // slope.shape[-1]) < SAFE
        yield Written(len(inputs), finite)


Weighted = torch.nn.Linear | torch.nn.Conv2d
"""A layer whose sample gradients are products of its inputs and the slopes of its outputs."""


def weighted_modules(network: PrunableNetwork) -> dict[str, Weighted]:
    """The linear layers and plain convolutions (ungrouped, zeros around) that are pruned, by parameter name."""
    found: dict[str, Weighted] = dict(linear_passes.linear_modules(network))
    modules = dict(network.model.named_modules())
    for layer in network.layers:
        owner, _, leaf = layer.name.rpartition(".")
        module = modules.get(owner)
        if not isinstance(module, torch.nn.Conv2d) or not convolution_products.is_plain(module):
            continue
        if leaf == "weight" and layer.name not in network.tied:
            found[layer.name] = module
    return found


def working_bytes(network: PrunableNetwork, samples: Samples) -> int:
    """Bytes that the products of one sample need beside their result in the convolution where they need most."""
    most = 0

    def note(module: torch.nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal most
        assert isinstance(module, torch.nn.Conv2d)
        most = max(most, convolution_products.working_bytes(module, given[0].shape, output.shape))

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


def fill_by_passes(work: GradientWork, positions: IndexArray, chunk: int, out: torch.Tensor) -> Iterator[Written]:
    """The same for any network of `weighted_modules` that `linear_passes.unsuited` has nothing against.

    Where the model is; its memory is written row by row. A layer's first use writes, others add.
    """
    spans = {layer.name: layer for layer in work.network.layers}
    modules = weighted_modules(work.network)
    for start in range(0, positions.size, chunk):
        inputs, targets = work.batch(positions[start : start + chunk])
        block = out[start : start + len(inputs)]
        bounds: dict[str, float] = {}

        def add(
            name: str,
            given: torch.Tensor,
            slopes: torch.Tensor,
            block: torch.Tensor = block,
            bounds: dict[str, float] = bounds,
        ) -> None:
            layer, module = spans[name], modules[name]
            rows = block[:, layer.start : layer.stop].view(len(block), *layer.shape)
            # Looking at what is multiplied is worth it only where that is less than the products.
            places = slopes[0].numel() // layer.shape[0]
            bound = _bound(given, slopes, places) if given.numel() + slopes.numel() < rows.numel() else SAFE
            if name in bounds:
                rows += sample_products(module, given, slopes).view(rows.shape).to(rows.device)
            elif rows.device != given.device:
                rows.copy_(sample_products(module, given, slopes).view(rows.shape))
            elif isinstance(module, torch.nn.Conv2d):
                convolution_products.products(module, given, slopes, rows)
            else:
                _multiply(given, slopes, rows)
            bounds[name] = bounds.get(name, 0.0) + bound

        linear_passes.send(work.model, modules, work.loss, (inputs, targets), add)
        for name in spans.keys() - bounds.keys():
            block[:, spans[name].start : spans[name].stop] = 0.0  # used, but the loss does not depend on it
        # NaN is not less than anything, and max would pass over it
        yield Written(len(inputs), len(bounds) == len(spans) and all(bound < SAFE for bound in bounds.values()))


def sample_products(module: torch.nn.Module, given: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Each sample's gradient of a layer's weight by one use of the layer. (s, outputs, inputs or inputs, height, width)

    Parameters
    ----------
    module : a linear layer or a plain convolution;  given : what it got;  slopes : of its outputs
    """
    if isinstance(module, torch.nn.Conv2d):
        found = given.new_empty((len(given), *module.weight.shape))
        convolution_products.products(module, given, slopes, found)
        return found
    found = given.new_empty((len(given), slopes.shape[-1], given.shape[-1]))
    _multiply(given, slopes, found)
    return found


def _is_plain(module: torch.nn.Module) -> bool:
    """One of the known types, and nothing that changes a linear layer's output before its slope is taken."""
    known = type(module) in (torch.nn.Sequential, torch.nn.Linear, *NEUTRAL)
    return known and not (getattr(module, "inplace", False) or module._forward_hooks or module._forward_pre_hooks)


def _multiply(given: torch.Tensor, slopes: torch.Tensor, rows: torch.Tensor) -> None:
    """inputs (s, ..., i), slopes (s, ..., o) -> rows (s, o, i), summed over the axes between."""
    count = len(rows)
    alike = rows.device == given.device and rows.dtype == given.dtype
    if given.ndim == 2 and alike and rows[0].numel() < PRODUCT_ELEMENTS:
        torch.mul(slopes.unsqueeze(2), given.unsqueeze(1), out=rows)
        return
    slopes = slopes.reshape(count, -1, slopes.shape[-1])
    given = given.reshape(count, -1, given.shape[-1])
    if alike:
        torch.bmm(slopes.transpose(1, 2), given, out=rows)
    else:
        rows.copy_(slopes.transpose(1, 2) @ given)


def _bound(given: torch.Tensor, slopes: torch.Tensor, places: int) -> float:
    """What no sum of `places` products of an input and a slope exceeds; NaN where one of them is NaN."""
    largest = [float(max(-low, high)) for low, high in (torch.aminmax(item) for item in (given, slopes))]
    return places * largest[0] * largest[1]


def _linear(work: GradientWork, name: str) -> torch.nn.Module:
    return work.model.get_submodule(name.rpartition(".")[0])


def _note(seen: dict[str, tuple[torch.Tensor, torch.Tensor]], name: str) -> Any:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[name] = (inputs[0], output)

    return hook
