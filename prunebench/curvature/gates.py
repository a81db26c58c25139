"""Gates on groups of a network, and the gradient of every sample's loss by them.

A gate multiplies what a group feeds into the products that sum over it: at 0 the group is gone, exactly, and what fed
it is dead. So the curvature of a whole network in its groups needs one backward pass over one number a sample and
group, and not one over the weights of every sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.networks.samples import fetched
from prunebench.structure.families import LAYERS, Family
from prunebench.structure.trace import Coupling


@dataclass(frozen=True)
class Gate:
    """Where gates enter.

    operand : the value that is multiplied;  dim : by its indices in this dimension, (k, f) numbers of gates, the last
        number being a gate that is always open; one row for all indices where a whole branch has a gate
    batch : the dimension that holds the samples
    """

    operand: Node
    dim: int
    numbers: torch.Tensor
    batch: int


Losses = Callable[[Any, Any, IndexArray], Sequence[torch.Tensor]]
"""From outputs, targets and positions of s samples, their losses of one or several kinds. (s,) each"""


def gates_of(coupling: Coupling, families: Sequence[Family]) -> dict[Node, list[Gate]]:
    """By operation, the gates on what it takes.

    Raises
    ------
    InvalidInput   a value that a group feeds has no dimension of samples, so that a sample has no gate of its own
    """
    numbers = {base: k for k, base in enumerate(base for family in families for base in family.groups)}
    labels = coupling.walk.labels
    out: dict[Node, list[Gate]] = {}
    for product in coupling.walk.products:
        dims = coupling.walk.of(product.operand)
        found = [[numbers[b] for b in labels.bases(label) if b in numbers] for label in dims[product.dim]]
        width = max(map(len, found), default=0)
        if width == 0:
            continue
        batch = _batch(product.operand, product.node)
        padded = torch.tensor([bases + [len(numbers)] * (width - len(bases)) for bases in found])
        out.setdefault(product.node, []).append(Gate(product.operand, product.dim, padded, batch))
    for branch in coupling.branches:
        if branch.base in numbers:
            batch = _batch(branch.value, branch.total)
            gate = Gate(branch.value, int(batch == 0), torch.tensor([[numbers[branch.base]]]), batch)
            out.setdefault(branch.total, []).append(gate)
    return out


def _batch(operand: Node, node: Node) -> int:
    """Which dimension of a value holds the samples.

    Raises
    ------
    InvalidInput   none does
    """
    sizes = operand.meta["val"].shape
    batch = next((k for k, size in enumerate(sizes) if not isinstance(size, int)), None)
    if batch is None:
        raise InvalidInput(
            f"the value {operand.name} that {node.name} sums over has no dimension of samples; "
            "leave out the families that feed it"
        )
    return batch


class Gated(Interpreter):
    """Runs a network's graph with gates.

    gates : (s, groups), for the samples of the batch
    """

    def __init__(self, coupling: Coupling, families: Sequence[Family], gates: torch.Tensor) -> None:
        super().__init__(coupling.program)
        self._places = gates_of(coupling, families)
        self._gates = torch.cat([gates, gates.new_ones(len(gates), 1)], dim=1)

    def run_node(self, n: Node) -> Any:
        """One operation, what it takes multiplied with gates."""
        places = self._places.get(n)
        if places is None:
            return super().run_node(n)
        held = {place.operand: self.env[place.operand] for place in places}
        for place in places:
            self.env[place.operand] = self._through(place, self.env[place.operand])
        out = super().run_node(n)
        self.env.update(held)
        return out

    def _through(self, place: Gate, value: torch.Tensor) -> torch.Tensor:
        factors = self._gates[:, place.numbers.to(self._gates.device)].prod(dim=2).to(value.dtype)
        repeats = value.shape[place.batch] // len(factors)
        if repeats > 1:
            factors = factors.repeat_interleave(repeats, dim=0)
        if place.batch > place.dim:
            factors = factors.T
        sizes = [1] * value.ndim
        sizes[place.batch], sizes[place.dim] = value.shape[place.batch], len(place.numbers)
        return value * factors.reshape(sizes)


def gate_rows(
    coupling: Coupling,
    families: Sequence[Family],
    samples: Samples,
    positions: IndexArray,
    losses: Losses,
    *,
    batch_size: int = 50,
) -> FloatArray:
    """The gradients of every sample's losses by the gates, at all gates open. float64 (k·n, groups), loss by loss.

    Parameters
    ----------
    samples, positions : which;  losses : k of every sample, from one pass forward

    Raises
    ------
    InvalidInput   NaN or infinity
    """
    total = sum(family.size for family in families)
    device = next(coupling.program.parameters()).device
    parts: list[list[FloatArray]] = []
    for start in range(0, positions.size, batch_size):
        chosen = positions[start : start + batch_size]
        inputs, targets = fetched(samples, chosen, device)
        gates = torch.ones(len(chosen), total, device=device, requires_grad=True)
        found = losses(Gated(coupling, families, gates).run(inputs), targets, chosen)
        parts.append(
            [
                torch.autograd.grad(loss.sum(), gates, retain_graph=k + 1 < len(found))[0].double().cpu().numpy()
                for k, loss in enumerate(found)
            ]
        )
    rows = np.concatenate([part for of_loss in zip(*parts, strict=True) for part in of_loss])
    if not np.isfinite(rows).all():
        raise InvalidInput("gradients by the gates hold NaN or infinity; give a network whose losses are finite")
    return rows


def branch_rises(
    coupling: Coupling,
    families: Sequence[Family],
    samples: Samples,
    positions: IndexArray,
    losses: Callable[..., Sequence[torch.Tensor]],
    *,
    batch_size: int = 250,
) -> dict[int, float]:
    """By number of a gate on a whole residual branch: what the mean loss rises by where that branch alone is gone.

    A derivative says what a channel's last part is worth; a branch is far from being a small part, and there is but one
    number to measure. Cost: a forward pass a branch, and one without.

    Parameters
    ----------
    samples, positions : which
    losses : (outputs, targets, positions, dense outputs) -> several, (s,) each; their mean counts
    """
    total = sum(family.size for family in families)
    starts = np.cumsum([0, *(family.size for family in families)])
    branches = [int(start) for start, family in zip(starts, families, strict=False) if family.kind == LAYERS]
    sums = dict.fromkeys(branches, 0.0)
    device = next(coupling.program.parameters()).device

    def mean(outputs: Any, targets: Any, chosen: IndexArray, dense: Any) -> float:
        found = losses(outputs, targets, chosen, dense)
        return sum(float(loss.sum(dtype=torch.float64)) for loss in found) / len(found)

    with torch.no_grad():
        for start in range(0, positions.size if branches else 0, batch_size):
            chosen = positions[start : start + batch_size]
            inputs, targets = fetched(samples, chosen, device)
            gates = torch.ones(len(inputs), total, device=device)
            dense = Gated(coupling, families, gates).run(inputs)
            before = mean(dense, targets, chosen, dense)
            for number in branches:
                without = gates.clone()
                without[:, number] = 0.0
                outputs = Gated(coupling, families, without).run(inputs)
                sums[number] += mean(outputs, targets, chosen, dense) - before
    rises = {number: rise / positions.size for number, rise in sums.items()}
    if not all(map(np.isfinite, rises.values())):
        raise InvalidInput("without a branch the loss is NaN or infinity; leave layers out of --structure")
    return rises


def as_measured(rows: FloatArray, rises: Mapping[int, float]) -> FloatArray:
    """Rows whose ½ Σ of squares says of every branch what the loss was measured to rise by; others as they are.

    A branch without which the loss is lower costs nothing.
    """
    out = rows.copy()
    for number, rise in rises.items():
        square = float(np.sum(rows[:, number] ** 2))
        wanted = max(2.0 * rise, 0.0)
        if square > 0.0:
            out[:, number] *= np.sqrt(wanted / square)
        else:
            out[:, number] = np.sqrt(wanted / len(rows))
    return out
