"""A network that is moved to other weights and looked at there: gradient rows, true losses, refitted layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.core.recovery import Division, Recovery
from prunebench.curvature.drawn_labels import DrawnLabels
from prunebench.curvature.gradients import sample_gradients, stored_rows
from prunebench.curvature.windows import Windows
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.own_losses import plain_targets
from prunebench.networks.samples import at_once, row_weight
from prunebench.recovery.batch_norm import BatchNormTracker, averaging, batch_norms
from prunebench.recovery.layer_refit import LayerRefit

EVALUATION_BATCH = 1000
"""Samples that go through the network at a time where they do not say."""
SLICE_BYTES = 256 * 2**20
"""Gradients of the whole network that are held at a time while the columns of few weights are gathered."""


class MovableNetwork:
    """A trained network that can be put at any weights, with its calibration samples.

    Parameters
    ----------
    problem : gives the samples and the loss
    network : has its dense weights; the model is written to by every call
    division : which calibration samples judge, and from which steps take theirs
    steps : recoveries, which look at the dense network here

    Raises
    ------
    InvalidInput   a recovery does not fit the network
    """

    def __init__(
        self, problem: NetworkProblem, network: PrunableNetwork, division: Division, steps: Sequence[Recovery] = ()
    ) -> None:
        self.network, self.division = network, division
        self._loss = problem.loss
        self._calibration: Samples = problem.calibration()
        self._device = next(network.model.parameters()).device
        self.row_weight: float = row_weight(self._calibration)
        """How many independent observations a sample's loss is the mean of."""
        self.layers: LayerRefit | None = None
        """How layers are refitted, None if they are not."""
        self._norms: tuple[BatchNormTracker, ...] = ()
        for step in steps:
            step.attach(self)

    def track(self, positions: IndexArray) -> None:
        """Re-estimate batch-norm statistics over these samples whenever weights are put in, where there are any."""
        if positions.size and batch_norms(self.network.model):
            self._norms = (BatchNormTracker(self.network.model, self._calibration, positions),)

    def hold_outputs(self, positions: IndexArray, ridge: float) -> None:
        """Hold the layers' outputs on these samples, to which `refitted` brings them back.

        Raises
        ------
        InvalidInput   layers that cannot be refitted alone
        """
        self.layers = LayerRefit(self.network, self._calibration, positions, ridge=ridge)

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

    @contextmanager
    def windowed(self, width: int, rng: np.random.Generator) -> Iterator[None]:
        """Within it, gradient rows are those of windows of `width` tokens, one a sample, drawn anew; 0: of samples.

        Raises
        ------
        InvalidInput   the samples are no rows of tokens
        """
        whole, weight = self._calibration, self.row_weight
        if width:
            self._calibration = windows = Windows(whole, width, rng)
            self.row_weight = windows.row_weight
        try:
            yield
        finally:
            self._calibration, self.row_weight = whole, weight

    @property
    def draws_labels(self) -> bool:
        """Whether labels can be drawn from the network's predictions: targets are classes, one a sample."""
        targets = plain_targets(self._calibration.batch(np.zeros(1, dtype=np.int64))[1])
        return isinstance(targets, torch.Tensor) and targets.ndim == 1 and not targets.is_floating_point()

    def fisher_rows(
        self, positions: IndexArray, batch_size: int, rng: np.random.Generator, temperature: float, store: str = ""
    ) -> npt.NDArray[np.float32]:
        """As `rows` of all weights, but at labels drawn from the network's own softened predictions: `DrawnLabels`.

        Where `draws_labels` is false, at the data's own targets.
        """
        if not self.draws_labels:
            return self.rows(positions, batch_size, store=store)
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

    def held_out_loss(self) -> float:
        """The mean loss of the samples that judge, at the weights in place."""
        return self.loss(self.division.held)

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
