"""The options of layer-wise pruning, validated at construction."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from prunebench.coordinators.quotas import QuotaKind
from prunebench.core.errors import InvalidInput
from prunebench.meanings.bits.grids import require_bits

Target = Literal["own", "dense"]


@dataclass(frozen=True, kw_only=True)
class LayerWiseOptions:
    """Options of layer-wise pruning.

    Raises
    ------
    InvalidInput   a count, ridge, target, quota, bits or group size is invalid; the message names it
    """

    quota: str = "row"
    """Where the density holds: row (in each output row), layer (in each layer), or N:M along inputs, such as 2:4."""

    samples: int = 128
    """Calibration samples whose layer inputs are gathered."""

    ridge: float = 0.01
    """Ridge, relative to the mean of the Gram matrix's diagonal (SparseGPT's dampening)."""

    target: Target = "dense"
    """Outputs to reproduce: the dense network's, or own (of the dense weights on the layer's own inputs, published)."""

    bits: int | None = None
    """Round kept weights to levels of so many bits, 2 to 8, by the same Gram matrix; none: leave them as they are."""

    group_size: int | None = None
    """With bits: weights along a row that have a scale in common, such as 128; none: the whole row."""

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
        if self.bits is not None:
            require_bits(self.bits, where)
        if self.group_size is not None and self.bits is None:
            raise InvalidInput(f"{where}: group_size is of levels' scales; give bits too, such as 4, or leave it out")
        if self.group_size is not None and self.group_size < 1:
            raise InvalidInput(f"{where}: group_size is {self.group_size}; choose a whole number from 1, such as 128")
        if self.target not in ("own", "dense"):
            raise InvalidInput(f"{where}: target is {self.target!r}; choose own or dense")

    @cached_property
    def quota_kind(self) -> QuotaKind:
        """The quota, parsed."""
        return QuotaKind.parse(self.quota)
