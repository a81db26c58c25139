"""Labels drawn from the network itself, for the Fisher matrix of its own predictions.

With the data's labels, a network that fits its samples has gradients of a few hard ones and nothing else,
and what only the easy ones use seems free. The Fisher matrix proper takes labels from the network's
predictions (Martens: New insights and perspectives on the natural gradient method, JMLR 2020, §5, §11);
softened by a temperature they say of every output what it depends on, however sure the network is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.gradient_work import Loss
from prunebench.networks.network import PrunableNetwork, evaluation_mode


@dataclass(frozen=True)
class Softened:
    """A loss of outputs divided by a temperature. A value, and no closure, since workers are sent it."""

    given: Loss
    temperature: float

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """The loss of every sample. (s,)"""
        return self.given(outputs / self.temperature, targets)


class DrawnLabels:
    """Samples with labels drawn from softmax(outputs/temperature) of a network as it stands.

    A sample's label depends on the generator, its position and the network, not on how samples are
    batched.

    Parameters
    ----------
    samples : inputs are theirs;  network : a classifier
    rng : draws one number a sample
    temperature : 1 for the network's own predictions, more to soften them
    """

    def __init__(
        self, samples: Samples, network: PrunableNetwork, rng: np.random.Generator, temperature: float
    ) -> None:
        self._samples, self._network, self._temperature = samples, network, temperature
        self._levels = torch.from_numpy(rng.random(len(samples)))

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._samples)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the samples at `positions`, and the labels drawn for them, int64 (b,).

        Raises
        ------
        InvalidInput   the outputs are not one row of finite logits a sample
        """
        inputs, _ = self._samples.batch(positions)
        model = self._network.model
        device = next(model.parameters()).device
        with evaluation_mode(model), torch.no_grad():
            outputs = model(inputs.to(device))
        return inputs, self.labels(outputs, positions)

    def labels(self, outputs: torch.Tensor, positions: IndexArray) -> torch.Tensor:
        """The labels of the samples at `positions`, whose outputs these are. int64 (b,)

        Raises
        ------
        InvalidInput   the outputs are not one row of finite logits a sample
        """
        if not isinstance(outputs, torch.Tensor):
            raise InvalidInput(f"labels cannot be drawn from a {type(outputs).__name__}; outputs must be logits")
        outputs = outputs.to(device="cpu", dtype=torch.float64)
        if outputs.ndim != 2 or not bool(torch.isfinite(outputs).all()):
            raise InvalidInput(
                f"labels cannot be drawn from outputs of shape {tuple(outputs.shape)}; "
                "they must be finite logits (samples, classes)"
            )
        shares = torch.softmax(outputs / self._temperature, dim=1).cumsum(dim=1)
        levels = self._levels[torch.from_numpy(np.asarray(positions))].unsqueeze(1)
        labels = torch.searchsorted(shares, levels).squeeze(1)
        return labels.clamp_(max=outputs.shape[1] - 1)

    def loss(self, given: Loss) -> Loss:
        """The loss whose gradients at the drawn labels have the Fisher matrix for their second moment."""
        return Softened(given, self._temperature)


class EveryLabel:
    """All classes as labels, each counting as much as the network's softened predictions give it.

    The second moment of the gradients is then the Gauss–Newton matrix of the cross entropy itself, which drawn labels
    estimate, for one pass backward a class (Martens, 2020, §9).

    Parameters
    ----------
    temperature : as in `DrawnLabels`
    """

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def labels(self, outputs: torch.Tensor) -> list[torch.Tensor]:
        """Every class as the label of all samples. outputs : (s, classes)  ->  int64 (s,) each"""
        return [
            torch.full((len(outputs),), label, dtype=torch.int64, device=outputs.device)
            for label in range(outputs.shape[1])
        ]

    def shares(self, outputs: torch.Tensor) -> list[torch.Tensor]:
        """The probability of every class. outputs : (s, classes)  ->  (s,) each"""
        return list(torch.softmax(outputs.detach() / self._temperature, dim=1).T)

    def loss(self, given: Loss) -> Loss:
        """As in `DrawnLabels`."""
        return Softened(given, self._temperature)
