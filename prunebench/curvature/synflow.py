"""Layers' densities where weights go by their synaptic flow: what a rule for weights says of the widths of layers."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.func import functional_call

from prunebench.core.errors import InvalidInput
from prunebench.structure.resize import State, state_of
from prunebench.structure.trace import Coupling

ROUNDS = 100
"""Rounds of pruning down to `LEAST`, each with new scores: as the paper has it."""

LEAST = 0.001
"""The part of the weights that the last round leaves: sparser than any budget of groups asks for."""


def flow_densities(coupling: Coupling) -> Iterator[Mapping[str, float]]:
    """By weight, the part of it that is left after every round. No data is used.

    The scores are |θ ∂R/∂θ|, R being the sum of all outputs for an input of ones with absolute values in place of all
    parameters; the least go, from all layers together, some in every round (Tanaka et al.: Pruning Neural Networks
    without Any Data by Iteratively Conserving Synaptic Flow, 2020). Batch norms have mean 0 and variance 1, as before
    training.

    Raises
    ------
    InvalidInput   inputs that are no real numbers, or a flow that overflows
    """
    inputs = torch.utils._pytree.tree_map(_ones, coupling.example)
    state: State = {}
    for name, tensor in state_of(coupling).items():
        held = tensor.detach().double().abs() if tensor.is_floating_point() else tensor
        last = name.rpartition(".")[2]
        state[name] = torch.zeros_like(held) if last == "running_mean" else held
        state[name] = torch.ones_like(held) if last == "running_var" else state[name]
    trained = {name for name, _ in coupling.program.named_parameters()}
    weights = [name for name in state if name in trained and state[name].ndim > 1]
    masks = {name: torch.ones_like(state[name]) for name in weights}
    total = sum(mask.numel() for mask in masks.values())
    for step in range(ROUNDS + 1):
        yield {name: float(mask.mean()) for name, mask in masks.items()}
        scores = _scores(coupling, state, masks, inputs)
        keep = max(1, round(total * LEAST ** (min(step + 1, ROUNDS) / ROUNDS)))
        every = torch.cat([scores[name].flatten() for name in weights])
        # the largest stay; of equal ones the first, so that the number is exact
        alive = torch.zeros_like(every)
        alive[torch.argsort(every, descending=True, stable=True)[:keep]] = 1.0
        start = 0
        for name in weights:
            size = masks[name].numel()
            masks[name] = alive[start : start + size].reshape(masks[name].shape)
            start += size


def _ones(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    if not value.is_floating_point():
        raise InvalidInput("allocation precropping sends ones through the network, and its inputs are whole numbers")
    return torch.ones_like(value[:2], dtype=torch.float64)


def _scores(coupling: Coupling, state: State, masks: State, inputs: object) -> State:
    held = {name: (state[name] * mask).requires_grad_() for name, mask in masks.items()}
    with torch.enable_grad():
        outputs = functional_call(coupling.program, {**state, **held}, (inputs,))
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
        flow = torch.stack([leaf.sum() for leaf in leaves if leaf.is_floating_point()]).sum()
        found = torch.autograd.grad(flow, list(held.values()), allow_unused=True)
    out = {}
    for name, slope in zip(held, found, strict=True):
        value = held[name].detach() * (0.0 if slope is None else slope)
        if not np.isfinite(float(value.sum())):
            raise InvalidInput("allocation precropping: the synaptic flow overflows float64 in this network")
        out[name] = value.abs()
    return out
