"""A factor on an accelerator: the products that cost the time, computed by torch; torch is imported when used.

What comes back is numpy in the factor's precision, so a search takes the same steps wherever its
products are computed, up to their rounding.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import Factor, RealArray
from prunebench.core.errors import InvalidInput

if TYPE_CHECKING:
    import torch

COPY_BYTES = 256 * 2**20
"""Rows that are moved to the device at a time."""


class TorchMatrix:
    """A factor held by torch on a device.

    Parameters
    ----------
    factor : float32 or float64 (n, p)
    scale : (p,), what each column is multiplied by; None for one
    device : "cuda", "cuda:1", "mps" or "cpu" as torch names them

    Raises
    ------
    InvalidInput   torch does not know the device or it is not there
    """

    def __init__(self, factor: Factor, scale: RealArray | None, device: str) -> None:
        import torch

        place = torch_device(device)
        self.shape: tuple[int, int] = (factor.shape[0], factor.shape[1])
        self.dtype: np.dtype[Any] = factor.dtype
        kind = torch.float32 if factor.dtype == np.float32 else torch.float64
        self._held = torch.empty(self.shape, dtype=kind, device=place)
        step = max(1, COPY_BYTES // max(1, factor.itemsize * factor.shape[1]))
        for start in range(0, factor.shape[0], step):
            rows: npt.NDArray[Any] = np.array(factor[start : start + step])
            if scale is not None:
                rows = rows * scale.astype(factor.dtype)
            self._held[start : start + step].copy_(torch.from_numpy(rows))

    def gram(self) -> npt.NDArray[Any]:
        """A A'. (n, n)"""
        return np.array((self._held @ self._held.T).cpu().numpy())

    def times(self, right: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A right. (p,) -> (n,)"""
        return np.asarray((self._held @ self._moved(right)).cpu().numpy())

    def transposed_times(self, left: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A' left. (n,) -> (p,)"""
        return np.asarray((self._moved(left) @ self._held).cpu().numpy())

    def _moved(self, vector: npt.NDArray[Any]) -> "torch.Tensor":
        import torch

        return torch.from_numpy(np.ascontiguousarray(vector, dtype=self.dtype)).to(self._held.device)


def torch_device(name: str) -> "torch.device":
    """The torch device of that name, checked to work.

    Raises
    ------
    InvalidInput   torch does not know the device or it is not there
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); choose cpu, or a device torch has"
        ) from error
    return device


def refusal(name: str) -> str:
    """Why the device cannot be used, with the remedy; "" if it can. "cpu" is answered without torch."""
    if name == "cpu":
        return ""
    try:
        torch_device(name)
    except InvalidInput as error:
        return str(error)
    return ""
