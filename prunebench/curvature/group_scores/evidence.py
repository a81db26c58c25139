"""What scores of groups look at: the network's graph, its families, and the samples that gates have too."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.gates import branch_rises
from prunebench.curvature.gradient_work import Loss
from prunebench.networks.samples import fetched
from prunebench.structure.families import Family
from prunebench.structure.resize import State, state_of
from prunebench.structure.trace import Coupling
from prunebench.structure.walk import Product, bound, name_of

BATCH = 50
"""Samples that go through the network at a time, as for gates."""

Member = tuple[str, int]
"""A parameter and one of its dimensions."""


Labels = Callable[[Any, Any, IndexArray], Sequence[Any]]
"""From outputs, targets and positions of s samples, what they are to be: once for every draw of labels."""


def own_targets(_outputs: Any, targets: Any, _positions: IndexArray) -> Sequence[Any]:
    """The samples' own targets as their only labels."""
    return [targets]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a score may look at.

    coupling : the network;  families : whose groups are scored
    samples, positions : the calibration samples, and which of them
    labels : of these samples, once for every draw;  loss : (outputs, labels) -> (s,)
    shares : from outputs, what every label of a sample counts, adding up to 1; None where all count the same
    seed : of what is drawn
    """

    coupling: Coupling
    families: Sequence[Family]
    samples: Samples
    positions: IndexArray
    loss: Loss
    labels: Labels = own_targets
    shares: Callable[[Any], Sequence[torch.Tensor]] | None = None
    seed: int = 0

    @property
    def groups(self) -> int:
        """How many groups all families have."""
        return sum(family.size for family in self.families)

    def state(self) -> State:
        """Parameters and buffers by name, not copies."""
        return state_of(self.coupling)

    def losses(self, outputs: Any, targets: Any, positions: IndexArray) -> list[torch.Tensor]:
        """The samples' losses, (s,) for every draw of labels; their mean is what is expected of them."""
        return self._weighted(outputs, outputs, targets, positions, 1.0)

    def roots(self, outputs: Any, targets: Any, positions: IndexArray) -> list[torch.Tensor]:
        """Losses whose gradients' mean outer product is what is expected of it, (s,) for every draw of labels."""
        return self._weighted(outputs, outputs, targets, positions, 0.5)

    def _weighted(
        self, outputs: Any, seen: Any, targets: Any, positions: IndexArray, power: float
    ) -> list[torch.Tensor]:
        """Losses of outputs at the labels that others have, by their shares to a power."""
        losses = [self.loss(outputs, held) for held in self.labels(seen, targets, positions)]
        if self.shares is None:
            return losses
        return [(len(losses) * share) ** power * loss for share, loss in zip(self.shares(seen), losses, strict=True)]

    def rises(self) -> dict[int, float]:
        """What the loss rises by where a whole residual branch is gone: `prunebench.curvature.gates.branch_rises`."""

        def losses(outputs: Any, targets: Any, positions: IndexArray, dense: Any) -> list[torch.Tensor]:
            return self._weighted(outputs, dense, targets, positions, 1.0)

        return branch_rises(self.coupling, self.families, self.samples, self.positions, losses)

    def batches(self) -> Iterator[tuple[Any, Any, IndexArray]]:
        """Inputs, targets and positions, some samples at a time."""
        device = next(self.coupling.program.parameters()).device
        for start in range(0, self.positions.size, BATCH):
            chosen = self.positions[start : start + BATCH]
            inputs, targets = fetched(self.samples, chosen, device)
            yield inputs, targets, chosen


def split(values: FloatArray, families: Sequence[Family]) -> list[FloatArray]:
    """By family, from (groups,)."""
    return np.split(values, np.cumsum([family.size for family in families])[:-1])


def per_group(values: FloatArray, indices: Sequence[IndexArray]) -> FloatArray:
    """The sum over each group's indices of a dimension. (size,) -> (groups of the family,)"""
    return np.array([values[index].sum() for index in indices])


def along(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """A tensor as a float64 matrix whose rows are the indices of one dimension."""
    return tensor.detach().double().movedim(dim, 0).reshape(tensor.shape[dim], -1)


def inner_dim(node: Node) -> int:
    """Which dimension of its weight a product sums over."""
    kind = name_of(node)
    if kind.startswith("conv_transpose"):
        return 0
    if kind == "linear" or kind.startswith("conv"):
        return 1
    return -2


def summed(coupling: Coupling) -> Mapping[Member, Product]:
    """By weight and the dimension of it that is summed over, where that is done."""
    out: dict[Member, Product] = {}
    for product in coupling.walk.products:
        name = coupling.tied.get(product.weight, product.weight)
        if name in coupling.parameters:
            out[name, inner_dim(product.node) % len(coupling.parameters[name])] = product
    return out


def filters(coupling: Coupling, family: Family, score: str) -> list[Member]:
    """The weights that make a family's groups: rows of theirs, not of what reads them.

    Raises
    ------
    InvalidInput   there are none
    """
    read = summed(coupling)
    found = [member for member in family.members if len(coupling.parameters[member[0]]) > 1 and member not in read]
    if not found:
        raise InvalidInput(f"score {score}: no weights make the groups of {family.label}; take another score")
    return found


def norms(coupling: Coupling) -> dict[str, str]:
    """By name of the weight of a normalisation, its operation."""
    out = {}
    for node in coupling.program.graph.nodes:
        if node.op == "call_function" and "norm" in name_of(node):
            weight = bound(node).get("weight")
            if isinstance(weight, Node) and weight.op == "get_attr":
                name = str(weight.target)
                out[coupling.tied.get(name, name)] = name_of(node)
    return out
