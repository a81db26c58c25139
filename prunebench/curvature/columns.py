"""Columns of the sample-gradient factor for chosen weights of linear layers, gathered as slopes go by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prunebench.core.arrays import Factor, FloatArray, IndexArray
from prunebench.networks.network import Layer

WHOLE_LAYER_SHARE = 16
"""Where a layer has at most this many weights for each one wanted, products of whole matrices are faster."""

GATHER_ELEMENTS = 2**24
"""Products that are held at a time while columns are gathered."""


@dataclass(frozen=True)
class _Part:
    """The columns of one layer: where they go, and the output and input each one belongs to."""

    columns: torch.Tensor
    outputs: torch.Tensor
    inputs: torch.Tensor
    size: int


class Columns:
    """The columns of some weights, filled batch by batch, and the mean gradient of those weights.

    Where there are more rows than columns and the rows need not be told apart, only A'A is added up,
    and a factor with as many rows as columns stands for it.

    Parameters
    ----------
    layers : the prunable parameters
    indices : int64 (b,), weights without repeats, in any order
    rows : how many rows there will be: samples, or tokens
    device : where the slopes are
    merge : whether rows may be merged
    """

    def __init__(
        self, layers: Sequence[Layer], indices: IndexArray, rows: int, device: torch.device, *, merge: bool
    ) -> None:
        columns = indices.size
        self.merged = merge and rows > columns
        self.slope: FloatArray = np.zeros(columns)
        """The sum of all rows, each divided by what `close` was told. float64 (b,)."""
        self._values: Factor = np.zeros((0 if self.merged else rows, columns), dtype=np.float32)
        self._gram = torch.zeros((columns, columns) if self.merged else (0, 0), dtype=torch.float64, device=device)
        self._parts: Mapping[str, _Part] = dict(_parts(layers, indices, device))
        self._row = 0
        self._held: torch.Tensor | None = None
        self._device = device

    @property
    def names(self) -> frozenset[str]:
        """The layers that have columns here."""
        return frozenset(self._parts)

    def open(self, rows: int) -> None:
        """Begin with the next batch, of this many rows."""
        self._held = torch.zeros((rows, self.slope.size), device=self._device)

    def add(self, name: str, inputs: torch.Tensor, slopes: torch.Tensor, tokens: bool) -> None:
        """Add one use of a layer: a row a sample, summed over what lies between, or a row for each position.

        Parameters
        ----------
        inputs : float32 (b, ..., in), or (r, in) with a row for each position
        slopes : float32 (b, ..., out), or (r, out)
        tokens : whether the first axis counts positions
        """
        part = self._parts.get(name)
        if part is None or self._held is None:
            return
        if tokens or inputs.ndim == 2:
            for rows in _slices(len(inputs), part.columns.numel()):
                product = slopes[rows][:, part.outputs] * inputs[rows][:, part.inputs]
                self._held[rows, part.columns] += product
            return
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        slopes = slopes.reshape(len(slopes), -1, slopes.shape[-1])
        whole = part.size <= WHOLE_LAYER_SHARE * part.columns.numel()
        for row in range(len(inputs)):
            if whole:
                gradient = slopes[row].T @ inputs[row]
                self._held[row, part.columns] += gradient[part.outputs, part.inputs]
                continue
            for rows in _slices(inputs.shape[1], part.columns.numel()):
                product = slopes[row, rows][:, part.outputs] * inputs[row, rows][:, part.inputs]
                self._held[row, part.columns] += product.sum(dim=0)

    def close(self, scale: torch.Tensor, share: torch.Tensor) -> None:
        """The batch is through: its rows times `scale` go into the factor, times `share` into the slope. (r,) each."""
        assert self._held is not None
        held, self._held = self._held, None
        self.slope += (share.to(self._device, torch.float64) @ held.double()).cpu().numpy()
        held *= scale.to(self._device, torch.float32)[:, None]
        if self.merged:
            wide = held.double()
            self._gram += wide.T @ wide
        else:
            self._values[self._row : self._row + len(held)] = held.cpu().numpy()
        self._row += len(held)

    def factor(self) -> Factor:
        """A. float32 (rows, b), or (b, b) if rows were merged: the eigenvectors of A'A, scaled."""
        if not self.merged:
            return self._values
        values, vectors = np.linalg.eigh(self._gram.cpu().numpy())
        root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        return np.ascontiguousarray(root, dtype=np.float32)


def _slices(total: int, columns: int) -> list[slice]:
    step = max(1, GATHER_ELEMENTS // max(1, columns))
    return [slice(start, min(total, start + step)) for start in range(0, total, step)]


def _parts(layers: Sequence[Layer], indices: IndexArray, device: torch.device) -> list[tuple[str, _Part]]:
    out = []
    for layer in layers:
        inside = np.flatnonzero((indices >= layer.start) & (indices < layer.stop))
        if inside.size:
            outputs, inputs = np.divmod(indices[inside] - layer.start, layer.shape[1])
            held = [torch.from_numpy(item).to(device) for item in (inside, outputs, inputs)]
            out.append((layer.name, _Part(held[0], held[1], held[2], layer.size)))
    return out
