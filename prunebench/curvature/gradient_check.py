"""Whether a fast way of computing sample gradients gives what plain autograd gives, looked at before it is used.

The fast ways assume something of the network: that a weight is used by calling its layer, that samples keep
apart in a batch, that parameters are where the module says. What breaks it shows in no shape and raises no
error, so a few samples are computed both ways, once for each network and process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.finite import cause
from prunebench.curvature.gradient_work import Loss, one_a_sample
from prunebench.curvature.linear_passes import checkpointed, frozen
from prunebench.networks.network import PrunableNetwork, call_with, evaluation_mode
from prunebench.networks.samples import at_once, fetched

CANDIDATES = 64
"""Samples whose losses are compared to choose the few; fewer where the samples go through in smaller batches."""

CHECKED = 3
"""Samples that are computed both ways: one may by chance not come by where a network branches or routes."""

TOLERANCE = 1e-3
"""Of a layer's gradient the part (of its norm) by which the two ways may differ. In float32 they differ by 1e-7 to
1e-5, rounding in another order; a use that is missed changes percents."""

TOLERANCE_HALF = 0.1
"""The same where weights have 16 bits, whose rounding (4e-3 in bfloat16) adds up over the layers."""

QUIET = 1e-3
"""Gradients smaller than this part of the largest, among layers and samples, are measured against that part instead:
what is left of them is rounding of the others."""


@dataclass
class Checked:
    """How a network's sample gradients are computed, and what was looked at before.

    way : "outer products", "layer passes", "vectorised", "one by one"
    samples : how many were computed both ways;  error : the largest relative difference among the layers
    rejected : ways that apply to the network and were found wrong or impossible, with the reason
    """

    way: str
    samples: int = 0
    error: float = 0.0
    rejected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """By how much two ways differ, relative to a layer's gradient, and in which layer."""

    error: float
    layer: str
    tolerance: float

    @property
    def small(self) -> bool:
        """Whether it may be rounding."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"off by {100 * self.error:.3g} % in {self.layer!r}"


def hardest(network: PrunableNetwork, loss: Loss, samples: Samples, positions: IndexArray) -> IndexArray:
    """The samples that are computed both ways: of a batch spread over `positions` those of the largest loss.

    A sample that the network is sure of has a gradient that is rounding of nearly equal numbers, and no
    two ways agree on it. int64 (up to CHECKED,)
    """
    count = min(CANDIDATES, max(CHECKED, at_once(samples, CANDIDATES)), positions.size)
    tried = positions[np.linspace(0, positions.size - 1, count).astype(np.int64)]
    device, parts = next(network.model.parameters()).device, []
    with evaluation_mode(network.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for part in tried[:, None] if at_once(samples, count) == 1 else [tried]:
            inputs, targets = fetched(samples, part, device)
            parts.append(one_a_sample(loss(network.model(inputs), targets), len(inputs)))
    losses = torch.cat(parts)
    # NaN counts as the largest: the sample is then refused by name.
    order = torch.argsort(losses.detach().float().nan_to_num(nan=torch.inf).cpu(), descending=True, stable=True)
    return np.sort(tried[order[:CHECKED].numpy()])


def true_gradients(
    network: PrunableNetwork,
    loss: Loss,
    samples: Samples,
    positions: IndexArray,
    names: Sequence[str] | None = None,
    *,
    recompute: bool = False,
) -> list[dict[str, torch.Tensor]]:
    """Each sample's gradients by plain autograd through the model's own parameters, wherever they are used.

    Parameters
    ----------
    names : of the parameters whose gradients are wanted; all prunable ones if None
    recompute : keep no activations inside the model's repeated blocks

    Raises
    ------
    InvalidInput   an empty sample, a loss or a gradient that is NaN or infinite; the message names sample and layer
    """
    wanted = list(network.names if names is None else names)
    out = []
    for position in positions:
        batch = fetched(samples, np.array([position]), next(network.model.parameters()).device)
        with torch.random.fork_rng(devices=[]), evaluation_mode(network.model):
            torch.manual_seed(0)
            gradients = own_gradients(network, loss, batch, wanted, recompute=recompute)
        for name, part in gradients.items():
            if not bool(torch.isfinite(part).all()):
                raise InvalidInput(
                    f"the gradient of layer {name!r} is NaN or infinite at sample {position}: "
                    f"{cause(network, loss, samples, position).text}"
                )
        out.append(gradients)
    return out


def own_gradients(
    network: PrunableNetwork,
    loss: Loss,
    batch: tuple[torch.Tensor, torch.Tensor],
    names: Sequence[str],
    *,
    recompute: bool = False,
) -> dict[str, torch.Tensor]:
    """The gradients of a batch's mean loss by the model's own parameters; nothing of the model is changed."""
    model = network.model
    parameters = [model.get_parameter(name) for name in names]
    # Cloned: a forward pass may write into buffers.
    buffers = {name: item.detach().clone() for name, item in model.named_buffers()}
    with frozen(model), checkpointed(model, recompute), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        losses = one_a_sample(loss(call_with(model, buffers, batch[0]), batch[1]), len(batch[0]))
        if not losses.requires_grad:
            return {name: torch.zeros_like(item) for name, item in zip(names, parameters, strict=True)}
        found = torch.autograd.grad(losses.mean(), parameters, materialize_grads=True)
    return {name: part.detach() for name, part in zip(names, found, strict=True)}


def difference(
    found: Sequence[Mapping[str, torch.Tensor]], true: Sequence[Mapping[str, torch.Tensor]], *, half: bool
) -> Difference:
    """The largest difference of a layer's gradients, of any sample.

    Parameters
    ----------
    found, true : each sample's gradients by layer
    half : whether weights have 16 bits
    """
    worst, where = 0.0, ""
    norms = [{name: _norm(part) for name, part in right.items()} for right in true]
    floor = QUIET * max((norm for held in norms for norm in held.values()), default=0.0)
    for mine, right, held in zip(found, true, norms, strict=True):
        for name, part in right.items():
            away = _norm(mine[name].to(part.device).reshape(part.shape).double() - part.double())
            scale = max(held[name], floor)
            error = away / scale if scale else (0.0 if away == 0.0 else float("inf"))
            if not error <= worst:
                worst, where = error, name
    return Difference(worst, where, TOLERANCE_HALF if half else TOLERANCE)


def in_half(network: PrunableNetwork) -> bool:
    """Whether a parameter of the model has 16 bits."""
    return any(item.is_floating_point() and item.element_size() < 4 for item in network.model.parameters())


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
