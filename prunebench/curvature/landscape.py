"""A network as the landscape of block coordinate descent: one backward pass serves every block.

For a linear layer the sample gradient of weight (o, i) is Σ_t d_t[o]·a_t[i], with a the layer's
inputs and d the gradients of its outputs, so the columns of a block are gathered from what the one
backward pass has anyway; no gradient of a whole layer is formed per sample.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray, RealArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.gradient_work import Loss
from prunebench.curvature.gradients import sample_gradients
from prunebench.curvature.linear_passes import linear_modules, unsuited
from prunebench.curvature.network import Layer, PrunableNetwork, evaluation_mode
from prunebench.curvature.pass_memory import Activations, activations, pass_memory, require_room
from prunebench.curvature.samples import at_once, counted_positions
from prunebench.curvature.view import EVALUATION_BATCH, NetworkView, RowsView


class NetworkLandscape:
    """A trained network and its calibration samples.

    Parameters
    ----------
    problem : NetworkProblem     gives the samples and the loss
    network : PrunableNetwork    its weights are the dense ones; the model is written to by every call
    """

    def __init__(self, problem: NetworkProblem, network: PrunableNetwork) -> None:
        self.network = network
        self.dense_weights: RealArray = network.weights(network.precision)
        self.calibration: Samples = problem.calibration()
        self.loss_of: Loss = problem.loss
        self.linear = linear_modules(network)
        self.device = next(network.model.parameters()).device
        self._by_passes = not unsuited(network, self.calibration, self.device)
        self._activations: tuple[int, Activations] | None = None
        self.recompute = bool(getattr(problem, "checkpointing", False))

    @property
    def layers(self) -> Sequence[Layer]:
        """The prunable parameters in order."""
        return self.network.layers

    @property
    def samples(self) -> int:
        """How many calibration samples there are."""
        return len(self.calibration)

    def look(self, weights: RealArray, positions: IndexArray) -> NetworkView | RowsView:
        """The loss around `weights` on the samples at `positions`.

        Raises
        ------
        InvalidInput   a gradient is NaN or infinite; the message names the layer
        """
        if not self._by_passes:
            self.network.assign(weights)
            rows = sample_gradients(self.network, self.loss_of, self.calibration, positions)
            return RowsView(rows, self.loss(weights, positions))
        return NetworkView(self, weights, positions)

    def loss(self, weights: RealArray, positions: IndexArray) -> float:
        """The mean loss at `weights`, in evaluation mode, summed in float64."""
        self.network.assign(weights)
        total = 0.0
        model = self.network.model
        step = at_once(self.calibration, EVALUATION_BATCH)
        with evaluation_mode(model), torch.no_grad():
            for start in range(0, positions.size, step):
                inputs, targets = self.batch(positions[start : start + step])
                total += float(self.loss_of(model(inputs), targets).sum(dtype=torch.float64))
        return total / positions.size

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets where the model is."""
        inputs, targets = self.calibration.batch(positions)
        return inputs.to(self.device), targets.to(self.device)

    def require_room(self, batches: Sequence[IndexArray], rows: Sequence[int], columns: int, gradient: bool) -> None:
        """Raise InvalidInput, with bytes and remedy, unless there is memory for a pass.

        Parameters
        ----------
        batches : int64 (b,) each, the samples that go through together
        rows : of the factor, for each batch
        columns : weights in all blocks together
        gradient : whether the mean gradient of all weights is wanted
        """
        inputs, _ = self.batch(max(batches, key=len)[:1])
        size = inputs.numel()
        if self._activations is None or size > self._activations[0]:
            self._activations = size, activations(self.network.model, inputs)
        need = pass_memory(
            self._activations[1],
            batch=max(map(len, batches)),
            rows=sum(rows),
            batch_rows=max(rows),
            columns=columns,
            weights=self.network.total if gradient else 0,
            recompute=self.recompute,
        )
        require_room(need, self.device)

    def input_norms(self, positions: IndexArray) -> list[FloatArray]:
        """For every layer the norms of its input features in the dense network. float64 (columns,) each.

        Padding does not count.

        Raises
        ------
        InvalidInput   a prunable parameter is not the weight of a linear layer
        """
        for layer in self.network.layers:
            if layer.name not in self.linear:
                raise InvalidInput(
                    f"layer {layer.name!r} is not linear, so the score 'wanda' has no input norms for it"
                )
        squares: dict[str, FloatArray] = {}
        counted: torch.Tensor | None = None

        def note(name: str) -> Callable[..., None]:
            def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
                rows = inputs[0].detach()
                if counted is not None:
                    rows = rows[counted.to(rows.device)]
                # A column's sum of squares in float32 chunks, added up in float64.
                held = rows.reshape(-1, rows.shape[-1]).float().square().sum(dim=0, dtype=torch.float64).cpu().numpy()
                squares[name] = squares[name] + held if name in squares else held

            return hook

        self.network.assign(self.dense_weights)
        model = self.network.model
        hooks = [module.register_forward_hook(note(name)) for name, module in self.linear.items()]
        step = at_once(self.calibration, EVALUATION_BATCH)
        try:
            with evaluation_mode(model), torch.no_grad():
                for start in range(0, positions.size, step):
                    inputs, targets = self.batch(positions[start : start + step])
                    counted = counted_positions(self.calibration, targets)
                    model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return [np.sqrt(squares[layer.name]) for layer in self.network.layers]
