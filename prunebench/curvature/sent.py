"""What workers are sent of samples: the batches of their share, as tensors, whatever the samples are made of."""

import pickle
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.problem import Samples
from prunebench.networks.samples import Batch, counted_positions

PLAIN = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
"""Types of tensors that numpy has as well."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch: its inputs and targets.

    counted : which of its positions are no padding;  predicted : which are rows; None where the samples know none
    """

    inputs: Batch
    targets: Batch
    counted: torch.Tensor | None
    predicted: torch.Tensor | None


class SentSamples:
    """Batches as samples: those of a piece are had together, as they were put together where they came from.

    Parameters
    ----------
    pieces : in order; `positions` has for each the numbers of its samples here
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = tuple(pieces)
        stops = np.cumsum([len(piece.inputs) for piece in pieces], dtype=np.int64)
        self.positions: tuple[IndexArray, ...] = tuple(
            np.arange(stop - len(piece.inputs), stop, dtype=np.int64) for stop, piece in zip(stops, pieces, strict=True)
        )
        self._starts = [int(held[0]) for held in self.positions]

    def __len__(self) -> int:
        return sum(held.size for held in self.positions)

    def batch(self, positions: IndexArray) -> tuple[Batch, Batch]:
        """Inputs and targets of a piece, or of some of its samples; those of several pieces are not had together."""
        number = bisect_right(self._starts, int(positions[0])) - 1
        piece, own = self._pieces[number], self.positions[number]
        if np.array_equal(positions, own):
            return piece.inputs, piece.targets
        some = torch.from_numpy(positions - own[0])
        return piece.inputs[some], piece.targets[some]

    def counted(self, targets: Batch) -> torch.Tensor | None:
        """Which positions of a piece's inputs are no padding. targets : as `batch` gave them"""
        return next(piece.counted for piece in self._pieces if piece.targets is targets)

    def predicting(self, targets: Batch) -> torch.Tensor | None:
        """Which positions of a piece are rows. targets : as `batch` gave them"""
        return next(piece.predicted for piece in self._pieces if piece.targets is targets)


def pieces_of(samples: Samples, batches: Sequence[IndexArray]) -> list[Piece]:
    """Batches of samples, ready to be sent. batches : int64 (s,) each, positions of the samples of a piece"""
    found = []
    for positions in batches:
        inputs, targets = samples.batch(positions)
        predicting = getattr(samples, "predicting", None) if getattr(samples, "rows", "") == "token" else None
        predicted = None if predicting is None else predicting(targets)
        found.append(Piece(inputs, targets, counted_positions(samples, targets), predicted))
    return found


def dumped(value: Any, pickler: type[pickle.Pickler], known: Mapping[str, Any]) -> bytes:
    """A value as bytes, those objects in it that are known on the other side by their names there.

    Parameters
    ----------
    known : by name; a method of an object that is made anew each time that it is looked up is known, too
    """

    class Naming(pickler):  # type: ignore[misc, valid-type]  # which class it is depends on the transport
        def persistent_id(self, item: Any) -> str | None:
            return next((name for name, held in known.items() if _same(item, held)), None)

        def reducer_override(self, item: Any) -> Any:
            if type(item) is torch.Tensor and item.dtype in PLAIN and item.device.type == "cpu":
                # torch's own way writes the whole memory of which a tensor may be a small part
                order = sorted(range(item.ndim), key=item.stride, reverse=True)
                return _tensor, (item.detach().permute(order).contiguous().numpy(), order)
            usual = getattr(super(), "reducer_override", None)
            return NotImplemented if usual is None else usual(item)

    stream = BytesIO()
    Naming(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def loaded(given: bytes, known: Mapping[str, Any]) -> Any:
    """What `dumped` made bytes of, with what is known here by the names."""

    class Named(pickle.Unpickler):
        def persistent_load(self, name: Any) -> Any:
            return known[name]

    return Named(BytesIO(given)).load()


def _tensor(array: npt.NDArray[Any], order: Sequence[int]) -> torch.Tensor:
    """A tensor whose axes lie in memory as they did: products of others would be rounded otherwise.

    order : its axes as those of the array, which lie one within the other
    """
    return torch.from_numpy(array).permute([order.index(axis) for axis in range(len(order))])


def _same(item: Any, held: Any) -> bool:
    """Whether it is the object itself, or the same method of the same object."""
    if item is held:
        return True
    own: Callable[..., Any] | None = getattr(item, "__func__", None)
    return own is not None and own is getattr(held, "__func__", None) and item.__self__ is held.__self__
