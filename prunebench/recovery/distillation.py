"""Training of a smaller network on what the dense one gives, without labels: epochs that resume to the bit.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.coordinator import checked_array
from prunebench.core.errors import PrunebenchError
from prunebench.recovery.outputs import divergence, squared
from prunebench.recovery.tensors import array_of

WARM_STEPS = 50
"""Steps in which the rate rises from 0: Adam's first steps are large, its averages being of few gradients."""

SHIFT = 16
"""Images are shifted by up to one part in this many of their size: 2 of 32 pixels."""

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Pace:
    """How a network is trained.

    epochs, rate, batch : of Adam, whose rate falls to 0 along a cosine
    distance : of outputs: "squared", or "divergence" of the distributions of what are scores of classes or tokens
    temperature : by what scores are divided before their distributions are compared
    images : what is done to images: "none", "shift", or "mirror" (shift, and mirror every second one)
    """

    epochs: int
    rate: float
    batch: int
    distance: str
    temperature: float
    images: str


class Distillation:
    """Trains a module, in place, to give what another one gives.

    Parameters
    ----------
    smaller : the module that is trained;  dense : gives what is to come out
    inputs, positions : positions of samples -> what both see of them; which samples it is trained on
    seed : of order and of changes to images;  at_once : samples that go through both networks while they are compared
    """

    def __init__(
        self, smaller: torch.nn.Module, dense: Call, inputs: Call, positions: IndexArray, *,
        pace: Pace, seed: int, at_once: int,
    ) -> None:  # fmt: skip
        self._smaller, self._dense, self._inputs, self._positions = smaller, dense, inputs, positions
        self._pace, self._seed, self._at_once = pace, seed, at_once
        self._named = {name: held for name, held in smaller.named_parameters() if held.is_floating_point()}
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self._adam = torch.optim.Adam(self._named.values(), lr=pace.rate)
        self.epochs = 0
        """Epochs done."""

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self.epochs >= self._pace.epochs

    def epoch(self) -> float:
        """Go once through the samples. -> the mean distance of the batches

        Raises
        ------
        PrunebenchError   it stopped being finite
        """
        seeds = np.random.SeedSequence(self._seed, spawn_key=(self.epochs,)).generate_state(2)
        order = self._positions[np.random.default_rng(int(seeds[0])).permutation(self._positions.size)]
        generator = torch.Generator().manual_seed(int(seeds[1]))
        many = -(-order.size // self._pace.batch)
        total = 0.0
        for k in range(many):
            chosen = order[k * self._pace.batch : (k + 1) * self._pace.batch]
            inputs = changed(self._inputs(chosen), self._pace.images, generator)
            total += self._step(inputs, self.epochs * many + k, self._pace.epochs * many) * chosen.size
        self.epochs += 1
        if self.done:
            self._smaller.requires_grad_(False)
        return total / order.size

    def distance(self, positions: IndexArray) -> float:
        """The mean distance of the two networks' outputs on these samples."""
        total, step = 0.0, self._at_once
        with torch.no_grad():
            for start in range(0, positions.size, step):
                chosen = positions[start : start + step]
                inputs = self._inputs(chosen)
                total += float(self._apart(self._smaller(inputs), self._dense(inputs))) * chosen.size
        return total / positions.size

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Parameters, and what Adam remembers."""
        out = {f"now.{name}": array_of(held) for name, held in self._named.items()}
        for name, held in self._named.items():
            memory = self._adam.state.get(held, {})
            out |= {f"{key}.{name}": array_of(torch.as_tensor(value)) for key, value in memory.items()}
        return out

    def load(self, arrays: Mapping[str, npt.NDArray[Any]], epochs: int) -> None:
        """Go on from what `state` gave after so many epochs.

        Raises
        ------
        InvalidInput   an array is missing, or of another shape
        """
        self.epochs = epochs
        with torch.no_grad():
            for name, held in self._named.items():
                shape = tuple(held.shape)
                held.copy_(torch.from_numpy(np.array(checked_array(arrays, f"now.{name}", shape, "f"))))
                if epochs:
                    self._adam.state[held] = {
                        "step": torch.tensor(float(checked_array(arrays, f"step.{name}", (), "f"))),
                        **{
                            key: torch.from_numpy(np.array(checked_array(arrays, f"{key}.{name}", shape, "f"))).to(held)
                            for key in ("exp_avg", "exp_avg_sq")
                        },
                    }

    def _step(self, inputs: Any, number: int, steps: int) -> float:
        warm = min(1.0, (number + 1) / WARM_STEPS)
        for group in self._adam.param_groups:
            group["lr"] = self._pace.rate * warm * 0.5 * (1.0 + math.cos(math.pi * number / steps))
        with torch.no_grad():
            aimed = self._dense(inputs)
        with torch.enable_grad():
            apart = self._apart(self._smaller(inputs), aimed)
            if not bool(torch.isfinite(apart)):
                raise PrunebenchError("the distance to the dense network stopped being finite; take a smaller rate")
            self._adam.zero_grad(set_to_none=True)
            apart.backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        return float(apart.detach())

    def _apart(self, found: Any, aimed: Any) -> torch.Tensor:
        if self._pace.distance == "divergence":
            return divergence(found, aimed, self._pace.temperature)
        return squared(found, aimed)


def changed(inputs: Any, how: str, generator: torch.Generator) -> Any:
    """Images shifted by a few pixels, what comes in at a border being mirrored, and mirrored where asked for.

    inputs : images are float (b, channels, height, width); anything else is returned as it is
    """
    images = isinstance(inputs, torch.Tensor) and inputs.ndim == 4 and inputs.is_floating_point()
    if how == "none" or not images:
        return inputs
    count, _, height, width = inputs.shape
    if how == "mirror":
        flips = torch.rand(count, generator=generator).to(inputs.device) < 0.5
        inputs = torch.where(flips[:, None, None, None], inputs.flip(-1), inputs)
    down, right = height // SHIFT, width // SHIFT
    padded = torch.nn.functional.pad(inputs, (right, right, down, down), mode="reflect")
    rows = torch.randint(0, 2 * down + 1, (count,), generator=generator).tolist()
    columns = torch.randint(0, 2 * right + 1, (count,), generator=generator).tolist()
    return torch.stack(
        [padded[k, :, r : r + height, c : c + width] for k, (r, c) in enumerate(zip(rows, columns, strict=True))]
    )
