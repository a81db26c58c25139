"""The options of layer-wise pruning, validated at construction."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from prunebench.coordinators.quotas import QuotaKind
from prunebench.core.errors import InvalidInput

Target = Literal["own", "dense"]


@dataclass(frozen=True, kw_only=True)
class LayerWiseOptions:
    """Options of layer-wise pruning.

    Raises
    ------
    InvalidInput   a count, ridge, target or quota is invalid; the message names it
    """

    quota: str = "row"
    """Where the density holds: row (in each output row), layer (in each layer), or N:M along inputs, such as 2:4."""

    samples: int = 128
    """Calibration samples whose layer inputs are gathered."""

    ridge: float = 0.01
    """Ridge, relative to the mean of the Gram matrix's diagonal (SparseGPT's dampening)."""

    target: Target = "dense"
    """Outputs to reproduce: the dense network's, or own (of the dense weights on the layer's own inputs, published)."""

    held_out: int | None = None
    """Calibration samples that judge recovery after the last layer; none: 3,000, or a fifth of all."""

    def __post_init__(self) -> None:
        where = "coordinator layer-wise"
        _ = self.quota_kind
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidInput(f"{where}: samples is {self.samples!r}; choose a whole number from 1")
        if not (np.isfinite(self.ridge) and self.ridge > 0.0):
            raise InvalidInput(f"{where}: ridge is {self.ridge}; choose a positive one, for example 0.01")
        if self.held_out is not None and self.held_out < 1:
            raise InvalidInput(f"{where}: held_out is {self.held_out!r}; choose a whole number from 1")
        if self.target not in ("own", "dense"):
            raise InvalidInput(f"{where}: target is {self.target!r}; choose own or dense")

    @cached_property
    def quota_kind(self) -> QuotaKind:
        """The quota, parsed."""
        return QuotaKind.parse(self.quota)
