"""A tiny network that is drawn and not trained, for tests of what runs over a network: no data, milliseconds a pass.

Its numbers are the same on every machine: weights and inputs are small multiples of a power of two, in float64.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prunebench.core.arrays import FloatArray
from prunebench.core.problem import Samples
from prunebench.core.registry import PROBLEMS

if TYPE_CHECKING:
    import torch

UNIT = 2.0**-20
"""All drawn numbers are small multiples of it, so that products of a few and their sums are exact."""

CALIBRATION, VALIDATION = 600, 200
"""Samples of each kind."""


def draw(rng: np.random.Generator, shape: Any) -> FloatArray:
    """Multiples of UNIT in (−1, 1), of that shape."""
    out: FloatArray = rng.integers(-(2**20) + 1, 2**20, size=shape) * UNIT
    return out


@dataclass(frozen=True)
class Drawn:
    """A network 16-12-8-4 with drawn weights in float64; the classes are those that it itself finds likeliest."""

    name: ClassVar[str] = "drawn"
    summary: ClassVar[str] = "a network with drawn weights"
    requires: ClassVar[tuple[str, ...]] = ()
    SIZES: ClassVar[tuple[int, ...]] = (16, 12, 8, 4)
    """Inputs, two hidden layers, classes."""

    def missing(self) -> str:
        """Nothing is."""
        return ""

    def model(self) -> "torch.nn.Sequential":
        """Linear layers, with biases of zero, and rectifiers between them."""
        import torch

        rng = np.random.default_rng(7)
        layers: list[torch.nn.Module] = []
        for columns, rows in itertools.pairwise(self.SIZES):
            with torch.random.fork_rng(devices=[]):
                layer = torch.nn.Linear(columns, rows, dtype=torch.float64)
            layer.weight.data = torch.tensor(2.0 * draw(rng, (rows, columns)))
            layer.bias.data = torch.zeros(rows, dtype=torch.float64)
            layers += [layer, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1]).eval()

    def prunable(self) -> tuple[str, ...]:
        """The three matrices."""
        return ("0.weight", "2.weight", "4.weight")

    def calibration(self) -> Samples:
        """Drawn inputs."""
        return self._samples(0, CALIBRATION)

    def validation(self) -> Samples:
        """Others."""
        return self._samples(1, VALIDATION)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Cross-entropy."""
        from prunebench.networks.classification import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Accuracy and loss on the validation samples."""
        from prunebench.networks.classification import evaluate_classifier

        return evaluate_classifier(model, self.validation())

    def _samples(self, seed: int, count: int) -> Samples:
        import torch

        from prunebench.networks.samples import TensorSamples

        inputs = torch.tensor(draw(np.random.default_rng([7, seed]), (count, self.SIZES[0])))
        with torch.no_grad():
            return TensorSamples(inputs, self.model()(inputs).argmax(dim=1))


@contextmanager
def drawn_network() -> Iterator[str]:
    """Inside, `Drawn` is a registered problem. -> its name"""
    PROBLEMS.names()
    PROBLEMS.register(Drawn)
    try:
        yield Drawn.name
    finally:
        PROBLEMS.forget(Drawn.name)
