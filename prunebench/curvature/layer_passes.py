"""Passes of a network over some of the samples, in which its layers' inputs are gathered and their products added up.

Whoever has a share of the samples has such passes: this process has one for all of them, a worker one for its share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import input_rows
from prunebench.curvature.layer_sources import Source, quiet_pass
from prunebench.curvature.paused_run import OutOfOrder, PausedRun
from prunebench.curvature.products import Part, watching
from prunebench.curvature.tree_sum import Node, TreeSum
from prunebench.networks.block_chain import Chain, Entered, Stop, hidden_of
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import counted_positions, fetched

SUMMED = 1024
"""Input vectors whose products are summed in float32, as they are; such sums are added up in float64."""


@dataclass(frozen=True, eq=False)
class Route:
    """What has been found out of a network before its passes: the same for every share of the samples.

    sources : of all prunable layers;  groups : layers that get the same tensors, in the order of the first call
    chain : the blocks that are run by themselves, by name, or ();  block_of : that of each group, None outside of them
    """

    sources: tuple[Source, ...]
    groups: tuple[tuple[int, ...], ...]
    chain: tuple[str, ...]
    block_of: tuple[int | None, ...]

    def parts(self, network: PrunableNetwork, layer: int) -> tuple[int, ...]:
        """How many rows of a layer's table have the same inputs, part by part."""
        held = self.sources[layer].table
        whole = network.layers[layer].size // self.sources[layer].columns
        return (whole,) if held is None else tuple(part.rows for part in held.parts)


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over input vectors: X'X by part and, where the dense network is run, X'(X − Y) and (X − Y)'(X − Y).

    totals : float64 (parts, 1 or 3, c, c);  counts : int64 (parts,), input vectors
    unpaired : int64 (parts,), those for which the dense network's vector is not known: Y is X there
    """

    totals: torch.Tensor
    counts: IndexArray
    unpaired: IndexArray

    def plus(self, other: "Products") -> "Products":
        """The sum of both, in this one's memory."""
        self.totals.add_(other.totals)
        return Products(self.totals, self.counts + other.counts, self.unpaired + other.unpaired)


