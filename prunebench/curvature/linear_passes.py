"""Forward and backward passes that show the inputs of linear layers and the slopes of their outputs.

For y = x W' + b the gradient of a sample's loss is Σ_t d_t ⊗ a_t over the positions t at which the
layer is used, a the inputs and d the slopes ∂loss/∂y (Goodfellow: Efficient per-example gradient
computations, 2015). Both pass by here, so gradients of whole layers need not be formed; the weights
themselves are not differentiated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import checkpoint

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.gradient_work import Loss
from prunebench.networks.network import PrunableNetwork, evaluation_mode

Take = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Called with a parameter's name, its layer's inputs (b, ..., in) and its outputs' slopes (b, ..., out), float32.

Of a convolution: inputs (b, in, h, w) and slopes (b, out, h', w')."""

Held = tuple[torch.Tensor, int]
"""A layer's inputs, and which version of their memory they are."""

HALF_SCALE = 1024.0
"""Losses are multiplied by this under float16, whose small slopes would be lost; slopes are divided by it."""


def linear_modules(network: PrunableNetwork) -> dict[str, torch.nn.Linear]:
    """The linear layers among the prunable parameters, by parameter name; none whose weight is another's as well."""
    modules = dict(network.model.named_modules())
    found = {}
    for layer in network.layers:
        owner, _, leaf = layer.name.rpartition(".")
        module = modules.get(owner)
        if leaf == "weight" and isinstance(module, torch.nn.Linear) and layer.name not in network.tied:
            found[layer.name] = module
    return found


