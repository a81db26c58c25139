"""Options of layer-wise pruning, and the quotas that a layer's weights are kept by."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.coordinator import quotas
from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.quota import Quota

Target = Literal["own", "dense"]


@dataclass(frozen=True, kw_only=True)
class LayerWiseOptions:
    """Options of layer-wise pruning.

    Raises
    ------
    InvalidInput   a count, ridge, target or quota that makes no sense; the message names it
    """

    quota: str = "row"
    """Within what the density holds: row (each output row), layer (rows weighed together), or N:M, such as 2:4."""

    samples: int = 128
    """Calibration samples whose layer inputs are gathered."""

    ridge: float = 0.01
    """Ridge, relative to the mean of the Gram matrix's diagonal (SparseGPT's dampening)."""

    target: Target = "own"
    """What a layer is to give: its dense weights' outputs on its own inputs (published), or the dense network's."""

    def __post_init__(self) -> None:
        where = "coordinator layer-wise"
        quotas.pattern(self.quota)
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InvalidInput(f"{where}: samples is {self.samples!r}; choose a whole number from 1")
        if not (np.isfinite(self.ridge) and self.ridge > 0.0):
            raise InvalidInput(f"{where}: ridge is {self.ridge}; choose a positive one, for example 0.01")
        if self.target not in ("own", "dense"):
            raise InvalidInput(f"{where}: target is {self.target!r}; choose own or dense")

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(N, M) of a quota N:M, else None."""
        return quotas.pattern(self.quota)

    def require_density(self, density: float) -> None:
        """Raise InvalidInput unless a quota N:M keeps the density asked for."""
        if self.pattern is not None:
            n, m = self.pattern
            if abs(density - n / m) > 1e-9:
                raise InvalidInput(
                    f"quota {self.quota} keeps {n / m:g} of the weights but density is {density:g}; "
                    f"say --density {n / m:g}"
                )

    def require_columns(self, layer: str, columns: int) -> None:
        """Raise InvalidInput unless a layer's rows can be parted as a quota N:M wants."""
        if self.pattern is not None and columns % self.pattern[1]:
            raise InvalidInput(
                f"quota {self.quota}: layer {layer!r} has {columns} inputs, no multiple of {self.pattern[1]}; "
                "leave the layer out of the prunable parameters, or use --quota row"
            )

    def layer_quota(self, keep: int, rows: int, columns: int) -> Quota | None:
        """The quota of a layer that keeps `keep` weights; None where the rows are weighed together.

        With quota row the counts differ by at most one, the first rows keeping one more.
        """
        if self.pattern is not None:
            return Quota.n_m(rows * columns, *self.pattern)
        if self.quota == "layer":
            return None
        return Quota(np.repeat(np.arange(rows), columns), even(keep, rows))


def even(total: int, parts: int) -> IndexArray:
    """`total` as `parts` counts that differ by at most one, the larger first. int64 (parts,)"""
    counts = np.full(parts, total // parts, dtype=np.int64)
    counts[: total % parts] += 1
    return counts
