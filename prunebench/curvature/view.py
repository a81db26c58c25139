"""What block coordinate descent sees of a network from one point: loss, mean gradient, columns of any block."""

import math
from collections.abc import Collection, Sequence
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import Factor, FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.curvature.columns import merged_rows
from prunebench.curvature.finite import first_broken
from prunebench.curvature.tree_sum import TreeSum
from prunebench.curvature.view_passes import Gathered, Looked, Scope, Sums, ViewPasses, row_counts
from prunebench.networks.samples import centring, row_weight


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

    def at_once(self, positions: IndexArray) -> int:
        """How many samples go through the network at a time."""
        ...

    def require_room(self, batches: Sequence[IndexArray], rows: Sequence[int], columns: int, weights: int) -> None:
        """Raise InvalidInput unless there is memory for a pass."""
        ...


class Passes(Protocol):
    """Passes over all samples of a view, by this process or by others."""

    def knows(self, layers: Collection[str]) -> bool:
        """As `ViewPasses.knows`."""
        ...

    def gather(self, indices: IndexArray, gradients_of: Sequence[str]) -> Gathered:
        """As `ViewPasses.gather`."""
        ...


class _At:
    """A batch of samples at the point where the network stood when the view was made."""

    def __init__(self, seen: Seen, positions: IndexArray) -> None:
        self._seen, self._positions = seen, positions
        self._weights, self._point = seen.weights, seen.point
        self._loss: float | None = None

    @property
    def loss(self) -> float:
        """The mean loss on the batch."""
        if self._loss is None:
            self._return()
            self._loss = self._seen.loss(self._positions)
        return self._loss

    def ridge(self, indices: IndexArray) -> FloatArray:
        """Zero: a network's loss brings no diagonal of its own."""
        return np.zeros(indices.size)

    def _return(self) -> None:
        """Stand where the view was made, if the network has been elsewhere since."""
        if not self._seen.stands_at(self._point):
            self._point = self._seen.place(self._weights)


class RowsView(_At):
    """Everything from sample gradients of the whole network, which are held."""

    def __init__(self, seen: Seen, positions: IndexArray, rows: npt.NDArray[np.float32]) -> None:
        super().__init__(seen, positions)
        self._rows, self._weight = rows, row_weight(seen.calibration)
        self.gradient: FloatArray = rows.mean(axis=0, dtype=np.float64)

    def prepare(self, layers: Sequence[str] | None) -> None:
        """Nothing: the gradient is there."""

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


class NetworkView(_At):
    """Everything from passes through linear layers, made when it is asked for, at the point where the network stood.

    A pass goes backward no further than the first layer that it is for, and forms the gradient of those alone: of the
    layers that blocks are picked from, where they are told (`prepare`), or of all. What they got and gave is kept where
    it is small, and the blocks' columns are made of that (`ViewPasses`); else by another pass.

    Parameters
    ----------
    seen : the network, at the point;  positions : int64 (s,), on which samples
    """

    def __init__(self, seen: Seen, positions: IndexArray) -> None:
        super().__init__(seen, positions)
        step = seen.at_once(positions)
        self._batches = [positions[start : start + step] for start in range(0, positions.size, step)]
        self._tokens = getattr(seen.calibration, "rows", "sequence") == "token"
        self._counts = row_counts(seen, self._batches, self._tokens)
        scope = Scope(positions.size, sum(self._counts), self._tokens, row_weight(seen.calibration))
        self._passes: Passes = seen.shared(self._batches, self._counts, scope) or ViewPasses(
            seen, self._batches, self._counts, scope
        )
        self._gradients: dict[str, RealArray] = {}
        self._slopes: dict[bytes, FloatArray] = {}

    @property
    def gradient(self) -> RealArray:
        """The mean gradient of all weights, in the precision of the network's weights. (p,).

        Raises
        ------
        InvalidInput   it is NaN or infinite; the message names the layer
        """
        self.prepare(None)
        return np.concatenate([self._gradients[layer.name] for layer in self._seen.network.layers])

    def prepare(self, layers: Sequence[str] | None) -> None:
        """Have the mean gradient of these layers, of all where None: with one pass for those that are not known yet.

        Raises
        ------
        InvalidInput   it is NaN or infinite; the message names the layer
        """
        wanted = self._seen.network.names if layers is None else tuple(dict.fromkeys(layers))
        missing = [name for name in wanted if name not in self._gradients]
        if missing:
            self._pass(np.zeros(0, dtype=np.int64), missing)

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
        values, sums = self._pass(np.concatenate(blocks), [])
        stops = np.cumsum([block.size for block in blocks])[:-1]
        for block, slope in zip(blocks, np.split(sums.slope, stops), strict=True):
            self._slopes[block.tobytes()] = slope
        factor = values if sums.gram is None else merged_rows(sums.gram)
        weight, samples = row_weight(self._seen.calibration), self._positions.size
        if not self._tokens and weight > 1.0:
            factor -= (math.sqrt(weight / samples) * centring(weight) * sums.slope).astype(np.float32)
        return [np.ascontiguousarray(part) for part in np.split(factor, stops, axis=1)]

    def slope(self, indices: IndexArray) -> FloatArray:
        """The mean gradient of these weights, known after `factors` or `prepare`, else by a pass. float64 (b,).

        Raises
        ------
        InvalidInput   it is NaN or infinite; the message names the layer
        """
        held = self._slopes.get(indices.tobytes())
        if held is not None:
            return np.asarray(held, dtype=np.float64)
        network = self._seen.network
        owners = network.owners(indices)
        # distinct ones, in order; np.unique takes many times as long for the weights of a layer
        numbers = np.flatnonzero(np.bincount(owners))
        self.prepare([network.names[number] for number in numbers])
        out = np.empty(indices.size)
        for number in numbers:
            layer = network.layers[number]
            inside = slice(None) if numbers.size == 1 else owners == number
            out[inside] = self._gradients[layer.name][indices[inside] - layer.start]
        return out

    def _pass(self, indices: IndexArray, gradients_of: Sequence[str]) -> tuple[Factor, Sums]:
        """The rows of the columns of `indices`, and the sums over all samples, in one pass."""
        seen = self._seen
        layers = [layer for layer in seen.network.layers if layer.name in gradients_of]
        seen.require_room(self._batches, self._counts, indices.size, sum(layer.size for layer in layers))
        owners = np.unique(seen.network.owners(indices))
        if not self._passes.knows({*gradients_of, *(seen.network.names[number] for number in owners)}):
            self._return()
        found = self._passes.gather(indices, [layer.name for layer in layers])
        summed: TreeSum[Sums] = TreeSum(Sums.plus)
        summed.take(found.nodes)
        sums = summed.total()
        self._loss = sums.loss / self._positions.size
        broken = indices[~np.isfinite(sums.slope)]
        if broken.size:
            self._refuse(str(seen.network.layer_names(broken[:1])[0]))
        if sums.gradient is not None:
            parts = np.split(sums.gradient, np.cumsum([layer.size for layer in layers])[:-1])
            for layer, part in zip(layers, parts, strict=True):
                if not np.isfinite(part).all():
                    self._refuse(layer.name)
                self._gradients[layer.name] = part
        return found.values, sums

    def _refuse(self, name: str) -> NoReturn:
        """Raise the error of a layer's gradient that is not finite."""
        which, why = first_broken(self._seen.network, self._seen.loss_of, self._seen.calibration, self._positions)
        raise InvalidInput(f"the gradient of layer {name!r} holds NaN or infinity at sample {which}: {why.text}")
