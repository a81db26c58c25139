"""A smaller network trained on what the dense one gives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from prunebench.core.errors import InvalidInput
from prunebench.core.recovery import Recovery, register


@register
@dataclass(frozen=True, kw_only=True)
class Distil(Recovery):
    """Train all parameters that are left on the dense network's outputs, without labels: `recovery.distillation`."""

    name: ClassVar[str] = "distil"
    summary: ClassVar[str] = "structured: the smaller network is trained on the dense one's outputs, without labels."
    reference: ClassVar[str] = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015"
    of_groups: ClassVar[bool] = True

    epochs: int = 10
    """How often all calibration samples are gone through, but 500 that judge."""

    rate: float = 0.002
    """Adam's rate at its highest; it falls to 0 along a cosine."""

    batch: int = 64
    """Samples of a step."""

    distance: Literal["squared", "divergence"] = "squared"
    """How outputs are compared: by squares, or as distributions over classes or tokens."""

    temperature: float = 4.0
    """With distance divergence: by what scores are divided before."""

    images: Literal["none", "shift", "mirror"] = "shift"
    """What is done to images: none; shift, by up to a sixteenth of their size; mirror, every second one besides."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"recovery distil: {name} is {getattr(self, name)!r}; choose a whole number from 1")
        for name in ("rate", "temperature"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise InvalidInput(f"recovery distil: {name} is {getattr(self, name)!r}; choose a positive number")
