"""A user's model as it is taken here: a plain copy, of which nothing reaches back into the original.

Modules of `torch.nn.utils.prune`, `weight_norm`, `spectral_norm` and `parametrize` compute a weight from other
tensors. In the copy it is an ordinary parameter with the value that it has, under its usual name.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prunebench.core.errors import InvalidInput
from prunebench.networks.samples import Parts

Call = Callable[[torch.nn.Module, Parts], Any]
"""Sends a batch through a model and gives what the loss takes."""


def plain_copy(model: torch.nn.Module, device: torch.device | None = None) -> torch.nn.Module:
    """A copy in evaluation mode, every weight an ordinary parameter; the model itself stays as it is.

    device : where the copy is; None: where the model is

    Raises
    ------
    InvalidInput   the model has parameters without values, or holds something that cannot be copied
    """
    model = uncompiled(model)
    lazy = [name for name, item in model.named_parameters() if torch.nn.parameter.is_lazy(item) or item.is_meta]
    if lazy:
        raise InvalidInput(f"parameter {lazy[0]!r} of the model has no values yet; load them, or run the model once")
    # Weights that hooks have computed from others record how, and such tensors cannot be copied as they are.
    memo = {id(item): item.detach().clone() for item in _computed(model)}
    try:
        made = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(f"the model cannot be copied ({first_line(error)}); prunebench works on a copy") from error
    made.eval()
    with torch.random.fork_rng(devices=[]):
        for module in list(made.modules()):
            _make_plain(module)
    return made if device is None else made.to(device)


def uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    """The model behind `torch.compile`, else the model itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, torch.nn.Module) else model


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """A digest of tensors with their names, types, shapes and values, as 16 hexadecimal digits.

    state : of a plain copy
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def is_normed(module: torch.nn.Module) -> bool:
    """Whether a module computes a weight by torch's older weight_norm or spectral_norm."""
    return any(isinstance(hook, WeightNorm | SpectralNorm) for hook in module._forward_pre_hooks.values())


def taking_parts(model: torch.nn.Module, call: Call) -> torch.nn.Module:
    """The model itself, which from now on answers `Parts` by `call`; what else it is called with is its own matter.

    Names, hooks and the kind of module stay: the model gets a class of its own below the one that it has.
    """
    base = type(model)

    def called(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Parts):
            return call(self, args[0])
        return base.__call__(self, *args, **kwargs)

    facts = {"__call__": called, "__module__": base.__module__, _TAKES_PARTS: True}
    object.__setattr__(model, "__class__", type(base.__name__, (base,), facts))
    return model


@contextmanager
def as_given(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Inside, the model has the class that its user gave it, as their own functions expect."""
    held = type(model)
    if _TAKES_PARTS in vars(held):
        object.__setattr__(model, "__class__", held.__bases__[0])
    try:
        yield model
    finally:
        object.__setattr__(model, "__class__", held)


_TAKES_PARTS = "_prunebench_takes_parts"
"""Marks the classes that `taking_parts` makes."""


def _computed(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that modules hold beside their parameters and that record how they were computed."""
    for module in model.modules():
        for item in [*vars(module).values(), *module._buffers.values()]:
            if isinstance(item, torch.Tensor) and item.requires_grad and not item.is_leaf:
                yield item


def _make_plain(module: torch.nn.Module) -> None:
    """Turn weights that a module computes into ordinary parameters."""
    if parametrize.is_parametrized(module):
        _remove_parametrizations(module)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        elif isinstance(hook, WeightNorm):
            torch.nn.utils.remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            torch.nn.utils.remove_spectral_norm(module, hook.name)


def _remove_parametrizations(module: torch.nn.Module) -> None:
    """Leave the values in place of what computes them. torch's own way would change the class, which copies share."""
    with torch.no_grad():
        lists: Any = module.parametrizations
        values = {name: getattr(module, name).detach().clone() for name in lists}
    learnt = {name for name in values if any(True for _ in lists[name].parameters())}
    del module.parametrizations
    object.__setattr__(module, "__class__", type(module).__bases__[0])
    for name, value in values.items():
        if name in learnt:
            module.register_parameter(name, torch.nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything, else its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
