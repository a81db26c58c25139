"""What block coordinate descent sees of a network from one point: loss, mean gradient, columns of any block."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import Factor, FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.columns import Columns
from prunebench.curvature.finite import first_broken
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.linear_passes import Take, send
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import at_once, centring, row_weight

EVALUATION_BATCH = 2000
"""Samples that go through the network at a time where they do not say."""

KEEP_BYTES = 512 * 2**20
"""Inputs and slopes are kept where they take at most this much; else every question costs another pass."""

Use = tuple[str, torch.Tensor, torch.Tensor]
"""One use of a layer: its name, its inputs, the slopes of its outputs."""


class Seen(Protocol):
    """The network that a view looks at."""

    network: PrunableNetwork
    calibration: Samples
    loss_of: Loss
    linear: dict[str, torch.nn.Linear]
    device: torch.device
    recompute: bool
    weights: RealArray
    point: int

    def place(self, weights: RealArray) -> int:
        """Stand at `weights`. -> the point's number"""
        ...

    def stands_at(self, point: int) -> bool:
        """Whether that is still the point, and nobody has written to the network since."""
        ...

    def loss(self, positions: IndexArray) -> float:
        """The mean loss at the point."""
        ...

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets where the model is."""
        ...

    def require_room(self, batches: Sequence[IndexArray], rows: Sequence[int], columns: int, gradient: bool) -> None:
        """Raise InvalidInput unless there is memory for a pass."""
        ...


class RowsView:
    """Everything from sample gradients of the whole network, which are held."""

    def __init__(self, rows: npt.NDArray[np.float32], loss: float, weight: float = 1.0) -> None:
        self._rows, self._weight = rows, weight
        self.gradient: FloatArray = rows.mean(axis=0, dtype=np.float64)
        self.loss: float = loss

    def factor(self, indices: IndexArray) -> Factor:
        """Sample gradients of the weights in `indices`, over sqrt(samples), weighted as in `NetworkView`. (n, b)."""
        rows, weight = self._rows[:, indices], self._weight
        if weight > 1.0:
            rows = rows - (centring(weight) * self.gradient[indices]).astype(np.float32)
        return np.asarray(rows / np.float32(np.sqrt(len(rows) / weight)))

    def factors(self, blocks: Sequence[IndexArray]) -> list[Factor]:
        """The same for several blocks."""
        return [self.factor(indices) for indices in blocks]

    def slope(self, indices: IndexArray) -> FloatArray:
        """The mean gradient of the weights in `indices`. float64 (b,)."""
        return np.asarray(self.gradient[indices])

    def ridge(self, indices: IndexArray) -> FloatArray:
        """Zero: a network's loss brings no diagonal of its own."""
        return np.zeros(indices.size)


