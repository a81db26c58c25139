"""Passes of a network over some of the samples, in which columns, slopes, the gradient and the loss are gathered.

Whoever has a share of the samples has such passes: this process has one for all of them, a worker one for its share.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from prunebench.core.arrays import Factor, FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.columns import Columns
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.linear_passes import Take, send
from prunebench.curvature.tree_sum import Node, TreeSum
from prunebench.networks.network import PrunableNetwork

KEEP_BYTES = 512 * 2**20
"""Inputs and slopes are kept where they take at most this much; else every question costs another pass."""

Use = tuple[str, torch.Tensor, torch.Tensor]
"""One use of a layer: its name, its inputs, the slopes of its outputs."""


class Looked(Protocol):
    """The network that passes go through."""

    network: PrunableNetwork
    calibration: Samples
    loss_of: Loss
    linear: dict[str, torch.nn.Linear]
    device: torch.device
    recompute: bool

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets where the model is."""
        ...


@dataclass(frozen=True)
class Scope:
    """What all shares of the samples have in common.

    samples : of all shares;  rows : of the factor;  tokens : whether rows are tokens
    weight : `samples.row_weight` where they are samples
    """

    samples: int
    rows: int
    tokens: bool
    weight: float


@dataclass(frozen=True, eq=False)
class Sums:
    """What is added up over batches.

    loss : of the samples;  slope : float64 (b,);  gradient : the mean, of the layers of which it is wanted, one after
    the other; None where of none
    gram : float64 (b, b), A'A, where rows are merged
    """

    loss: float
    slope: FloatArray
    gradient: RealArray | None
    gram: FloatArray | None

    def plus(self, other: "Sums") -> "Sums":
        """The sum of both, in this one's memory."""
        self.slope[...] += other.slope
        for mine, theirs in ((self.gradient, other.gradient), (self.gram, other.gram)):
            if mine is not None and theirs is not None:
                mine += theirs
        return Sums(self.loss + other.loss, self.slope, self.gradient, self.gram)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a share's passes give: its rows, float32 (r, b), none where they are merged, and its part of the sums."""

    values: Factor
    nodes: tuple[Node[Sums], ...]


def row_counts(looked: Looked, batches: Sequence[IndexArray], tokens: bool) -> list[int]:
    """How many rows of the factor each batch has."""
    if not tokens:
        return [batch.size for batch in batches]
    return [int(_mask(looked, batch).sum()) for batch in batches]


def merges(scope: Scope, columns: int) -> bool:
    """Whether rows are merged: they need not be told apart, and are more than the columns."""
    return scope.tokens and scope.rows > columns