class LayerPasses:
    """The network, and beside it the dense one if it is run, over chunks of samples.

    Parameters
    ----------
    network : at the weights where inputs are wanted, whenever they are
    chunks : int64 (s,) each, the samples that go through together
    first : the number of the first chunk among those of all shares
    dense_model : a copy with the dense weights, None where it is not run
    """

    def __init__(
        self,
        network: PrunableNetwork,
        samples: Samples,
        chunks: Sequence[IndexArray],
        route: Route,
        *,
        first: int = 0,
        dense_model: torch.nn.Module | None = None,
    ) -> None:
        self._runs: dict[tuple[int, int], PausedRun] = {}
        """Runs of the block at hand, by model and chunk, that stand before a group's layers."""
        self.network, self.route = network, route
        self._samples, self._chunks, self._first = samples, chunks, first
        self._dense_model = dense_model
        self._device = next(network.model.parameters()).device
        self._sources = route.sources
        self._chain = Chain(route.chain) if route.chain else None
        self._streams: list[list[Entered]] | None = None
        self._at = 0
        self._single = self._run_once()
        """Blocks that are run once for all their groups."""
        self._last = -1
        """The group that was asked for last."""

    def __del__(self) -> None:
        self._give_up()

    def sums(self, group: int) -> tuple[Node[Products], ...]:
        """The products of the inputs of `groups[group]`, chunk by chunk a term of the sum over all shares' chunks.

        Groups of a chain must be asked for in order; the weights of blocks behind must not change.

        Raises
        ------
        InvalidInput   a layer is used otherwise than before
        """
        layer = self.route.groups[group][0]
        parts, width = len(self.route.parts(self.network, layer)), self._sources[layer].columns
        kinds = 1 if self._dense_model is None else 3
        summed: TreeSum[Products] = TreeSum(Products.plus)
        with quiet_pass(self.network.model):
            for number, found in enumerate(self._rows(group)):
                totals = torch.zeros((parts, kinds, width, width), dtype=torch.float64, device=self._device)
                counts, unpaired = np.zeros((2, parts), dtype=np.int64)
                other = found[-1] if len(found) > 1 else None
                # experts that are routed to otherwise: which vector belongs to which cannot be told of any of them
                apart = other is not None and _shapes(other) != _shapes(found[0])
                for part, rows in found[0].items():
                    _add(totals[part], rows, None if other is None else rows if apart else other[part])
                    counts[part] += len(rows)
                    unpaired[part] += len(rows) if apart else 0
                summed.term(self._first + number, Products(totals, counts, unpaired))
        return summed.nodes

    def _rows(self, group: int) -> Iterator[list[dict[int, torch.Tensor]]]:
        """For every chunk the group's inputs by part, and those of the dense network, (n, c), as `as_product`."""
        block = self.route.block_of[group]
        if group <= self._last:
            self._give_up()
        if block is not None:
            self._advance(block)
        self._last = group
        for number, chunk in enumerate(self._chunks):
            yield [
                self._at_pause(model, stream, group, block, number)
                if block in self._single
                else self._caught(model, group, self._runner(model, stream, block, number, chunk), chunk)
                for model, stream in self._models()
            ]

    def _at_pause(
        self, model: torch.nn.Module, stream: int, group: int, block: int | None, number: int
    ) -> dict[int, torch.Tensor]:
        """The same of a block that is run once: its run goes on until it comes to the group's layers."""
        assert block is not None
        if (stream, number) not in self._runs:
            stops = {
                model.get_submodule(self._sources[layer].name): position
                for position, place in enumerate(self.route.block_of)
                if place == block
                for layer in self.route.groups[position]
            }
            self._runs[stream, number] = PausedRun(
                self._runner(model, stream, block, number, self._chunks[number]), stops
            )
        source, chunk = self._sources[self.route.groups[group][0]], self._chunks[number]
        try:
            given = self._runs[stream, number].until(group)
        except OutOfOrder:
            raise InvalidInput(
                f"layer {source.name!r} is called later than others for some samples and earlier for others; "
                f"{_leave_out(source)}"
            ) from None
        if given is None:
            return {}
        assert source.module is not None
        counted = counted_positions(self._samples, self._samples.batch(chunk)[1])
        return {0: as_product(input_rows(source.module, given, counted, layer=source.name)).to(self._device)}

    def _run_once(self) -> frozenset[int]:
        """Blocks all of whose layers are called once, at which their inputs are seen."""
        seen: dict[int, bool] = {}
        for group, block in zip(self.route.groups, self.route.block_of, strict=True):
            if block is not None:
                sources = [self._sources[layer] for layer in group]
                once = all(source.module is not None and len(source.calls) == 1 for source in sources)
                seen[block] = seen.get(block, True) and once
        return frozenset(block for block, once in seen.items() if once)

    def _give_up(self) -> None:
        """Close the runs that stand still."""
        runs, self._runs = self._runs, {}
        for run in runs.values():
            run.close()

    def _models(self) -> list[tuple[torch.nn.Module, int]]:
        models = [(self.network.model, 0)]
        return models if self._dense_model is None else [*models, (self._dense_model, 1)]

    def _runner(
        self, model: torch.nn.Module, stream: int, block: int | None, number: int, chunk: IndexArray
    ) -> Callable[[], Any]:
        if block is None:
            return lambda: self._forward(model, chunk)
        assert self._chain is not None
        assert self._streams is not None
        chain, held = self._chain, self._streams[stream][number]
        return lambda: chain.run(model, block, held)

    def _caught(
        self, model: torch.nn.Module, group: int, run: Callable[[], Any], chunk: IndexArray
    ) -> dict[int, torch.Tensor]:
        """The inputs that reach the group's layers while `run` runs, which is cut short after the last."""
        counted = counted_positions(self._samples, self._samples.batch(chunk)[1])
        source = self._sources[self.route.groups[group][0]]
        if source.module is None:
            return self._watched(model, source, run, counted)
        modules = dict(model.named_modules())
        names = [self._sources[layer].name for layer in self.route.groups[group]]
        expected = sum(len(self._sources[layer].calls) for layer in self.route.groups[group])
        seen, rows = 0, []

        def hook(name: str) -> Callable[..., None]:
            def catch(module: Any, inputs: tuple[Any, ...]) -> None:
                nonlocal seen
                seen += 1
                # layers of a group get the same inputs, so those of the first are enough
                if name == names[0]:
                    rows.append(input_rows(module, inputs[0].detach(), counted, layer=name))
                if seen == expected:
                    raise Stop

            return catch

        hooks = [modules[name].register_forward_pre_hook(hook(name)) for name in names]
        try:
            run()
        except Stop:
            pass
        finally:
            for handle in hooks:
                handle.remove()
        if not rows:
            return {}
        return {0: torch.cat([as_product(part).to(self._device) for part in rows])}

    def _watched(
        self, model: torch.nn.Module, source: Source, run: Callable[[], Any], counted: torch.Tensor | None
    ) -> dict[int, torch.Tensor]:
        """The same of a layer whose products are watched."""
        assert source.table is not None
        numbers = source.table.rows_of
        padded = counted is not None and not bool(counted.all())
        found: dict[int, list[torch.Tensor]] = {}

        def take(part: Part, rows: torch.Tensor, _ordered: bool) -> None:
            if part not in numbers:
                raise InvalidInput(f"layer {source.name!r} is used in other pieces than before; {_leave_out(source)}")
            if padded:
                assert counted is not None
                rows = rows[counted.reshape(-1).to(rows.device)]
            found.setdefault(numbers[part][0], []).append(as_product(rows).to(self._device))

        def foreign(_name: str, operation: str) -> None:
            raise InvalidInput(f"the weight of layer {source.name!r} goes into {operation}; {_leave_out(source)}")

        with watching({source.parameter: model.get_parameter(source.parameter)}, take, foreign):
            run()
        return {number: torch.cat(rows) for number, rows in found.items()}

    def _advance(self, block: int) -> None:
        """Bring what enters `block` up to date, for all chunks and both networks."""
        assert self._chain is not None
        if self._streams is None or self._at > block:
            self._give_up()
            self._streams = [[self._entered(model, chunk) for chunk in self._chunks] for model, _ in self._models()]
            self._at = 0
        while self._at < block:
            for model, stream in self._models():
                for number, held in enumerate(self._streams[stream]):
                    run = self._runs.pop((stream, number), None)
                    if run is None:
                        self._streams[stream][number] = self._chain.passed(model, self._at, held)
                    else:
                        self._streams[stream][number] = Entered(hidden_of(run.result()).detach(), held.others)
            self._at += 1

    def _entered(self, model: torch.nn.Module, chunk: IndexArray) -> Entered:
        assert self._chain is not None
        return self._chain.entered(model, lambda: self._forward(model, chunk))

    def _forward(self, model: torch.nn.Module, chunk: IndexArray) -> None:
        inputs, _ = fetched(self._samples, chunk, self._device)
        model(inputs)


