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


@dataclass(frozen=True, eq=False)
class Batch:
    """What a batch gives of the columns.

    values : float32 (r, b), its rows, None where only their products are wanted
    gram : float64 (b, b), those products, A'A, else None
    slope : float64 (b,), its part of the mean gradient
    """

    values: Factor | None
    gram: FloatArray | None
    slope: FloatArray


class Columns:
    """The columns of some weights, batch by batch.

    Parameters
    ----------
    layers : the prunable parameters
    indices : int64 (b,), weights without repeats, in any order
    device : where the slopes are
    """

    def __init__(self, layers: Sequence[Layer], indices: IndexArray, device: torch.device) -> None:
        self._count = indices.size
        self._parts: Mapping[str, _Part] = dict(_parts(layers, indices, device))
        self._held: torch.Tensor | None = None
        self._device = device

    @property
    def names(self) -> frozenset[str]:
        """The layers that have columns here."""
        return frozenset(self._parts)

    def open(self, rows: int) -> None:
        """Begin with the next batch, of this many rows."""
        self._held = torch.zeros((rows, self._count), device=self._device)

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

    def close(self, scale: torch.Tensor, share: torch.Tensor, *, merged: bool) -> Batch:
        """The batch is through: its rows times `scale`, and those times `share` summed up as the slope. (r,) each.

        merged : whether only A'A is wanted of the rows
        """
        assert self._held is not None
        held, self._held = self._held, None
        slope = (share.to(self._device, torch.float64) @ held.double()).cpu().numpy()
        held *= scale.to(self._device, torch.float32)[:, None]
        if not merged:
            return Batch(held.cpu().numpy(), None, slope)
        wide = held.double()
        return Batch(None, (wide.T @ wide).cpu().numpy(), slope)


def merged_rows(gram: FloatArray) -> Factor:
    """As many rows as columns that have the products A'A: its eigenvectors, scaled. float32 (b, b)"""
    values, vectors = np.linalg.eigh(gram)
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
