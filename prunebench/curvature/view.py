"""What block coordinate descent sees of a network from one point: loss, mean gradient, columns of any block."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import Factor, FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.columns import merged_rows
from prunebench.curvature.finite import first_broken
from prunebench.curvature.tree_sum import TreeSum
from prunebench.curvature.view_passes import Gathered, Looked, Scope, Sums, ViewPasses, row_counts
from prunebench.networks.samples import at_once, centring, row_weight

EVALUATION_BATCH = 2000
"""Samples that go through the network at a time where they do not say."""


class Seen(Looked, Protocol):
    """The network that a view looks at."""

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

    def shared(self, batches: Sequence[IndexArray], counts: Sequence[int], scope: Scope) -> "Passes | None":
        """Passes by workers, None where there are none or this process does them sooner."""
        ...

    def require_room(self, batches: Sequence[IndexArray], rows: Sequence[int], columns: int, gradient: bool) -> None:
        """Raise InvalidInput unless there is memory for a pass."""
        ...


class Passes(Protocol):
    """Passes over all samples of a view, by this process or by others."""

    @property
    def kept(self) -> bool:
        """As `ViewPasses.kept`."""
        ...

    def gather(self, indices: IndexArray, *, gradient: bool) -> Gathered:
        """As `ViewPasses.gather`."""
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

    Small networks need one pass for all (`ViewPasses`). Larger ones make one for the whole gradient, where it is
    asked for, and one for all blocks of a step together.

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
        self._counts = row_counts(seen, self._batches, self._tokens)
        scope = Scope(positions.size, sum(self._counts), self._tokens, row_weight(seen.calibration))
        self._passes: Passes = seen.shared(self._batches, self._counts, scope) or ViewPasses(
            seen, self._batches, self._counts, scope
        )
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
            self._gradient = self._pass(np.zeros(0, dtype=np.int64), gradient=True)[1].gradient
            assert self._gradient is not None
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
        values, sums = self._pass(np.concatenate(blocks), gradient=False)
        stops = np.cumsum([block.size for block in blocks])[:-1]
        for block, slope in zip(blocks, np.split(sums.slope, stops), strict=True):
            self._slopes[block.tobytes()] = slope
        factor = values if sums.gram is None else merged_rows(sums.gram)
        weight, samples = row_weight(self._seen.calibration), self._positions.size
        if not self._tokens and weight > 1.0:
            factor -= (math.sqrt(weight / samples) * centring(weight) * sums.slope).astype(np.float32)
        return [np.ascontiguousarray(part) for part in np.split(factor, stops, axis=1)]

    def slope(self, indices: IndexArray) -> FloatArray:
        """The mean gradient of the weights in a block; costs no pass after `factors`. float64 (b,)."""
        held = self._slopes.get(indices.tobytes())
        return np.asarray(self.gradient[indices] if held is None else held, dtype=np.float64)

    def ridge(self, indices: IndexArray) -> FloatArray:
        """Zero: a network's loss brings no diagonal of its own."""
        return np.zeros(indices.size)

    def _pass(self, indices: IndexArray, *, gradient: bool) -> tuple[Factor, Sums]:
        """The rows of the columns of `indices`, and the sums over all samples, in one pass."""
        seen = self._seen
        seen.require_room(self._batches, self._counts, indices.size, gradient)
        if not self._passes.kept:
            self._return()
        found = self._passes.gather(indices, gradient=gradient)
        summed: TreeSum[Sums] = TreeSum(Sums.plus)
        summed.take(found.nodes)
        sums = summed.total()
        self._loss = sums.loss / self._positions.size
        self._require_finite(indices, sums.slope, sums.gradient)
        return found.values, sums

    def _return(self) -> None:
        """Stand where the view was made, if the network has been elsewhere since."""
        if not self._seen.stands_at(self._point):
            self._point = self._seen.place(self._weights)

    def _require_finite(self, indices: IndexArray, slope: FloatArray, gradient: RealArray | None) -> None:
        found = indices[~np.isfinite(slope)]
        if gradient is not None and found.size == 0:
            found = np.flatnonzero(~np.isfinite(gradient))
        if found.size:
            name = self._seen.network.layer_names(found[:1])[0]
            which, why = first_broken(self._seen.network, self._seen.loss_of, self._seen.calibration, self._positions)
            raise InvalidInput(f"the gradient of layer {name!r} holds NaN or infinity at sample {which}: {why.text}")
