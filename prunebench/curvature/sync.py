"""A model's tensors as others have them: what has changed since is found entry by entry, and nothing else is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

WHOLE_SHARE = 3
"""Where more than one entry in so many has changed, a tensor is sent whole: an index is as large as a value."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an entry: tensors are compared and sent as whole numbers, so that every bit counts, those of -0 too."""


@dataclass(frozen=True, eq=False)
class Change:
    """New entries of a tensor, as whole numbers with the same bits.

    places : int64 or int32 (k,), of the tensor laid out in a row; None for all of it;  values : (k,)
    """

    name: str
    places: npt.NDArray[Any] | None
    values: npt.NDArray[Any]


class Synced:
    """A copy of a model's parameters and buffers, which is what others have of it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._held = {name: _bits(tensor).clone() for name, tensor in tensors(model).items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(held.nbytes for held in self._held.values())

    def changes(self) -> list[Change]:
        """What has changed since this was last asked, or since the beginning."""
        found = []
        for name, tensor in tensors(self._model).items():
            now, held = _bits(tensor), self._held[name]
            if change := _change(name, held, now):
                found.append(change)
                held.copy_(now)
        return found


def differences(model: torch.nn.Module, other: torch.nn.Module) -> list[Change]:
    """What makes the other of the model, which has the same tensors."""
    held, found = tensors(other), []
    for name, tensor in tensors(model).items():
        if change := _change(name, _bits(tensor), _bits(held[name])):
            found.append(change)
    return found


def apply(model: torch.nn.Module, changes: Sequence[Change]) -> None:
    """Write the changes into a model that has the same tensors."""
    held = tensors(model)
    with torch.no_grad():
        for change in changes:
            tensor = held[change.name]
            values = torch.from_numpy(change.values).view(tensor.dtype)
            if change.places is None:
                tensor.copy_(values.reshape(tensor.shape))
            else:
                where = np.unravel_index(change.places.astype(np.int64), tuple(tensor.shape))
                tensor[tuple(torch.from_numpy(axis) for axis in where)] = values


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _change(name: str, before: torch.Tensor, after: torch.Tensor) -> Change | None:
    """What makes one row of bits the other, None where they are the same."""
    places = torch.nonzero(before != after).squeeze(1)
    if not len(places):
        return None
    if WHOLE_SHARE * len(places) > len(after):
        return Change(name, None, after.clone().numpy())
    short = torch.int32 if len(after) < 2**31 else torch.int64
    return Change(name, places.to(short).numpy(), after[places].numpy())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The entries in a row as whole numbers; a view where the tensor's layout allows it."""
    return tensor.detach().cpu().reshape(-1).view(INTEGERS[tensor.element_size()])
