"""How far one network's outputs are from another's."""

from typing import Any

import torch


def divergence(found: Any, aimed: Any, temperature: float = 1.0) -> torch.Tensor:
    """The mean of `divergences`."""
    return divergences(found, aimed, temperature).mean()


def divergences(found: Any, aimed: Any, temperature: float = 1.0) -> torch.Tensor:
    """T²·KL(softmax(aimed/T) ‖ softmax(found/T)) of every row; scores are in the last dimension. (…,)"""
    (ours, theirs) = (torch.log_softmax(_floating(value)[0].float() / temperature, dim=-1) for value in (found, aimed))
    rows: torch.Tensor = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    return temperature**2 * rows


def squared(found: Any, aimed: Any) -> torch.Tensor:
    """The mean squared difference, summed over all tensors of the outputs."""
    parts = [((a - b) ** 2).mean() for a, b in zip(_floating(found), _floating(aimed), strict=True)]
    return torch.stack(parts).sum()


def _floating(outputs: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
