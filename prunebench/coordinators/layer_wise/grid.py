"""The weights of pruned layers on a grid of levels, layer by layer, and their state in a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import BoolArray, IndexArray, RealArray
from prunebench.core.coordinator import checked_array
from prunebench.core.errors import InvalidInput
from prunebench.core.levels import LayerLevels, Levels, group_count
from prunebench.core.rows import RowsForm


class Table(Protocol):
    """A layer as a table: its name, and its rows and columns."""

    @property
    def name(self) -> str:
        """The parameter's."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...


class Grid:
    """Levels and scales of the layers that are done.

    Parameters
    ----------
    bits, group_size : as `LayerWiseOptions`
    layers : all layers as tables
    weights : float (p,)   the dense ones; of layers that are done, those before rounding take their place
    """

    def __init__(self, bits: int, group_size: int | None, layers: Sequence[Table], weights: RealArray) -> None:
        self.bits, self.group_size, self._layers = bits, group_size, layers
        self._unrounded = np.array(weights)
        self._done: dict[int, LayerLevels] = {}

    def take(
        self, number: int, forms: Sequence[RowsForm], mask: BoolArray, weights: RealArray, places: IndexArray
    ) -> tuple[RealArray, float, float]:
        """Round a pruned layer. -> its weights, f before and after without the constants of the forms

        number : of the layer;  forms : of its parts;  mask, weights : row by row;  places : in the weight vector
        """
        from prunebench.meanings.bits.rounding import rounded

        layer = self._layers[number]
        table, parts, start, before, after = mask.reshape(layer.shape), [], 0, 0.0, 0.0
        for form in forms:
            rows = slice(start, start + form.rows)
            found = rounded(form, table[rows], self.bits, self.group_size)
            parts.append(found)
            before += form.value(weights.reshape(layer.shape)[rows].reshape(-1)) - form.constant
            after += form.value(found.values.reshape(-1)) - form.constant
            start += form.rows
        levels, scales = (np.concatenate([getattr(part, what) for part in parts]) for what in ("levels", "scales"))
        self._unrounded[places] = weights
        self._done[number] = LayerLevels(layer.name, levels, scales, places.reshape(layer.shape))
        return np.concatenate([part.values for part in parts]).reshape(-1), before, after

    def levels(self) -> Levels:
        """Those of all layers that are done, in the network's order."""
        return Levels(
            self.bits, self.group_size, tuple(self._done[number] for number in sorted(self._done)), self._unrounded
        )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a checkpoint."""
        done = [self._done[number] for number in sorted(self._done)]
        return {
            "unrounded": self._unrounded,
            "levels": np.concatenate([held.levels.reshape(-1) for held in done] or [np.empty(0, dtype=np.int8)]),
            "scales": np.concatenate([held.scales.reshape(-1) for held in done] or [np.empty(0)]),
        }

    def load(self, arrays: Mapping[str, npt.NDArray[Any]], done: Mapping[int, IndexArray], weights: RealArray) -> None:
        """Take what `state` gave.

        done : by number, where in the weight vector the weights of each layer that is done are
        weights : float (p,), the checkpoint's

        Raises
        ------
        InvalidInput   other layers, or weights that are not their levels times their scales
        """
        shapes = {number: self._layers[number].shape for number in sorted(done)}
        groups = {number: (rows, group_count(columns, self.group_size)) for number, (rows, columns) in shapes.items()}
        self._unrounded = np.array(checked_array(arrays, "unrounded", weights.shape, "f"), dtype=weights.dtype)
        levels = checked_array(arrays, "levels", (sum(a * b for a, b in shapes.values()),), "i")
        scales = checked_array(arrays, "scales", (sum(a * b for a, b in groups.values()),), "f")
        at = scale_at = 0
        for number, shape in shapes.items():
            size, count = shape[0] * shape[1], groups[number][0] * groups[number][1]
            self._done[number] = LayerLevels(
                self._layers[number].name,
                levels[at : at + size].reshape(shape).astype(np.int8),
                scales[scale_at : scale_at + count].reshape(groups[number]).astype(np.float64),
                done[number].reshape(shape),
            )
            at, scale_at = at + size, scale_at + count
        if wrong := self.levels().wrong(weights):
            raise InvalidInput(wrong)


def uneven(layers: Sequence[Table], group_size: int) -> list[str]:
    """What becomes of the groups of rows that are no multiple of them, a line for each length of row."""
    lengths: dict[int, list[str]] = {}
    for layer in layers:
        if layer.shape[1] % group_size:
            lengths.setdefault(layer.shape[1], []).append(layer.name)
    lines = []
    for length, names in sorted(lengths.items()):
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        what = f"the last group has {length % group_size}" if length > group_size else "the whole row is one group"
        lines.append(f"rows of {names[0]}{more} have {length} weights, no multiple of {group_size}: {what}")
    return lines
