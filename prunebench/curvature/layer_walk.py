"""A network walked from its inputs to its outputs, layer by layer, with the layers behind already pruned.

Where the prunable layers sit in a chain of blocks (the decoder layers of a language model, the blocks
of a vision transformer), what enters the next block is kept for all samples, so that a block is run by
itself; elsewhere the network is run from its inputs up to the layer. No gradient is computed.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.coordinator import LeftDense
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import input_rows
from prunebench.curvature.layer_sources import Source, chunks_of, left_dense, look, quiet_pass
from prunebench.curvature.products import Part, watching
from prunebench.curvature.reach import Unreached, reached_by_inputs, unreached
from prunebench.networks.block_chain import Entered, Stop, find_chain
from prunebench.networks.chosen import Group, pattern_of
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import at_once, counted_positions, fetched

CHUNK_SAMPLES = 256
"""Samples in one forward pass: their layer inputs are held at once."""

SILENT = "gets nothing but zeros from the samples"
"""Why nothing is known of a layer that is used and multiplies nothing."""

MOST_NAMED = 3
"""Layers that an error lists with their reasons."""


@dataclass(frozen=True, eq=False)
class InputGrams:
    """What the inputs X of a group of layers, and those Y of the same layers in the dense network, say.

    gram : float64 (c, c)     X'X/n
    cross : float64 (c, c)    X'Y/n; the Gram itself where the dense network is not run
    drift : float64 (c, c)    (X − Y)'(X − Y)/n; zero where the dense network is not run
    count : input vectors seen, n
    """

    gram: FloatArray
    cross: FloatArray
    drift: FloatArray
    count: int


class LayerWalk:
    """The prunable layers in the order in which the network runs them, and their inputs.

    A layer is a table, (outputs, inputs of each), in one part or in several that get inputs of their own: groups
    of a convolution, experts, projections of attention.

    Parameters
    ----------
    network : written to by every call
    samples, positions : the calibration samples to be run
    dense : whether the dense network is run beside the pruned one; a second copy of the model is held then
    sources : of all layers of the network, where they have been looked for (`prunable_part`)

    Raises
    ------
    InvalidInput   no samples, or a prunable parameter whose inputs are not seen: `layer_sources.look`
    """

    def __init__(
        self,
        network: PrunableNetwork,
        samples: Samples,
        positions: IndexArray,
        *,
        dense: bool,
        sources: Sequence[Source] | None = None,
    ) -> None:
        if positions.size == 0:
            raise InvalidInput("there are no calibration samples; layer-wise pruning needs the layers' inputs")
        self.network = network
        self._samples = samples
        self._chunks = chunks_of(positions, at_once(samples, CHUNK_SAMPLES))
        self._dense_model = copy.deepcopy(network.model) if dense else None
        self._device = next(network.model.parameters()).device
        self._sources = require_seen(network, samples, self._chunks) if sources is None else tuple(sources)
        self.groups: tuple[tuple[int, ...], ...] = _grouped(self._sources)
        """Layers by position in network.layers, those with the same inputs together, in the order they are run."""
        names = [source.name for source in self._sources]
        self._chain = find_chain(network.model, names, lambda model: self._forward(model, self._chunks[0]))
        strays = self._strays() if self._chain else frozenset()
        self._block_of = [
            self._chain.block_of(names[group[0]]) if self._chain and group[0] not in strays else None
            for group in self.groups
        ]
        self._streams: list[list[Entered]] | None = None
        self._at = 0

    @property
    def blocks(self) -> int:
        """How many blocks are run by themselves; 0 where the network is run from its inputs every time."""
        return len(self._chain.names) if self._chain else 0

    def columns(self, layer: int) -> int:
        """How many inputs an output of a layer has."""
        return self._sources[layer].columns

    def part_rows(self, layer: int) -> tuple[int, ...]:
        """How many rows of a layer's table have the same inputs, part by part."""
        held = self._sources[layer].table
        whole = self.network.layers[layer].size // self.columns(layer)
        return (whole,) if held is None else tuple(part.rows for part in held.parts)

    def places(self, layer: int) -> IndexArray | None:
        """Where in the weight vector the table's weights are, int64 (rows, columns); None where they lie in order."""
        held, span = self._sources[layer].table, self.network.layers[layer]
        if held is None or np.array_equal(held.places.reshape(-1), np.arange(span.size)):
            return None
        return np.asarray(held.places + span.start)

    def inputs(self, group: int, weights: FloatArray) -> InputGrams:
        """The inputs of the only part of `groups[group]`: `part_inputs`."""
        return self.part_inputs(group, weights)[0]

    def part_inputs(self, group: int, weights: FloatArray) -> tuple[InputGrams, ...]:
        """The inputs of `groups[group]`, part by part, with the network at `weights`, float (p,).

        A part that no sample reaches (an expert, say) gets the mean of the others; its count is 0.

        Groups of a chain must be asked for in order; the weights of blocks behind must not change.

        Raises
        ------
        InvalidInput   the inputs hold NaN or infinity, or are zero throughout; the message names the layer
        """
        self.network.assign(weights)
        first = self.groups[group][0]
        parts, width = len(self.part_rows(first)), self.columns(first)
        kinds = 1 if self._dense_model is None else 3
        totals = torch.zeros((parts, kinds, width, width), dtype=torch.float64, device=self._device)
        counts = np.zeros(parts, dtype=np.int64)
        with quiet_pass(self.network.model):
            for found in self._rows(group):
                for part, rows in found[0].items():
                    _add(totals[part], rows, found[1].get(part) if len(found) > 1 else None, self._sources[first].name)
                    counts[part] += len(rows)
        return self._grams(self._sources[first].name, totals.cpu().numpy(), counts)

    def _grams(self, name: str, totals: FloatArray, counts: IndexArray) -> tuple[InputGrams, ...]:
        held = totals / np.maximum(counts, 1)[:, None, None, None]
        if not np.isfinite(held).all():
            raise InvalidInput(
                f"the inputs of layer {name!r} hold NaN or infinity; look for a diverged network or a broken sample"
            )
        if not held[:, 0].any():
            raise InvalidInput(
                f"layer {name!r} gets zeros only, so its inputs say nothing about any weight; prune the layers before "
                "it less, or use more samples"
            )
        silent = ~held[:, 0].any(axis=(1, 2))
        held[silent] = held[~silent].mean(axis=0)
        found = []
        for total, count in zip(held, np.where(silent, 0, counts), strict=True):
            cross, drift = (total[0], np.zeros_like(total[0])) if len(total) == 1 else total[1:]
            found.append(InputGrams(0.5 * (total[0] + total[0].T), cross, drift, int(count)))
        return tuple(found)

    def _strays(self) -> frozenset[int]:
        """Layers that are used in other blocks than their own: tied weights, uses by function."""
        assert self._chain is not None
        chain, model = self._chain, self.network.model
        watched = {
            source.parameter: (layer, model.get_parameter(source.parameter))
            for layer, source in enumerate(self._sources)
            if source.module is None
        }
        now: list[int | None] = [None]
        found: set[int] = set()

        def hook(block: int | None) -> Callable[..., None]:
            return lambda *_: now.__setitem__(0, block)

        def take(part: Part, _rows: torch.Tensor, _ordered: bool) -> None:
            layer = watched[part.name][0]
            if chain.block_of(self._sources[layer].name) != now[0]:
                found.add(layer)

        blocks = [model.get_submodule(name) for name in chain.names]
        handles = [block.register_forward_pre_hook(hook(number)) for number, block in enumerate(blocks)]
        handles += [block.register_forward_hook(hook(None)) for block in blocks]
        try:
            parameters = {name: item for name, (_, item) in watched.items()}
            with quiet_pass(model), watching(parameters, take, lambda *_: None):
                self._forward(model, self._chunks[0][:1])
        finally:
            for handle in handles:
                handle.remove()
        return frozenset(found)

    def _rows(self, group: int) -> Iterator[list[dict[int, torch.Tensor]]]:
        """For every chunk the group's inputs by part, and those of the dense network, float64 (n, c)."""
        block = self._block_of[group]
        if block is not None:
            self._advance(block)
        for number, chunk in enumerate(self._chunks):
            yield [
                self._caught(model, group, self._runner(model, stream, block, number, chunk), chunk)
                for model, stream in self._models()
            ]

    def _models(self) -> list[tuple[torch.nn.Module, int]]:
        models = [(self.network.model, 0)]
        return models if self._dense_model is None else [*models, (self._dense_model, 1)]

    def _runner(
        self, model: torch.nn.Module, stream: int, block: int | None, number: int, chunk: IndexArray
    ) -> Callable[[], None]:
        if block is None:
            return lambda: self._forward(model, chunk)
        assert self._chain is not None
        assert self._streams is not None
        chain, held = self._chain, self._streams[stream][number]
        return lambda: _discard(chain.run(model, block, held))

    def _caught(
        self, model: torch.nn.Module, group: int, run: Callable[[], None], chunk: IndexArray
    ) -> dict[int, torch.Tensor]:
        """The inputs that reach the group's layers while `run` runs, which is cut short after the last."""
        counted = counted_positions(self._samples, self._samples.batch(chunk)[1])
        source = self._sources[self.groups[group][0]]
        if source.module is None:
            return self._watched(model, source, run, counted)
        modules = dict(model.named_modules())
        names = [self._sources[layer].name for layer in self.groups[group]]
        expected = sum(len(self._sources[layer].calls) for layer in self.groups[group])
        seen, rows = 0, []

        def hook(name: str) -> Callable[..., None]:
            def catch(module: Any, inputs: tuple[Any, ...]) -> None:
                nonlocal seen
                seen += 1
                # layers of a group get the same inputs, so those of the first are enough
                if name == names[0]:
                    rows.append(input_rows(module, inputs[0].detach(), counted, layer=name).to(torch.float64))
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
        empty = torch.zeros((0, source.columns), dtype=torch.float64)
        return {0: torch.cat([empty.to(self._device), *(part.to(self._device) for part in rows)])}

    def _watched(
        self, model: torch.nn.Module, source: Source, run: Callable[[], None], counted: torch.Tensor | None
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
            found.setdefault(numbers[part][0], []).append(rows.to(self._device, torch.float64))

        def foreign(_name: str, operation: str) -> None:
            raise InvalidInput(f"the weight of layer {source.name!r} goes into {operation}; {_leave_out(source)}")

        with watching({source.parameter: model.get_parameter(source.parameter)}, take, foreign):
            run()
        return {number: torch.cat(rows) for number, rows in found.items()}

    def _advance(self, block: int) -> None:
        """Bring what enters `block` up to date, for all chunks and both networks."""
        assert self._chain is not None
        if self._streams is None or self._at > block:
            self._streams = [[self._entered(model, chunk) for chunk in self._chunks] for model, _ in self._models()]
            self._at = 0
        while self._at < block:
            for model, stream in self._models():
                for number, held in enumerate(self._streams[stream]):
                    self._streams[stream][number] = self._chain.passed(model, self._at, held)
            self._at += 1

    def _entered(self, model: torch.nn.Module, chunk: IndexArray) -> Entered:
        assert self._chain is not None
        return self._chain.entered(model, lambda: self._forward(model, chunk))

    def _forward(self, model: torch.nn.Module, chunk: IndexArray) -> None:
        inputs, _ = fetched(self._samples, chunk, self._device)
        model(inputs)


@dataclass(frozen=True, eq=False)
class PrunablePart:
    """What layer-wise pruning can prune of a network.

    network : the layers whose inputs are seen, and `sources` where
    unreached : which of their weights the samples do not reach
    left : the layers that are left dense
    """

    network: PrunableNetwork
    sources: tuple[Source, ...]
    unreached: Unreached
    left: tuple[LeftDense, ...]

    @property
    def columns(self) -> dict[str, int]:
        """How many weights an output row of each layer has."""
        return {source.parameter: source.columns for source in self.sources}


def prunable_part(
    network: PrunableNetwork, samples: Samples, positions: IndexArray, *, multiple: int = 0
) -> PrunablePart:
    """The layers whose inputs are seen and are not zero throughout, in rows of whole groups.

    Parameters
    ----------
    multiple : what the length of a layer's rows must be a multiple of; 0: any length will do

    Raises
    ------
    InvalidInput   no layer is left
    """
    seen = look(network, samples, chunks_of(positions, at_once(samples, CHUNK_SAMPLES)))
    reasons = {name: held.reason for held in seen.left for name in held.names}
    for source in seen.layers:
        if multiple and source.columns % multiple:
            reasons[source.parameter] = f"has {source.columns} inputs, no multiple of {multiple}"
    sources = _others(network, seen.layers, reasons)
    part = _narrowed(network, sources)
    reached = reached_by_inputs(part, samples, positions, sources)
    missed = unreached(part.layers, reached, positions.size)
    silent = [layer.name for layer in part.layers if not reached[layer.start : layer.stop].any()]
    if silent:
        reasons |= dict.fromkeys(silent, SILENT)
        sources = _others(network, sources, reasons)
        missed = Unreached(missed.samples, Group("layer", 0, 0, ()), missed.weights)
    return PrunablePart(_narrowed(network, sources), sources, missed, left_dense(network, reasons))


def _others(network: PrunableNetwork, sources: Sequence[Source], reasons: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources of the layers against which there is no reason; at least one.

    Raises
    ------
    InvalidInput   there is none
    """
    held = tuple(source for source in sources if source.parameter not in reasons)
    if not held:
        names = {name: why for name, why in reasons.items() if name in network.names}
        listed = "; ".join(f"{name!r} {why}" for name, why in list(names.items())[:MOST_NAMED])
        more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        raise InvalidInput(
            f"there is no layer whose inputs are seen, so layer-wise pruning has nothing to prune ({listed}{more}); "
            "use a coordinator of gradients: one-shot, multi-stage or icbs"
        )
    return held


def _narrowed(network: PrunableNetwork, sources: Sequence[Source]) -> PrunableNetwork:
    if len(sources) == len(network.layers):
        return network
    return PrunableNetwork(network.model, [source.parameter for source in sources])


def require_seen(network: PrunableNetwork, samples: Samples, chunks: Sequence[IndexArray]) -> tuple[Source, ...]:
    """Where the inputs of all the network's layers are seen.

    Raises
    ------
    InvalidInput   of one they are not; the message names it, why, and the pattern that leaves out all such layers
    """
    found = look(network, samples, chunks)
    if found.left:
        names = [name for held in found.left for name in held.names]
        more = f" (nor do those of {len(names) - 1} more layers)" if len(names) > 1 else ""
        raise InvalidInput(
            f"layer {names[0].removesuffix('.weight')!r} {found.left[0].reason}, so its inputs do not say what its "
            f"weights do{more}; leave it out of the prunable parameters: "
            f"--option exclude={pattern_of(names, network.names)}"
        )
    return found.layers


def _add(total: torch.Tensor, rows: torch.Tensor, dense: torch.Tensor | None, name: str) -> None:
    """Add a chunk's inputs to their Gram matrix, and where the dense network is run to `cross` and `drift`."""
    total[0].addmm_(rows.T, rows)
    if dense is None:
        return
    if dense.shape != rows.shape:
        raise InvalidInput(
            f"layer {name!r} gets {len(rows)} inputs in the pruned network and {len(dense)} in the "
            "dense one (experts that are routed to otherwise): use target=own"
        )
    total[1].addmm_(rows.T, dense)
    away = rows - dense
    total[2].addmm_(away.T, away)


def _grouped(sources: Sequence[Source]) -> tuple[tuple[int, ...], ...]:
    """Layers that get the same tensors and see them alike, in the order of the first call."""
    groups: dict[tuple[tuple[int, ...], tuple[str, ...]], list[int]] = {}
    for layer, source in enumerate(sources):
        groups.setdefault((source.calls, _geometry(source)), []).append(layer)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def _geometry(source: Source) -> tuple[str, ...]:
    """What decides, beside the input, which patches a layer sees."""
    if source.module is None:
        return ("product", source.parameter)
    if isinstance(source.module, torch.nn.Conv2d):
        held = source.module
        return tuple(str(part) for part in (held.kernel_size, held.stride, held.padding, held.dilation))
    return ()


def _leave_out(source: Source) -> str:
    return f"leave it out of the prunable parameters: --option exclude={source.parameter}"


def _discard(_result: Any) -> None:
    pass
