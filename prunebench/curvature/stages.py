"""A network that is looked at about changing weights: gradient rows, true losses, batch-norm statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.drawn_labels import DrawnLabels
from prunebench.curvature.gradients import sample_gradients, stored_rows
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, row_weight
from prunebench.recovery.layer_refit import LayerRefit

EVALUATION_BATCH = 1000
_TINY = 1e-6
"""Variance below which a channel counts as dead: its statistics then stay as they are."""
Statistics = tuple[torch.Tensor, torch.Tensor]
"""A batch norm's running mean and variance, (channels,) each."""
SLICE_BYTES = 256 * 2**20
"""Gradients of the whole network that are held at a time while the columns of few weights are gathered."""


class StageNetwork:
    """A trained network with its calibration samples, for pruning in stages.

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
        if statistics.size and _batch_norms(network.model):
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
        norms = _batch_norms(model) if self._norms else []
        with evaluation_mode(model), _averaging(norms):
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


class BatchNormTracker:
    """Keeps batch-norm statistics in step with changing weights.

    The statistics that came with the network belong to its training, augmentation included, and
    are not those of plain samples. So what is re-estimated is how far the statistics moved since
    the tracker was made: means are shifted and variances scaled by that, and with the weights
    unchanged the network is exactly what it was.

    Parameters
    ----------
    model : its weights now are the reference
    samples, positions : over which averages are taken
    """

    def __init__(self, model: torch.nn.Module, samples: Samples, positions: IndexArray) -> None:
        self._model, self._samples, self._positions = model, samples, positions
        self._given = _statistics(model)
        reestimate_batch_norm(model, samples, positions)
        self._reference = _statistics(model)
        self._write(self._given)

    def update(self) -> None:
        """Bring the statistics up to date with the model's weights."""
        reestimate_batch_norm(self._model, self._samples, self._positions)
        moved = []
        for given, then, now in zip(self._given, self._reference, _statistics(self._model), strict=True):
            mean = given[0] + (now[0] - then[0])
            variance = given[1] * (now[1] + _TINY) / (then[1] + _TINY)
            moved.append((mean, variance))
        self._write(moved)

    def _write(self, statistics: Sequence[Statistics]) -> None:
        with torch.no_grad():
            for norm, (mean, variance) in zip(_batch_norms(self._model), statistics, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)


def _statistics(model: torch.nn.Module) -> list[Statistics]:
    out = []
    for norm in _batch_norms(model):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        out.append((norm.running_mean.clone(), norm.running_var.clone()))
    return out


def reestimate_batch_norm(
    model: torch.nn.Module, samples: Samples, positions: IndexArray, *, batch_size: int = 250
) -> None:
    """Replace the running statistics of every batch norm by averages over the samples, in training mode.

    The other modules stay in evaluation mode (no dropout). The average over batches weighs each the
    same, so the last, smaller batch is left out where there is another.
    """
    norms = _batch_norms(model)
    if not norms:
        return
    if positions.size < 2:
        raise InvalidInput("batch-norm statistics need at least 2 samples; give more")
    with evaluation_mode(model), _averaging(norms), torch.no_grad():
        for start in range(0, positions.size, batch_size):
            part = positions[start : start + batch_size]
            if part.size == batch_size or start == 0:
                model(samples.batch(part)[0])


@contextmanager
def _averaging(norms: list[torch.nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Batch norms that forget their statistics and average those of all batches that follow."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _batch_norms(model: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module.track_running_stats]
