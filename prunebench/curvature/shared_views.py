"""What block coordinate descent sees of a network, by workers: passes of a view, and losses."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.problem import Samples
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.linear_passes import linear_modules
from prunebench.curvature.sent import Piece, SentSamples, pieces_of
from prunebench.curvature.share_worker import Held, given_loss
from prunebench.curvature.sharing import Job, Need, Sharing, spans
from prunebench.curvature.tree_sum import Node
from prunebench.curvature.view_passes import Gathered, Looked, Scope, Sums, ViewPasses
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import fetched

PASSES = 3.0
"""Forward passes that a sample is worth: one forward, and two backward."""

LOSS_SLOTS = 2
"""Sets of samples whose batches workers keep for losses: those that decide on acceptance, and those of the step."""


class OnWorker:
    """A worker's network as passes look at it."""

    def __init__(self, network: PrunableNetwork, calibration: Samples, loss_of: Loss, recompute: bool) -> None:
        self.network, self.calibration, self.loss_of, self.recompute = network, calibration, loss_of, recompute
        self.linear = linear_modules(network)
        self.device = torch.device("cpu")

    def batch(self, positions: IndexArray) -> tuple[Any, Any]:
        """Inputs and targets of a piece."""
        return fetched(self.calibration, positions, self.device)


class SharedViewPasses:
    """As `ViewPasses` of all batches, by workers, who stand where this process's network does.

    Parameters
    ----------
    batches : int64 (s,) each;  counts : how many rows each has
    """

    def __init__(
        self, sharing: Sharing, looked: Looked, batches: Sequence[IndexArray], counts: Sequence[int], scope: Scope
    ) -> None:
        self._sharing, self._looked, self._batches = sharing, looked, batches
        self._counts, self._scope = counts, scope
        self._spans = spans(len(batches), sharing.width)
        self._number = sharing.number()
        self._loss = sharing.dumped(looked.loss_of)

    def knows(self, layers: Collection[str]) -> bool:
        """False: what workers keep, they keep of where they stand."""
        return False

    def gather(self, indices: IndexArray, gradients_of: Sequence[str]) -> Gathered:
        """As `ViewPasses.gather`."""
        jobs = [
            Job(share, _gather, lambda share=share: (_slot(share), indices, gradients_of), (self._need(share),))  # type: ignore[misc]  # bound now
            for share in range(len(self._spans))
        ]
        values, nodes = [], list[Node[Sums]]()
        for found in self._sharing.results(self._looked.network, jobs):
            values.append(found.values)
            nodes += found.nodes
        return Gathered(np.concatenate(values), tuple(nodes))

    def _need(self, share: int) -> Need:
        part = self._spans[share]

        def given() -> tuple[object, ...]:
            pieces = pieces_of(self._looked.calibration, [self._batches[i] for i in part])
            counts = [self._counts[i] for i in part]
            return self._loss, pieces, counts, self._scope, part.start, self._looked.recompute

        return Need(_slot(share), self._number, _view, given)


class SharedLosses:
    """The sums of losses, by workers, which keep the batches of LOSS_SLOTS sets of samples."""

    def __init__(self, sharing: Sharing, looked: Looked) -> None:
        self._sharing, self._looked = sharing, looked
        self._sets: dict[bytes, tuple[int, int]] = {}
        """Slot and number of each set, the one that was last asked for at the end."""

    def sums(self, batches: Sequence[IndexArray]) -> list[float]:
        """The sum of each batch's losses, in order. batches : int64 (s,) each"""
        key = b"".join(batch.tobytes() for batch in batches)
        if key in self._sets:
            held = self._sets.pop(key)
        elif len(self._sets) < LOSS_SLOTS:
            held = len(self._sets), self._sharing.number()
        else:
            held = self._sets.pop(next(iter(self._sets)))[0], self._sharing.number()
        self._sets[key] = held
        slot, number = held
        loss = self._sharing.dumped(self._looked.loss_of)

        def job(share: int, part: range) -> Job:
            name = f"losses {slot} {share}"
            need = Need(
                name, number, _samples, lambda: (pieces_of(self._looked.calibration, [batches[i] for i in part]),)
            )
            return Job(share, _losses, lambda: (name, loss), (need,))

        jobs = [job(share, part) for share, part in enumerate(spans(len(batches), self._sharing.width))]
        return [loss for found in self._sharing.results(self._looked.network, jobs) for loss in found]


def _slot(share: int) -> str:
    return f"view {share}"


def _view(
    held: Held,
    network: PrunableNetwork,
    loss: bytes,
    pieces: Sequence[Piece],
    counts: Sequence[int],
    scope: Scope,
    first: int,
    recompute: bool,
) -> ViewPasses:
    """A share's passes on a worker."""
    samples = SentSamples(pieces)
    looked = OnWorker(network, samples, given_loss(held, loss), recompute)
    return ViewPasses(looked, samples.positions, counts, scope, first=first)


def _gather(held: Held, _network: PrunableNetwork, slot: str, indices: IndexArray, of: Sequence[str]) -> Gathered:
    passes: ViewPasses = held.slots[slot][1]
    return passes.gather(indices, of)


def _samples(_held: Held, _network: PrunableNetwork, pieces: Sequence[Piece]) -> SentSamples:
    return SentSamples(pieces)


def _losses(held: Held, network: PrunableNetwork, slot: str, loss: bytes) -> list[float]:
    """The sums of the losses of a share's batches, on a worker."""
    samples: SentSamples = held.slots[slot][1]
    loss_of = given_loss(held, loss)
    return [batch_loss(network, loss_of, samples.batch(positions)) for positions in samples.positions]


def batch_loss(network: PrunableNetwork, loss: Loss, batch: tuple[Any, Any]) -> float:
    """The sum of a batch's losses, in evaluation mode, summed in float64."""
    with evaluation_mode(network.model), torch.no_grad():
        return float(loss(network.model(batch[0]), batch[1]).sum(dtype=torch.float64))