class NetworkView:
    """Everything from passes through linear layers, made when it is asked for, at the point where the network stood.

    Small networks need one pass for all: what it shows is kept. Larger ones make one for the whole
    gradient, where it is asked for, and one for all blocks of a step together.

    Parameters
    ----------
    seen : the network, at the point;  positions : int64 (s,), on which samples
    """

    def __init__(self, seen: Seen, positions: IndexArray) -> None:
        self._seen, self._positions = seen, positions
        self._weights, self._point = seen.weights, seen.point
        step = at_once(seen.calibration, EVALUATION_BATCH)
        self._batches = [positions[start : start + step] for start in range(0, positions.size, step)]
        self._tokens = getattr(seen.calibration, "rows", "sequence") == "token"
        self._keep = True
        self._kept: list[list[Use]] = []
        self._gradient: RealArray | None = None
        self._loss: float | None = None
        self._slopes: dict[bytes, FloatArray] = {}

    @property
    def gradient(self) -> RealArray:
        """The mean gradient of all weights, in the precision of the network's weights. (p,).

        Raises
        ------
        InvalidInput   it is NaN or infinite; the message names the layer
        """
        if self._gradient is None:
            gradient: RealArray = np.zeros(self._seen.network.total, dtype=self._seen.network.precision)
            self._pass(np.zeros(0, dtype=np.int64), gradient)
            self._gradient = gradient
        return self._gradient

    @property
    def loss(self) -> float:
        """The mean loss on the batch."""
        if self._loss is None:
            self._return()
            self._loss = self._seen.loss(self._positions)
        return self._loss

    def factor(self, indices: IndexArray) -> Factor:
        """The columns of one block, see `factors`."""
        return self.factors([indices])[0]

    def factors(self, blocks: Sequence[IndexArray]) -> list[Factor]:
        """Sample gradients of the weights in each block, their rows common to all. float32 (n, b) each.

        A row is a sample's gradient over sqrt(samples), times the root of the samples' `row_weight` and
        centred as `centring` tells. Where rows are tokens, it is T·d_t ⊗ a_t over sqrt(tokens), T the
        tokens of its sequence; where those are more than all columns together, fewer rows with the
        same A'A stand for them.

        Raises
        ------
        InvalidInput   a gradient is NaN or infinite; the message names the layer
        """
        columns = self._pass(np.concatenate(blocks), None)
        stops = np.cumsum([block.size for block in blocks])[:-1]
        for block, slope in zip(blocks, np.split(columns.slope, stops), strict=True):
            self._slopes[block.tobytes()] = slope
        factor, weight, samples = columns.factor(), row_weight(self._seen.calibration), self._positions.size
        if not self._tokens and weight > 1.0:
            factor -= (math.sqrt(weight / samples) * centring(weight) * columns.slope).astype(np.float32)
        return [np.ascontiguousarray(part) for part in np.split(factor, stops, axis=1)]

    def slope(self, indices: IndexArray) -> FloatArray:
        """The mean gradient of the weights in a block; costs no pass after `factors`. float64 (b,)."""
        held = self._slopes.get(indices.tobytes())
        return np.asarray(self.gradient[indices] if held is None else held, dtype=np.float64)

    def ridge(self, indices: IndexArray) -> FloatArray:
        """Zero: a network's loss brings no diagonal of its own."""
        return np.zeros(indices.size)

    def _pass(self, indices: IndexArray, gradient: RealArray | None) -> Columns:
        """Gather the columns of `indices`, and add the mean gradient to `gradient`, in one pass over the samples."""
        seen = self._seen
        layers = seen.network.layers
        spans = {layer.name: slice(layer.start, layer.stop) for layer in layers}
        masks = [self._mask(batch) for batch in self._batches]
        counts = [
            len(batch) if mask is None else int(mask.sum()) for batch, mask in zip(self._batches, masks, strict=True)
        ]
        seen.require_room(self._batches, counts, indices.size, gradient is not None)
        columns = Columns(layers, indices, sum(counts), seen.device, merge=self._tokens)
        total, replay = 0.0, len(self._kept) == len(self._batches)
        if not replay:
            self._return()
        for number, (batch, mask, count) in enumerate(zip(self._batches, masks, counts, strict=True)):
            uses: list[Use] = []

            def take(name: str, inputs: torch.Tensor, slopes: torch.Tensor, mask: torch.Tensor | None = mask) -> None:
                if gradient is not None:
                    flat = slopes.reshape(-1, slopes.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
                    wide = flat.double() if gradient.dtype == np.float64 else flat.float()
                    gradient[spans[name]] += (wide.reshape(-1) / self._positions.size).cpu().numpy()
                if name in columns.names:
                    if mask is not None:
                        inputs, slopes = _rows(name, inputs, mask), _rows(name, slopes, mask)
                    columns.add(name, inputs, slopes, tokens=mask is not None)

            columns.open(count)
            if replay:
                for use in self._kept[number]:
                    take(*use)
            else:
                wanted = seen.linear if gradient is not None else {name: seen.linear[name] for name in columns.names}
                given = seen.batch(batch)
                note = self._noting(take, uses) if self._keep and gradient is not None else take
                losses = send(seen.network.model, wanted, seen.loss_of, given, note, recompute=seen.recompute)
                total += float(losses.sum(dtype=torch.float64))
                self._store(uses)
            columns.close(*self._scales(mask, count, sum(counts)))
        if not replay:
            self._loss = total / self._positions.size
        self._require_finite(indices, columns.slope, gradient)
        return columns

    def _return(self) -> None:
        """Stand where the view was made, if the network has been elsewhere since."""
        if not self._seen.stands_at(self._point):
            self._point = self._seen.place(self._weights)

    def _noting(self, take: Take, uses: list[Use]) -> Take:
        """Take, and remember what was taken."""

        def note(name: str, inputs: torch.Tensor, slopes: torch.Tensor) -> None:
            uses.append((name, inputs, slopes))
            take(name, inputs, slopes)

        return note

    def _store(self, uses: list[Use]) -> None:
        """Keep a batch's uses if those of all batches will fit."""
        size = sum(inputs.nbytes + slopes.nbytes for _, inputs, slopes in uses)
        if size * len(self._batches) > KEEP_BYTES:
            self._keep = False
        if self._keep and uses:
            self._kept.append(uses)

    def _mask(self, batch: IndexArray) -> torch.Tensor | None:
        """The positions that are rows, bool (b, t); None where samples are."""
        if not self._tokens:
            return None
        _, targets = self._seen.batch(batch)
        mask: torch.Tensor = self._seen.calibration.predicting(targets)  # type: ignore[attr-defined]  # has rows
        return mask

    def _scales(self, mask: torch.Tensor | None, count: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a batch's rows are multiplied by for the factor, and for the slope. (r,) each."""
        samples = self._positions.size
        share = torch.full((count,), 1.0 / samples, dtype=torch.float64)
        if mask is None:
            weight = row_weight(self._seen.calibration)
            return torch.full((count,), (weight / samples) ** 0.5, dtype=torch.float64), share
        lengths = mask.sum(dim=1, keepdim=True).expand_as(mask)[mask].double()
        return lengths / rows**0.5, share

    def _require_finite(self, indices: IndexArray, slope: FloatArray, gradient: RealArray | None) -> None:
        found = indices[~np.isfinite(slope)]
        if gradient is not None and found.size == 0:
            found = np.flatnonzero(~np.isfinite(gradient))
        if found.size:
            name = self._seen.network.layer_names(found[:1])[0]
            which, why = first_broken(self._seen.network, self._seen.loss_of, self._seen.calibration, self._positions)
            raise InvalidInput(f"the gradient of layer {name!r} holds NaN or infinity at sample {which}: {why.text}")


def _rows(name: str, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The rows of the positions in `mask`. (b, t, c) -> (r, c)."""
    if values.shape[:2] != mask.shape:
        raise InvalidInput(
            f"layer {name!r} works on {tuple(values.shape[:-1])} positions and the batch has {tuple(mask.shape)} "
            "tokens; use sample=sequence"
        )
    return values[mask]
