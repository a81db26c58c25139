"""Layers refitted to what they gave in the dense network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.core.recovery import Recovery, Stand, register

if TYPE_CHECKING:
    from prunebench.recovery.movable import MovableNetwork


@register
@dataclass(frozen=True, kw_only=True)
class Layers(Recovery):
    """Refit every layer, from the inputs on, to the outputs it has in the dense network: `recovery.layer_refit`."""

    name: ClassVar[str] = "layers"
    summary: ClassVar[str] = "Every layer's kept weights are refitted so that it gives what it gave before pruning."
    reference: ClassVar[str] = "Frantar, Alistarh: Optimal Brain Compression, NeurIPS 2022"
    needs_samples: ClassVar[bool] = True

    samples: int = 500
    """Calibration samples on which layers are refitted."""

    ridge: float = 0.01
    """Pull to the weights as they stand, relative to the mean diagonal of the Gram matrix of a layer's inputs."""

    temperature: float = 4.0
    """multi-stage: softens the predictions of which the Fisher matrix says what each output row of a layer counts."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InvalidInput(f"recovery layers: samples is {self.samples}; choose a whole number from 1")
        for name in ("ridge", "temperature"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise InvalidInput(f"recovery layers: {name} is {getattr(self, name)!r}; choose a positive number")

    def attach(self, network: "MovableNetwork") -> None:
        """Note the layers' dense outputs.

        Raises
        ------
        InvalidInput   more samples than are not held out, or layers that cannot be refitted alone
        """
        pool = network.division.pool
        if self.samples > pool.size:
            raise InvalidInput(
                f"recovery layers: samples is {self.samples}, but only {pool.size} samples are not held out; take fewer"
            )
        network.hold_outputs(pool[: self.samples], self.ridge)

    def rounds_after(self, kept: int, total: int, last: bool) -> int:
        """One after every stage."""
        return 1

    def candidates(self, stand: Stand) -> Sequence[FloatArray]:
        """The refitted weights."""
        return [stand.network.refitted(stand.weights, stand.mask)]
