"""A network walked from its inputs to its outputs, layer by layer, with the layers behind already pruned.

Where the prunable layers sit in a chain of blocks (the decoder layers of a language model, the blocks
of a vision transformer), what enters the next block is kept for all samples, so that a block is run by
itself; elsewhere the network is run from its inputs up to the layer. No gradient is computed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray, RealArray
from prunebench.core.coordinator import LeftDense
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.layer_passes import LayerPasses, Products, Route
from prunebench.curvature.layer_sources import Source, chunks_of, left_dense, look, quiet_pass
from prunebench.curvature.products import Part, watching
from prunebench.curvature.reach import Unreached, reached_by_inputs, unreached
from prunebench.curvature.shared_passes import PASSES, SharedPasses
from prunebench.curvature.tree_sum import TreeSum
from prunebench.networks.block_chain import Chain, find_chain
from prunebench.networks.chosen import Group, pattern_of
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import at_once, fetched

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
    apart : float64 (c, c)    X'(X − Y)/n; None where the dense network is not run
    drift : float64 (c, c)    (X − Y)'(X − Y)/n; zero where the dense network is not run
    count : input vectors seen, n;  unpaired : those for which the dense network's is not known, and Y is X
    """

    gram: FloatArray
    apart: FloatArray | None
    drift: FloatArray
    count: int
    unpaired: int = 0


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
        self._last = -1
        """The group that was asked for last."""
        self._route = self._found_route()
        self._passes = self._shared(positions.size) or LayerPasses(
            network, samples, self._chunks, self._route, dense_model=self._dense_model
        )

    @property
    def blocks(self) -> int:
        """How many blocks are run by themselves; 0 where the network is run from its inputs every time."""
        return len(self._route.chain)

    def columns(self, layer: int) -> int:
        """How many inputs an output of a layer has."""
        return self._sources[layer].columns

    def part_rows(self, layer: int) -> tuple[int, ...]:
        """How many rows of a layer's table have the same inputs, part by part."""
        return self._route.parts(self.network, layer)

    def places(self, layer: int) -> IndexArray | None:
        """Where in the weight vector the table's weights are, int64 (rows, columns); None where they lie in order."""
        held, span = self._sources[layer].table, self.network.layers[layer]
        if held is None or np.array_equal(held.places.reshape(-1), np.arange(span.size)):
            return None
        return np.asarray(held.places + span.start)

    def inputs(self, group: int, weights: RealArray) -> InputGrams:
        """The inputs of the only part of `groups[group]`: `part_inputs`."""
        return self.part_inputs(group, weights)[0]

    def part_inputs(self, group: int, weights: RealArray) -> tuple[InputGrams, ...]:
        """The inputs of `groups[group]`, part by part, with the network at `weights`, float (p,).

        A part that no sample reaches (an expert, say) gets the mean of the others; its count is 0.

        Groups of a chain must be asked for in order. Between two calls in order only weights of the groups from the
        first of the two to before the second may change: no others are written to the network.

        Raises
        ------
        InvalidInput   the inputs hold NaN or infinity, or are zero throughout; the message names the layer
        """
        if 0 <= self._last < group:
            self.network.assign(weights, [layer for held in self.groups[self._last : group] for layer in held])
        else:
            self.network.assign(weights)
        self._last = group
        summed: TreeSum[Products] = TreeSum(Products.plus)
        summed.take(self._passes.sums(group))
        found = summed.total()
        return self._grams(self._sources[self.groups[group][0]].name, found)

    def _grams(self, name: str, products: Products) -> tuple[InputGrams, ...]:
        held, counts = products.totals.cpu().numpy(), products.counts
        held /= np.maximum(counts, 1)[:, None, None, None]
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
        if silent.any():
            held[silent] = held[~silent].mean(axis=0)
        found = []
        for total, count, unpaired in zip(held, np.where(silent, 0, counts), products.unpaired, strict=True):
            gram = total[0]
            gram += gram.T
            gram *= 0.5
            apart, drift = (None, np.broadcast_to(0.0, gram.shape)) if len(total) == 1 else total[1:]
            found.append(InputGrams(gram, apart, drift, int(count), int(unpaired)))
        return tuple(found)

    def _shared(self, samples: int) -> SharedPasses | None:
        """The passes by workers, None where there are none or this process does them sooner."""
        sharing, models = self.network.sharing, 1 if self._dense_model is None else 2
        if sharing is None:
            return None
        sizes = [len(self.part_rows(group[0])) * self.columns(group[0]) ** 2 for group in self.groups]
        result = 8.0 * (1 if models == 1 else 3) * sum(sizes) * sharing.width
        if not sharing.pays(self.network, PASSES * models * samples, result):
            return None
        return SharedPasses(sharing, self.network, self._samples, self._chunks, self._route, self._dense_model)

    def _found_route(self) -> Route:
        """The blocks that can be run by themselves, and which groups of layers lie within one."""
        names = [source.name for source in self._sources]
        chain = find_chain(self.network.model, names, lambda model: self._forward(model, self._chunks[0]))
        strays = self._strays(chain) if chain else frozenset()
        block_of = [
            chain.block_of(names[group[0]]) if chain and group[0] not in strays else None for group in self.groups
        ]
        return Route(self._sources, self.groups, chain.names if chain else (), tuple(block_of))

    def _strays(self, chain: Chain) -> frozenset[int]:
        """Layers that are used in other blocks than their own: tied weights, uses by function."""
        model = self.network.model
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
    held = PrunableNetwork(network.model, [source.parameter for source in sources])
    held.sharing = network.sharing
    return held


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
