"""What an answer does to the network's own loss: model value against true loss."""

import numpy as np

from prunebench import threads
from prunebench.core.arrays import FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, spread

SAMPLES = 2000
"""Validation samples on which the loss is measured; all where there are fewer."""


class TrueLoss:
    """The mean loss of a network with a block's weights written into it, all others dense.

    The samples are drawn from the problem's validation set, which no block's curvature has seen.
    """

    def __init__(self, problem: NetworkProblem, samples: int = SAMPLES, batch: int = 500) -> None:
        from prunebench.networks.chosen import prunable_network
        from prunebench.networks.samples import at_once

        self._problem = problem
        self._network = prunable_network(problem)
        self._dense = self._network.weights()
        self._samples = problem.validation()
        count = min(samples, len(self._samples))
        self._positions = spread(len(self._samples), count, np.random.default_rng(0))
        self._batch = at_once(self._samples, batch)
        self._one_thread = threads.few(self._network.model, self._samples)
        self._incumbents: dict[str, float] = {}

    def change(self, block: BlockProblem, weights: FloatArray) -> float:
        """The loss with `weights` in the block's place minus that with its incumbent's. float (p,) -> float

        Raises
        ------
        InvalidInput   the block does not say where in the network its weights stand
        """
        if block.indices is None:
            raise InvalidInput(f"{block.name} has no indices, so its weights have no place in the network")
        if block.hash not in self._incumbents:
            self._incumbents[block.hash] = self._loss(block, block.weights_of(block.incumbent))
        return self._loss(block, weights) - self._incumbents[block.hash]

    def _loss(self, block: BlockProblem, weights: FloatArray) -> float:
        import torch

        changed = self._dense.copy()
        changed[block.indices] = weights
        self._network.assign(changed)
        from prunebench.networks.samples import fetched

        total, device = 0.0, next(self._network.model.parameters()).device
        with torch.no_grad(), threads.for_network(self._one_thread):
            for start in range(0, self._positions.size, self._batch):
                part = self._positions[start : start + self._batch]
                inputs, targets = fetched(self._samples, part, device)
                losses = self._problem.loss(self._network.model(inputs), targets)
                total += float(losses.double().sum())
        return total / self._positions.size
