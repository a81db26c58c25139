"""Tensors as numpy arrays of a checkpoint."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A copy; bfloat16, which numpy does not have, as float32, which holds it exactly."""
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