class ViewPasses:
    """The network, where it stands whenever passes are made, over batches of samples.

    What a pass shows of the layers whose gradient was wanted is kept, where it is small.

    Parameters
    ----------
    batches : int64 (s,) each, the samples that go through together;  counts : how many rows each has
    first : the number of the first batch among those of all shares
    """

    def __init__(
        self,
        looked: Looked,
        batches: Sequence[IndexArray],
        counts: Sequence[int],
        scope: Scope,
        *,
        first: int = 0,
    ) -> None:
        self._looked, self._batches, self._counts = looked, batches, counts
        self._scope, self._first = scope, first
        self._keep = True
        self._kept: list[list[Use]] = [[] for _ in batches]
        self._known: frozenset[str] = frozenset()
        self._losses = [0.0] * len(batches)

    def knows(self, layers: Collection[str]) -> bool:
        """Whether everything of these layers is known without another pass."""
        return self._known.issuperset(layers)

    def gather(self, indices: IndexArray, gradients_of: Sequence[str]) -> Gathered:
        """This share's rows of the columns of `indices`, int64 (b,), and its parts of the sums over all samples.

        gradients_of : layers whose mean gradient is wanted, one after the other in this order

        By one pass of each batch, or none where what was kept is enough (`knows`).

        Raises
        ------
        InvalidInput   a layer is used in a way that keeps samples apart no longer
        """
        scope = self._scope
        merged = merges(scope, indices.size)
        values: Factor = np.zeros((0 if merged else sum(self._counts), indices.size), dtype=np.float32)
        columns = Columns(self._looked.network.layers, indices, self._looked.device)
        summed: TreeSum[Sums] = TreeSum(Sums.plus)
        spans = _spans(self._looked.network, gradients_of)
        names = columns.names | spans.keys()
        replay, row = self.knows(names), 0
        size = max((span.stop for span in spans.values()), default=0)
        for number, (batch, count) in enumerate(zip(self._batches, self._counts, strict=True)):
            mask = _mask(self._looked, batch) if scope.tokens else None
            columns.open(count)
            total = np.zeros(size, dtype=self._looked.network.precision) if spans else None
            take = self._taking(columns, mask, total, spans)
            if replay:
                for use in self._kept[number]:
                    take(*use)
            else:
                self._losses[number] = self._sent(number, names, take, keep=bool(spans))
            held = columns.close(*self._scales(mask, count), merged=merged)
            if held.values is not None:
                values[row : row + count] = held.values
                row += count
            summed.term(self._first + number, Sums(self._losses[number], held.slope, total, held.gram))
        if self._keep and spans:
            self._known |= names
        return Gathered(values, summed.nodes)

    def _taking(
        self, columns: Columns, mask: torch.Tensor | None, gradient: RealArray | None, spans: Mapping[str, slice]
    ) -> Take:
        """What is done with every use of a layer."""

        def take(name: str, inputs: torch.Tensor, slopes: torch.Tensor) -> None:
            if gradient is not None and name in spans:
                flat = slopes.reshape(-1, slopes.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
                wide = flat.double() if gradient.dtype == np.float64 else flat.float()
                gradient[spans[name]] += (wide.reshape(-1) / self._scope.samples).cpu().numpy()
            if name in columns.names:
                if mask is not None:
                    inputs, slopes = _rows(name, inputs, mask), _rows(name, slopes, mask)
                columns.add(name, inputs, slopes, tokens=mask is not None)

        return take

    def _sent(self, number: int, names: Collection[str], take: Take, *, keep: bool) -> float:
        """Send a batch through for some layers. -> the sum of its losses

        keep : whether to remember what they got and gave
        """
        looked, uses = self._looked, list[Use]()

        def note(name: str, inputs: torch.Tensor, slopes: torch.Tensor) -> None:
            uses.append((name, inputs, slopes))
            take(name, inputs, slopes)

        # in the order of the network, whatever the names' is
        wanted = {name: module for name, module in looked.linear.items() if name in names}
        noting = note if self._keep and keep else take
        batch = looked.batch(self._batches[number])
        losses = send(looked.network.model, wanted, looked.loss_of, batch, noting, recompute=looked.recompute)
        self._store(number, uses)
        return float(losses.sum(dtype=torch.float64))

    def _store(self, number: int, uses: list[Use]) -> None:
        """Keep a batch's uses if those of all batches will fit."""
        self._kept[number] += uses
        size = sum(inputs.nbytes + slopes.nbytes for _, inputs, slopes in self._kept[number])
        if size * len(self._batches) > KEEP_BYTES:
            self._keep, self._known, self._kept = False, frozenset(), [[] for _ in self._batches]

    def _scales(self, mask: torch.Tensor | None, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a batch's rows are multiplied by for the factor, and for the slope. (r,) each."""
        scope = self._scope
        share = torch.full((count,), 1.0 / scope.samples, dtype=torch.float64)
        if mask is None:
            return torch.full((count,), (scope.weight / scope.samples) ** 0.5, dtype=torch.float64), share
        lengths = mask.sum(dim=1, keepdim=True).expand_as(mask)[mask].double()
        return lengths / scope.rows**0.5, share


def _spans(network: PrunableNetwork, names: Sequence[str]) -> dict[str, slice]:
    """Where the gradient of each of these layers is, one after the other."""
    sizes = {layer.name: layer.size for layer in network.layers}
    stops = np.cumsum([sizes[name] for name in names], dtype=np.int64)
    return {name: slice(int(stop) - sizes[name], int(stop)) for name, stop in zip(names, stops, strict=True)}


def _mask(looked: Looked, batch: IndexArray) -> torch.Tensor:
    """The positions that are rows, bool (b, t)."""
    _, targets = looked.batch(batch)
    mask: torch.Tensor = looked.calibration.predicting(targets)  # type: ignore[attr-defined]  # has rows
    return mask


def _rows(name: str, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The rows of the positions in `mask`. (b, t, c) -> (r, c)."""
    if values.shape[:2] != mask.shape:
        raise InvalidInput(
            f"layer {name!r} works on {tuple(values.shape[:-1])} positions and the batch has {tuple(mask.shape)} "
            "tokens; use sample=sequence"
        )
    return values[mask]
