"""What the network comes to after training, with an answer's mask and weights in a block's place."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from prunebench import threads
from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.recovery.training.protocol import Protocol

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

MEASURES = {"loss": "retrained_loss", "accuracy": "retrained_accuracy", "perplexity": "retrained_perplexity"}
"""Measures of a network, and the columns of a comparison that have them after training."""


class Retrained:
    """Trains the network under an answer's mask, all weights outside the block free to move, and judges it.

    Equal masks and weights of a block are trained once.

    Parameters
    ----------
    problem : the network, its samples and measures;  protocol : by which it is trained
    """

    def __init__(self, problem: NetworkProblem, protocol: Protocol) -> None:
        from prunebench.networks.chosen import prunable_network

        self.problem, self.protocol = problem, protocol
        self._network = prunable_network(problem)
        self._state, self._dense = self._network.state(), self._network.weights()
        self._one_thread = threads.few(self._network.model, problem.validation())
        self._known: dict[str, dict[str, float]] = {}

    def measures(self, block: BlockProblem, mask: BoolArray, weights: FloatArray) -> dict[str, float]:
        """The columns of MEASURES that the network has, on the validation samples. mask bool, weights float (p,)

        Raises
        ------
        InvalidInput      the block does not say where in the network its weights stand
        PrunebenchError   the loss is no longer finite
        """
        from prunebench.recovery.training.starts import trainer

        key = hashlib.sha256(block.hash.encode() + mask.tobytes() + weights.tobytes()).hexdigest()
        if key not in self._known:
            kept, values = self.placed(block, mask, weights)
            self.dense().assign(values)
            with threads.for_network(self._one_thread):
                training = trainer(self.problem, self._network, kept, self.protocol)
                while not training.done:
                    training.epoch()
                training.finish()
                judged = self.problem.evaluate(self._network.model)
            self._known[key] = {MEASURES[name]: value for name, value in judged.items() if name in MEASURES}
        return self._known[key]

    def placed(self, block: BlockProblem, mask: BoolArray, weights: FloatArray) -> tuple[BoolArray, FloatArray]:
        """An answer's mask and weights in the network, all outside of the block as it is. bool, float64 (network's,)

        Raises
        ------
        InvalidInput   the block does not say where in the network its weights stand
        """
        if block.indices is None:
            raise InvalidInput(f"{block.name} has no indices, so its weights have no place in the network")
        kept, values = np.ones(self._dense.size, dtype=np.bool_), self._dense.copy()
        kept[block.indices], values[block.indices] = mask, weights
        return kept, values

    def dense(self) -> "PrunableNetwork":
        """The network, with its dense values."""
        self._network.load_state(self._state)
        return self._network