def _shapes(rows: Mapping[int, torch.Tensor]) -> dict[int, torch.Size]:
    return {part: held.shape for part, held in rows.items()}


def _add(total: torch.Tensor, rows: torch.Tensor, dense: torch.Tensor | None) -> None:
    """Add a chunk's inputs to their Gram matrix, and where the dense network is run to `apart` and `drift`."""
    for start in range(0, len(rows), SUMMED):
        part = rows[start : start + SUMMED]
        total[0] += product(part, part)
        if dense is not None:
            away = part - dense[start : start + SUMMED]
            total[1] += product(part, away)
            total[2] += product(away, away)


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """first'second in their own precision. (n, c), (n, c) -> (c, c). Half the work where both are the same."""
    if first.device.type != "cpu":
        return first.T @ second
    left = first.numpy()
    # numpy computes one triangle of a matrix times its own transpose
    return torch.from_numpy(left.T @ (left if second is first else second.numpy()))


def as_product(rows: torch.Tensor) -> torch.Tensor:
    """Inputs in the precision in which they are multiplied: float32, or float64 where they have that."""
    return rows if rows.dtype == torch.float64 else rows.to(torch.float32)


def _leave_out(source: Source) -> str:
    return f"leave it out of the prunable parameters: --option exclude={source.parameter}"
