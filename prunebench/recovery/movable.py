"""A network that is moved to other weights and looked at there: gradient rows, true losses, refitted layers."""

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.drawn_labels import DrawnLabels
from prunebench.curvature.gradients import sample_gradients, stored_rows
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, row_weight
from prunebench.recovery.batch_norm import BatchNormTracker, averaging, batch_norms
from prunebench.recovery.layer_refit import LayerRefit

EVALUATION_BATCH = 1000
SLICE_BYTES = 256 * 2**20
"""Gradients of the whole network that are held at a time while the columns of few weights are gathered."""


class MovableNetwork:
    """A trained network that can be put at any weights, with its calibration samples.

    Parameters
    ----------
    problem : gives the samples and the loss
    network : the model is written to by every call
    statistics : calibration positions over which batch-norm statistics are re-estimated whenever
                 weights are put in; empty to leave them as they are
    layers : how layers are refitted, made while the network has its dense weights; none if they are not
    """

    def __init__(
        self,
        problem: NetworkProblem,
        network: PrunableNetwork,
        statistics: IndexArray,
        layers: LayerRefit | None = None,
    ) -> None:
        self.network = network
        self._loss = problem.loss
        self._calibration: Samples = problem.calibration()
        self._device = next(network.model.parameters()).device
        self.row_weight: float = row_weight(self._calibration)
        """How many independent observations a sample's loss is the mean of."""
        self.layers = layers
        self._norms: tuple[BatchNormTracker, ...] = ()
        if statistics.size and batch_norms(network.model):
            self._norms = (BatchNormTracker(network.model, self._calibration, statistics),)

    def place(self, weights: FloatArray, *, statistics: bool = True) -> None:
        """Put weights (p,) into the model and, if asked for, bring its batch-norm statistics up to date."""
        self.network.assign(weights)
        if statistics:
            for tracker in self._norms:
                tracker.update()

    def rows(
        self, positions: IndexArray, batch_size: int, chosen: IndexArray | None = None, store: str = ""
    ) -> npt.NDArray[np.float32]:
        """Gradient rows at the weights in place: of all weights, or of those in `chosen`. float32 (n, p) or (n, b).

        Those of all weights are held in a memory-mapped file in the folder `store`, if one is given.

        Raises
        ------
        InvalidInput   a gradient is NaN or infinite; the message names the layer
        """
        if chosen is None:
            return sample_gradients(
                self.network,
                self._loss,
                self._calibration,
                positions,
                batch_size=batch_size,
                out=stored_rows(store, positions.size // batch_size, self.network.total),
            )
        step = batch_size * max(1, SLICE_BYTES // (4 * self.network.total))
        parts = [
            self.rows(positions[start : start + step], batch_size)[:, chosen]
            for start in range(0, positions.size - batch_size + 1, step)
        ]
        return np.concatenate(parts)

    def fisher_rows(
        self, positions: IndexArray, batch_size: int, rng: np.random.Generator, temperature: float, store: str = ""
    ) -> npt.NDArray[np.float32]:
        """As `rows` of all weights, but at labels drawn from the network's own softened predictions: `DrawnLabels`."""
        drawn = DrawnLabels(self._calibration, self.network, rng, temperature)
        return sample_gradients(
            self.network,
            drawn.loss(self._loss),
            drawn,
            positions,
            batch_size=batch_size,
            out=stored_rows(store, positions.size // batch_size, self.network.total),
        )

    def refitted(self, weights: FloatArray, mask: BoolArray) -> FloatArray:
        """Weights (p,) with every layer's kept ones refitted to its dense outputs. -> float64 (p,), left in the network

        Batch norms use the statistics of the samples that are refitted on, as they change on the way.
        """
        assert self.layers is not None
        self.network.assign(weights)
        model = self.network.model
        norms = batch_norms(model) if self._norms else []
        with evaluation_mode(model), averaging(norms):
            return self.layers.refit(mask)

    def loss(self, positions: IndexArray) -> float:
        """The mean loss at the weights in place, in evaluation mode, summed in float64."""
        total = 0.0
        model = self.network.model
        with evaluation_mode(model), torch.no_grad():
            step = at_once(self._calibration, EVALUATION_BATCH)
            for start in range(0, positions.size, step):
                inputs, targets = self._calibration.batch(positions[start : start + step])
                losses = self._loss(model(inputs.to(self._device)), targets.to(self._device))
                total += float(losses.sum(dtype=torch.float64))
        return total / positions.size
