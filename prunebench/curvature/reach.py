"""Which weights no sample reaches: no gradient comes to them, or nothing but zeros, so that only the ridge decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, Factor, IndexArray, row_chunks
from prunebench.core.problem import Samples
from prunebench.core.quadratic import QuadraticForm
from prunebench.curvature.gradient_check import own_gradients
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.layer_sources import Source, look, quiet_pass
from prunebench.curvature.products import Part, watching
from prunebench.networks.chosen import Group, group
from prunebench.networks.network import Layer, PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, fetched

BATCH = 256
"""Samples that are run together."""


@dataclass(frozen=True)
class Unreached:
    """What of a network no sample reaches.

    samples : how many were looked at
    layers : the layers none of whose weights is reached
    weights : of other layers, how many weights are not, by name
    """

    samples: int
    layers: Group
    weights: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        return asdict(self)


def unreached(layers: Sequence[Layer], reached: BoolArray, samples: int) -> Unreached:
    """Sorted by layers.

    Parameters
    ----------
    reached : bool (p,);  samples : how many were looked at
    """
    missed = {layer.name: int((~reached[layer.start : layer.stop]).sum()) for layer in layers}
    sizes = {layer.name: layer.size for layer in layers}
    whole = {name: count for name, count in missed.items() if count == sizes[name]}
    parts = {name: count for name, count in missed.items() if count and name not in whole}
    return Unreached(samples, group("layer", whole), parts)


def reached_by_form(form: QuadraticForm) -> BoolArray:
    """Which weights have any curvature of their own beside the ridge. bool (p,)"""
    if form.factor is not None:
        return nonzero_columns(form.factor)
    assert form.hessian is not None
    return np.asarray(form.hessian.diagonal() != 0.0)


def nonzero_columns(factor: Factor) -> BoolArray:
    """Which columns hold anything but zeros. (n, p) -> bool (p,)"""
    out = np.zeros(factor.shape[1], dtype=np.bool_)
    for rows in row_chunks(factor):
        out |= (factor[rows] != 0).any(axis=0)
    return out


def reached_by_gradients(network: PrunableNetwork, loss: Loss, samples: Samples, positions: IndexArray) -> BoolArray:
    """Which weights get a gradient from batches of the samples. bool (p,)"""
    out = np.zeros(network.total, dtype=np.bool_)
    device, step = next(network.model.parameters()).device, at_once(samples, BATCH)
    with evaluation_mode(network.model), torch.random.fork_rng(devices=[]):
        for start in range(0, positions.size, step):
            batch = fetched(samples, positions[start : start + step], device)
            found = own_gradients(network, loss, batch, network.names)
            for layer in network.layers:
                out[layer.start : layer.stop] |= (found[layer.name] != 0).reshape(-1).cpu().numpy()
    return out


def reached_by_inputs(
    network: PrunableNetwork, samples: Samples, positions: IndexArray, sources: Sequence[Source] | None = None
) -> BoolArray:
    """Which weights multiply anything but zeros in the network as it is. bool (p,)

    Of a convolution that is seen as it is called whole input channels are looked at.

    Parameters
    ----------
    sources : where the inputs of layers are seen; looked for if None, and layers without count as not reached
    """
    if sources is None:
        sources = look(network, samples, [positions]).layers
    out = np.zeros(network.total, dtype=np.bool_)
    model = network.model
    spans = {layer.name: layer for layer in network.layers}
    tables = {source.parameter: source.table for source in sources if source.table is not None}

    def note(layer: Layer) -> Callable[..., None]:
        def hook(_module: Any, given: tuple[Any, ...]) -> None:
            features = given[0].ndim - (3 if len(layer.shape) == 4 else 1)
            others = [axis for axis in range(given[0].ndim) if axis != features]
            seen = (given[0] != 0).sum(dim=others).cpu().numpy() > 0
            table = out[layer.start : layer.stop].reshape(layer.shape[0], len(seen), -1)
            table |= seen[None, :, None]

        return hook

    def take(part: Part, rows: torch.Tensor, _ordered: bool) -> None:
        table = tables[part.name]
        if part in table.rows_of:
            seen = (rows != 0).any(dim=0).cpu().numpy()
            out[spans[part.name].start + table.places[table.rows_of[part][1], seen].reshape(-1)] = True

    handles = [
        source.module.register_forward_pre_hook(note(spans[source.parameter]))
        for source in sources
        if source.module is not None
    ]
    device, step = next(model.parameters()).device, at_once(samples, BATCH)
    watched = {name: model.get_parameter(name) for name in tables}
    try:
        with quiet_pass(model), watching(watched, take, lambda *_: None):
            for start in range(0, positions.size, step):
                model(fetched(samples, positions[start : start + step], device)[0])
    finally:
        for handle in handles:
            handle.remove()
    return out
