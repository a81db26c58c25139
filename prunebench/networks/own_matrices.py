"""Which matrices of a user's network are pruned by default: those that multiply, seen in a run and not by names."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prunebench.networks.chosen import HEADS

PRODUCTS = frozenset(
    {
        "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "linear", "matmul", "_grouped_mm", "_scaled_mm",
        "convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "_trilinear",
        "lstm", "gru", "rnn_tanh", "rnn_relu", "mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn",
        "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_addmm_activation", "mkldnn_linear",
    }
)  # fmt: skip
"""torch's operators that multiply by a matrix, by their names without a namespace."""

MULTIPLYING = (
    torch.nn.Linear,
    torch.nn.modules.conv._ConvNd,
    torch.nn.RNNBase,
    torch.nn.RNNCellBase,
    torch.nn.MultiheadAttention,
    torch.nn.Bilinear,
)
"""Modules that multiply by all their matrices, also where they compute others of these first (standardised weights)."""

EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)
"""Modules whose matrices are looked up row by row."""


def multiplying(model: torch.nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Names of the matrices by which the network multiplies, in order; embeddings and output heads are left out.

    An output head is what a network of transformers names as such, or the last product of a network of tokens with
    as many outputs as an embedding has rows. Tied matrices have one name.

    Parameters
    ----------
    run : sends a batch through the model
    """
    watch = _Watch()
    with watch, torch.no_grad():
        run()
    left_out = {id(item) for module in model.modules() if isinstance(module, EMBEDDINGS)
                for item in module.parameters(recurse=False)}  # fmt: skip
    left_out |= set(_heads(model, watch.last))
    found: list[tuple[str, torch.Tensor]] = []
    for owner, module in model.named_modules():
        known = isinstance(module, MULTIPLYING) or type(module).__name__ == "Conv1D"
        for name, item in module.named_parameters(recurse=False):
            if item.ndim < 2 or not item.is_floating_point() or not item.numel() or id(item) in left_out:
                continue
            if (known or _key(item) in watch.seen) and id(item) not in {id(held) for _, held in found}:
                found.append((f"{owner}.{name}" if owner else name, item))
    return tuple(name for name, _ in found)


class _Watch(TorchDispatchMode):
    """Notes the memory of every tensor that goes into a product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()
        self.last: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.last = {_key(item) for item in _tensors((args, kwargs or {}))}
            self.seen |= self.last
        return func(*args, **(kwargs or {}))


def _heads(model: torch.nn.Module, last: set[int]) -> Iterable[int]:
    ask = getattr(model, HEADS[0], None)
    head = ask() if callable(ask) else None
    if isinstance(head, torch.nn.Module):
        yield from (id(item) for item in head.parameters())
    rows = {module.num_embeddings for module in model.modules() if isinstance(module, EMBEDDINGS)}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.out_features in rows and _key(module.weight) in last:
            yield id(module.weight)


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    return (item for item in pytree.tree_leaves(value) if isinstance(item, torch.Tensor))


def _key(tensor: torch.Tensor) -> int:
    """Where a tensor's memory begins: the same for its views and transposes."""
    return tensor.untyped_storage().data_ptr()
