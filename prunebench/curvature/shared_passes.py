"""The passes of a layer-wise walk by workers: each keeps what its chunks' samples are between blocks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.problem import Samples
from prunebench.curvature.activations import checked_linear
from prunebench.curvature.layer_passes import LayerPasses, Products, Route
from prunebench.curvature.layer_sources import Source
from prunebench.curvature.layer_tables import Table
from prunebench.curvature.sent import Piece, SentSamples, pieces_of
from prunebench.curvature.share_worker import Held
from prunebench.curvature.sharing import Job, Need, Sharing, spans, without_hooks
from prunebench.curvature.sync import Change, apply, differences
from prunebench.curvature.tree_sum import Node, TreeSum
from prunebench.networks.network import PrunableNetwork

PASSES = 2.0
"""Forward passes that a sample is worth in each network that is run: one, and its products, about as many operations as
another."""


@dataclass(frozen=True, eq=False)
class SentSource:
    """A `Source` without its module, which the other side has."""

    parameter: str
    calls: tuple[int, ...]
    table: Table | None


SentNodes = list[tuple[int, int, FloatArray, IndexArray]]
"""Nodes of a sum as workers answer them: start, size, totals and counts."""


class SharedPasses:
    """As `LayerPasses` of all chunks, by workers.

    Parameters
    ----------
    chunks : int64 (s,) each, the samples that go through together
    dense_model : a copy with the dense weights, None where it is not run
    """

    def __init__(
        self,
        sharing: Sharing,
        network: PrunableNetwork,
        samples: Samples,
        chunks: Sequence[IndexArray],
        route: Route,
        dense_model: torch.nn.Module | None,
    ) -> None:
        self._sharing, self._network, self._route = sharing, network, route
        self._samples, self._chunks, self._dense_model = samples, chunks, dense_model
        # how often a share is cut must not change while workers keep what they have of it
        self._spans = spans(len(chunks), sharing.width)
        self._number = sharing.number()

    def sums(self, group: int) -> tuple[Node[Products], ...]:
        """As `LayerPasses.sums`."""
        jobs = [
            Job(share, _sums, lambda share=share: (_slot(share), group), (self._need(share),))  # type: ignore[misc]  # bound now
            for share in range(len(self._spans))
        ]
        summed: TreeSum[Products] = TreeSum(Products.plus)
        for found in self._sharing.results(self._network, jobs):
            summed.take(
                Node(start, size, Products(torch.from_numpy(totals), *counts)) for start, size, totals, counts in found
            )
        return summed.nodes

    def _need(self, share: int) -> Need:
        route, part = self._route, self._spans[share]

        def given() -> tuple[object, ...]:
            sources = [SentSource(held.parameter, held.calls, held.table) for held in route.sources]
            away = None if self._dense_model is None else differences(self._network.model, self._dense_model)
            pieces = pieces_of(self._samples, [self._chunks[i] for i in part])
            return sources, (route.groups, route.chain, route.block_of), part.start, pieces, away

        return Need(_slot(share), self._number, _walk, given)


def _slot(share: int) -> str:
    return f"walk {share}"


def _walk(
    held: Held,
    network: PrunableNetwork,
    sources: Sequence[SentSource],
    route: tuple[tuple[tuple[int, ...], ...], tuple[str, ...], tuple[int | None, ...]],
    first: int,
    pieces: Sequence[Piece],
    away: Sequence[Change] | None,
) -> LayerPasses:
    """A share's passes on a worker. away : by what the dense network differs from this one, None where it is not run"""
    samples = SentSamples(pieces)
    dense = None
    if away is not None:
        dense = copy.deepcopy(without_hooks(network.model))  # other shares' runs may stand in the middle of a pass
        apply(dense, away)
    known = Route(tuple(_source(network, item) for item in sources), *route)
    return LayerPasses(network, samples, samples.positions, known, first=first, dense_model=dense)


def _source(network: PrunableNetwork, sent: SentSource) -> Source:
    if sent.table is not None:
        return Source(sent.parameter, sent.calls, table=sent.table)
    owner = sent.parameter.removesuffix(".weight")
    return Source(sent.parameter, sent.calls, module=checked_linear(owner, network.model.get_submodule(owner)))


def _sums(held: Held, _network: PrunableNetwork, slot: str, group: int) -> SentNodes:
    """A share's products of a group's inputs, on a worker."""
    passes: LayerPasses = held.slots[slot][1]
    return [
        (node.start, node.size, node.value.totals.numpy(), np.array([node.value.counts, node.value.unpaired]))
        for node in passes.sums(group)
    ]
