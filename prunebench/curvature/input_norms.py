"""The norms of what each weight multiplies, for scores such as Wanda's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import input_rows
from prunebench.curvature.layer_sources import UNREACHED, Source, chunks_of, look, quiet_pass
from prunebench.curvature.products import Part, watching
from prunebench.networks.chosen import pattern_of
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import counted_positions, fetched


def input_norms(network: PrunableNetwork, samples: Samples, positions: IndexArray, batch: int) -> list[FloatArray]:
    """For every layer the norms of what its weights multiply, in the network as it is. float64 each

    (columns,) where all rows get the same inputs and lie in order; else (weights of the layer,). Padding does not
    count. Zero throughout for a layer that the samples do not reach.

    Parameters
    ----------
    batch : samples that go through the network at a time

    Raises
    ------
    InvalidInput   a layer whose inputs are not seen; the message names it and why
    """
    chunks = chunks_of(positions, batch)
    found = look(network, samples, chunks)
    unseen = [held for held in found.left if held.reason != UNREACHED]
    if unseen:
        names = [name for held in unseen for name in held.names]
        more = f" (nor for {len(names) - 1} more layers)" if len(names) > 1 else ""
        raise InvalidInput(
            f"the score 'wanda' has no input norms for layer {names[0].removesuffix('.weight')!r}{more}: it "
            f"{unseen[0].reason}; leave it out with --option exclude={pattern_of(names, network.names)}, or use a "
            "score made of gradients"
        )
    squares = _squares(network, samples, chunks, found.layers)
    return [np.sqrt(squares[layer.name]) if layer.name in squares else np.zeros(layer.size) for layer in network.layers]


def _squares(
    network: PrunableNetwork, samples: Samples, chunks: list[IndexArray], sources: tuple[Source, ...]
) -> dict[str, FloatArray]:
    """Sums of squares, in the shapes of `input_norms`."""
    model, device = network.model, next(network.model.parameters()).device
    tables = {source.parameter: source.table for source in sources if source.table is not None}
    called: dict[str, FloatArray] = {
        source.parameter: np.zeros(source.columns) for source in sources if source.table is None
    }
    by_part = {name: np.zeros((len(table.parts), table.places.shape[1])) for name, table in tables.items()}
    counted: torch.Tensor | None = None

    def note(source: Source) -> Callable[..., None]:
        def hook(module: Any, given: tuple[Any, ...], _output: Any) -> None:
            rows = input_rows(module, given[0].detach(), counted, layer=source.name)
            # A column's sum of squares in float32 chunks, added up in float64.
            called[source.parameter] += _column_squares(rows)

        return hook

    def take(part: Part, rows: torch.Tensor, _ordered: bool) -> None:
        if part not in tables[part.name].rows_of:
            raise InvalidInput(f"layer {part.name!r} is used in other pieces than before; leave it out with exclude=")
        if counted is not None and not bool(counted.all()):
            rows = rows[counted.reshape(-1).to(rows.device)]
        by_part[part.name][tables[part.name].rows_of[part][0]] += _column_squares(rows)

    hooks = [source.module.register_forward_hook(note(source)) for source in sources if source.module is not None]
    try:
        watched = {name: model.get_parameter(name) for name in tables}
        with quiet_pass(model), watching(watched, take, lambda *_: None):
            for chunk in chunks:
                inputs, targets = fetched(samples, chunk, device)
                counted = counted_positions(samples, targets)
                model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, table in tables.items():
        spread = np.repeat(by_part[name], [part.rows for part in table.parts], axis=0)
        called[name] = np.zeros(table.places.size)
        called[name][table.places] = spread
    return called


def _column_squares(rows: torch.Tensor) -> FloatArray:
    return np.asarray(rows.float().square().sum(dim=0, dtype=torch.float64).cpu().numpy())