def unsuited(
    network: PrunableNetwork,
    samples: Samples,
    device: torch.device,
    modules: Mapping[str, torch.nn.Module] | None = None,
) -> str:
    """Why `send` cannot be used for a network, "" if it can. Sends one sample forward.

    All that is pruned must be weights of `modules` (none: its linear layers) that the network calls,
    with the samples along the first axis of their inputs.
    """
    kind = "linear layer" if modules is None else "linear layer or plain convolution"
    modules = linear_modules(network) if modules is None else modules
    other = [layer.name for layer in network.layers if layer.name not in modules]
    if other and other[0] in network.tied:
        return f"{other[0]!r} is the weight of several layers"
    if other:
        return f"{other[0]!r} is not the weight of a {kind}"
    shapes: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            shapes.setdefault(name, given[0].shape if given else torch.Size())

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in modules.items()]
    try:
        with evaluation_mode(network.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.model(samples.batch(np.zeros(1, dtype=np.int64))[0].to(device))
    finally:
        for handle in handles:
            handle.remove()
    for name in modules:
        if name not in shapes:
            return f"layer {name!r} is not called by the network"
        # One sample: an axis of another length in front counts something else (experts, windows, time).
        if len(shapes[name]) < 2 or shapes[name][0] != 1:
            return f"layer {name!r} gets inputs of shape {tuple(shapes[name])} for one sample"
    return ""


def send(
    model: torch.nn.Module,
    modules: Mapping[str, torch.nn.Module],
    loss: Loss,
    batch: tuple[torch.Tensor, torch.Tensor],
    take: Take,
    *,
    recompute: bool = False,
) -> torch.Tensor:
    """One forward and backward pass of a batch; `take` is called once for every use of every layer.

    Parameters
    ----------
    model : taken in evaluation mode; nothing of it is changed
    modules : the linear layers, or convolutions, by parameter name
    loss : outputs, targets of b samples -> losses (b,)
    batch : inputs and targets, where the model is
    take : gets float32 whatever the model's dtype; slopes are those of each sample's own loss
    recompute : keep no activations inside the model's repeated blocks, compute them again in the
                backward pass (Chen et al.: Training deep nets with sublinear memory cost, 2016)

    Returns
    -------
    tensor (b,)   the losses, float32

    Raises
    ------
    InvalidInput   a layer is never used, or is used in a way that keeps samples apart no longer
    """
    watch = _Watch(take, len(batch[0]), recompute)
    handles = [module.register_forward_pre_hook(watch.before(name)) for name, module in modules.items()]
    # First of all hooks: another may change the output.
    handles += [module.register_forward_hook(watch.after(name), prepend=True) for name, module in modules.items()]
    try:
        with evaluation_mode(model), frozen(model), checkpointed(model, recompute), torch.enable_grad():
            losses = loss(model(batch[0]), batch[1])
            unused = [name for name in modules if name not in watch.uses]
            if unused:
                raise InvalidInput(
                    f"layer {unused[0]!r} is never used by the network; leave it out of the prunable ones"
                )
            watch.scale = (
                HALF_SCALE if any(p.dtype == torch.float16 for m in modules.values() for p in m.parameters()) else 1.0
            )
            watch.backward = True
            (losses.sum() * watch.scale).backward()
    finally:
        for handle in handles:
            handle.remove()
    held: torch.Tensor = losses.detach().float()
    return held


class _Watch:
    """Brings a layer's inputs and its outputs' slopes together, in whichever order they come."""

    def __init__(self, take: Take, count: int, recompute: bool) -> None:
        self.take, self.count, self.recompute = take, count, recompute
        self.uses: dict[str, int] = {}
        self.backward = False
        self.scale = 1.0
        self._inputs: dict[str, Held] = {}
        self._slopes: dict[str, torch.Tensor] = {}

    def before(self, name: str) -> Callable[..., None]:
        """The hook that sees a layer's inputs: kept only where they are not computed again."""

        def hook(_module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if given[0].shape[0] != self.count:
                raise InvalidInput(
                    f"layer {name!r} gets inputs of shape {tuple(given[0].shape)} for {self.count} samples: samples "
                    "cannot be told apart there (experts, windows); leave the layer out of the prunable ones"
                )
            if self.backward == self.recompute:
                self._inputs[name] = (given[0].detach(), given[0]._version)
                self._join(name)

        return hook

    def after(self, name: str) -> Callable[..., torch.Tensor | None]:
        """The hook that asks for the slopes of a layer's outputs."""

        def hook(_module: torch.nn.Module, _given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
            made = None
            if not output.requires_grad:
                # Nothing before the first layers records; a copy, because it may be written to in place.
                output = output.detach().requires_grad_(True)
                made = output.clone()
            if self.backward:
                return made
            self.uses[name] = self.uses.get(name, 0) + 1
            if self.recompute and self.uses[name] > 1:
                raise InvalidInput(
                    f"layer {name!r} is used more than once in a pass, which activation checkpointing cannot keep "
                    "apart; switch checkpointing off"
                )
            held = None if self.recompute else self._inputs.pop(name)
            output.register_hook(lambda slope: self._arrived(name, held, slope))  # type: ignore[no-untyped-call]
            return made

        return hook

    def _arrived(self, name: str, inputs: "Held | None", slope: torch.Tensor) -> None:
        slope = slope.detach().float()
        if self.scale != 1.0:
            slope = slope / self.scale
        if inputs is not None:
            self.take(name, _unchanged(name, inputs).float(), slope)
            return
        self._slopes[name] = slope
        self._join(name)

    def _join(self, name: str) -> None:
        if self.recompute and name in self._inputs and name in self._slopes:
            self.take(name, _unchanged(name, self._inputs.pop(name)).float(), self._slopes.pop(name))


def _unchanged(name: str, held: Held) -> torch.Tensor:
    tensor, version = held
    if tensor._version != version:
        raise InvalidInput(
            f"the inputs of layer {name!r} are written over after they were used; make that operation not in-place"
        )
    return tensor


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """No parameter records for the backward pass: weight gradients are not wanted."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def repeated_blocks(model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """The members of the model's outermost module lists: decoder layers, transformer blocks."""
    found: list[torch.nn.Module] = []

    def visit(module: torch.nn.Module) -> None:
        for child in module.children():
            if isinstance(child, (torch.nn.ModuleList, torch.nn.Sequential)) and len(child) > 1:
                found.extend(child)
            else:
                visit(child)

    visit(model)
    return found


@contextmanager
def checkpointed(model: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, the model's repeated blocks recompute their activations in the backward pass."""
    if not wanted:
        yield
        return
    blocks = repeated_blocks(model)
    if not blocks:
        raise InvalidInput("the network has no repeated blocks whose activations could be recomputed; switch it off")

    def recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return checkpoint.checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return run

    # The last layer's inputs are wanted even where nothing more is needed for the gradients.
    with checkpoint.set_checkpoint_early_stop(False):
        for block in blocks:
            block.forward = recomputing(block.forward)
        try:
            yield
        finally:
            for block in blocks:
                del block.forward
