"""Batch-norm statistics that follow the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunebench.core.errors import InvalidInput
from prunebench.core.recovery import Recovery, register

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork


@register
@dataclass(frozen=True, kw_only=True)
class BatchNorm(Recovery):
    """Re-estimate batch-norm statistics whenever weights are put into the network, where it has any."""

    name: ClassVar[str] = "batch-norm"
    summary: ClassVar[str] = "Batch-norm statistics are re-estimated whenever weights are put into the network."
    moves: ClassVar[bool] = False

    samples: int = 2000
    """Calibration samples over which they are re-estimated, or all that are not held out."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidInput(f"recovery batch-norm: samples is {self.samples}; choose a whole number from 1")

    def attach(self, network: "MovableNetwork") -> None:
        """Note the statistics of the dense network: what is re-estimated is how far they move."""
        network.track(network.division.pool[: self.samples])
