"""Whether layers' weights are used by calling the layer and in no other way, and whether the layer is linear.

What a layer's inputs say about its weights (Gram matrices, input norms, refits) holds only then. A weight
that is used again by function (`F.linear(x, layer.weight.t())`, attention's `out_proj`, a hand-written
forward) is not seen at the layer. So the network is run twice: as it is, and with every such weight
replaced by NaN while each layer's output is worked out from the true weight. Where all uses are calls, the
outputs are the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from prunebench.core.errors import InvalidInput
from prunebench.networks.chosen import pattern_of
from prunebench.networks.network import evaluation_mode

Convolution = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
Layer = torch.nn.Linear | Convolution

CLOSE = 1e-3
"""Outputs may differ by this part of their largest: rounding of the same products, in float32 about 1e-6."""

CLOSE_HALF = 0.05
"""The same in 16 bits, which round at 4e-3 or 5e-4 in every layer. A foreign use gives NaN, which is never close."""


def used_otherwise(model: torch.nn.Module, layers: Mapping[str, Layer], forward: Callable[[], Any]) -> tuple[str, ...]:
    """The names of the layers whose weights are used otherwise than by linear calls.

    Parameters
    ----------
    model : left as it was, also after an exception
    layers : modules of the model by name
    forward : runs the model on a few samples and returns its answer
    """
    with evaluation_mode(model), torch.no_grad(), _repeatable():
        torch.manual_seed(0)
        usual = tensors(forward())
        if _same(model, layers, forward, usual):
            return ()
        found = tuple(name for name in layers if not _same(model, {name: layers[name]}, forward, usual))
        return found or tuple(layers)


def require_calls_only(model: torch.nn.Module, layers: Mapping[str, Layer], forward: Callable[[], Any]) -> None:
    """Raise InvalidInput, naming the layer, where `used_otherwise` finds one."""
    names = used_otherwise(model, layers, forward)
    if names:
        more = f" (and that of {len(names) - 1} more layers)" if len(names) > 1 else ""
        pattern = pattern_of([f"{name}.weight" for name in names], [f"{name}.weight" for name in layers])
        raise InvalidInput(
            f"the weight of layer {names[0]!r}{more} is used otherwise than by calling the layer (by function, by "
            "attention, or in a forward of its own), so the layer's inputs do not say what the weight does; leave it "
            f"out with --option exclude={pattern}, or use a coordinator and scores made of gradients"
        )


def tensors(answer: Any) -> list[torch.Tensor]:
    """The floating-point tensors in a network's answer, in order."""
    if isinstance(answer, torch.Tensor):
        return [answer.detach()] if answer.is_floating_point() else []
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return [tensor for part in answer for tensor in tensors(part)]
    return []


def _same(
    model: torch.nn.Module, layers: Mapping[str, Layer], forward: Callable[[], Any], usual: list[torch.Tensor]
) -> bool:
    """Whether the answer stays with NaN for the weights of `layers` and their outputs worked out by hand."""
    weights = {id(module): module.weight.detach() for module in layers.values()}

    def by_hand(module: Any, given: tuple[Any, ...], _output: Any) -> torch.Tensor:
        weight = weights[id(module)]
        if isinstance(module, Convolution):
            convolved: torch.Tensor = module._conv_forward(given[0], weight, module.bias)
            return convolved
        return torch.nn.functional.linear(given[0], weight, module.bias)

    # First of all hooks: others of the layer may change its output further.
    handles = [module.register_forward_hook(by_hand, prepend=True) for module in layers.values()]
    try:
        with _without(layers):
            torch.manual_seed(0)
            answer = tensors(forward())
    except (RuntimeError, ValueError, IndexError, AssertionError):
        # NaN where the network expects numbers, to sort or to look up by: a foreign use.
        return False
    finally:
        for handle in handles:
            handle.remove()
    return len(answer) == len(usual) and all(map(_close, answer, usual))


def _close(found: torch.Tensor, usual: torch.Tensor) -> bool:
    if found.shape != usual.shape:
        return False
    part = CLOSE_HALF if usual.element_size() < 4 else CLOSE
    finite = usual[torch.isfinite(usual)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(found, usual, rtol=0.0, atol=part * scale, equal_nan=True))


@contextmanager
def _without(layers: Mapping[str, Layer]) -> Iterator[None]:
    """NaN in place of the layers' weights: one number each, seen in the weight's shape, so that nothing is copied."""
    held = [(module.weight, module.weight.data) for module in layers.values()]
    try:
        for parameter, data in held:
            parameter.data = torch.full((1,), torch.nan, dtype=data.dtype, device=data.device).expand(data.shape)
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


@contextmanager
def _repeatable() -> Iterator[None]:
    """The generator of the CPU is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        yield
