"""A network as the landscape of block coordinate descent: one backward pass serves every block.

For a linear layer the sample gradient of weight (o, i) is Σ_t d_t[o]·a_t[i], with a the layer's
inputs and d the gradients of its outputs, so the columns of a block are gathered from what the one
backward pass has anyway; no gradient of a whole layer is formed per sample.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import Factor, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.gradients import sample_gradients
from prunebench.curvature.network import Layer, PrunableNetwork, evaluation_mode

EVALUATION_BATCH = 2000


class NetworkLandscape:
    """A trained network and its calibration samples.

    Parameters
    ----------
    problem : NetworkProblem     gives the samples and the loss
    network : PrunableNetwork    its weights are the dense ones; the model is written to by every call
    """

    def __init__(self, problem: NetworkProblem, network: PrunableNetwork) -> None:
        self.network = network
        self.dense_weights: FloatArray = network.weights()
        self._calibration: Samples = problem.calibration()
        self._loss = problem.loss
        self._linear = _linear_modules(network)

    @property
    def layers(self) -> Sequence[Layer]:
        """The prunable parameters in order."""
        return self.network.layers

    @property
    def samples(self) -> int:
        """How many calibration samples there are."""
        return len(self._calibration)

    def look(self, weights: FloatArray, positions: IndexArray) -> "NetworkView":
        """One forward and backward pass at `weights` over the samples at `positions`.

        Raises
        ------
        InvalidInput   a gradient is NaN or infinite; the message names the layer
        """
        self.network.assign(weights)
        if len(self._linear) < len(self.network.layers):
            rows = sample_gradients(self.network, self._loss, self._calibration, positions)
            return NetworkView(self.network.layers, rows, {}, self.loss(weights, positions))
        return self._look_through_linear_layers(positions)

    def loss(self, weights: FloatArray, positions: IndexArray) -> float:
        """The mean loss at `weights`, in evaluation mode, summed in float64."""
        self.network.assign(weights)
        total = 0.0
        model = self.network.model
        with evaluation_mode(model), torch.no_grad():
            for start in range(0, positions.size, EVALUATION_BATCH):
                inputs, targets = self._calibration.batch(positions[start : start + EVALUATION_BATCH])
                total += float(self._loss(model(inputs), targets).sum(dtype=torch.float64))
        return total / positions.size

    def input_norms(self, positions: IndexArray) -> FloatArray:
        """For every weight of a linear layer the norm of its input feature in the dense network. float64 (p,).

        Raises
        ------
        InvalidInput   a prunable parameter is not the weight of a linear layer
        """
        for layer in self.network.layers:
            if layer.name not in self._linear:
                raise InvalidInput(
                    f"layer {layer.name!r} is not linear, so the score 'wanda' has no input norms for it"
                )
        squares: dict[str, FloatArray] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
                flat = inputs[0].detach().to(torch.float64).reshape(-1, inputs[0].shape[-1])
                held = flat.square().sum(dim=0).numpy()
                squares[name] = squares[name] + held if name in squares else held

            return hook

        self.network.assign(self.dense_weights)
        hooks = [module.register_forward_hook(note(name)) for name, module in self._linear.items()]
        try:
            self.loss(self.dense_weights, positions)
        finally:
            for hook in hooks:
                hook.remove()
        out = np.empty(self.network.total)
        for layer in self.network.layers:
            out[layer.start : layer.stop] = np.tile(np.sqrt(squares[layer.name]), layer.shape[0])
        return out

    def _look_through_linear_layers(self, positions: IndexArray) -> "NetworkView":
        passes: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in self._linear}

        def watch(name: str) -> Callable[..., None]:
            def forward(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                held = inputs[0].detach()
                output.register_hook(  # type: ignore[no-untyped-call]  # torch leaves it untyped
                    lambda gradient: passes[name].append((held, gradient.detach()))
                )

            return forward

        model = self.network.model
        parameters = [model.get_parameter(layer.name) for layer in self.network.layers]
        flags = [parameter.requires_grad for parameter in parameters]
        hooks = [module.register_forward_hook(watch(name)) for name, module in self._linear.items()]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            with evaluation_mode(model), torch.enable_grad():
                inputs, targets = self._calibration.batch(positions)
                losses = self._loss(model(inputs), targets)
                gradients = torch.autograd.grad(losses.mean(), parameters)
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)
        mean = np.empty(self.network.total)
        for layer, gradient in zip(self.network.layers, gradients, strict=True):
            if not bool(torch.isfinite(gradient).all()):
                raise InvalidInput(f"the gradient of layer {layer.name!r} holds NaN or infinity; the network diverged")
            mean[layer.start : layer.stop] = gradient.reshape(-1).to(torch.float64).numpy()
        count = positions.size
        scale = float(np.sqrt(count))
        held = {
            name: [(a.numpy(), (d * scale).numpy()) for a, d in pairs]  # d of the mean loss is 1/count of a sample's
            for name, pairs in passes.items()
        }
        return NetworkView(self.network.layers, mean, held, float(losses.detach().to(torch.float64).mean()))


class NetworkView:
    """Mean gradient, loss, and the columns of any block, from one backward pass."""

    def __init__(
        self,
        layers: Sequence[Layer],
        gradients: npt.NDArray[Any],
        passes: dict[str, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]],
        loss: float,
    ) -> None:
        self._layers = layers
        self._passes = passes
        self._rows = gradients if gradients.ndim == 2 else None
        self.gradient: FloatArray = gradients.mean(axis=0, dtype=np.float64) if gradients.ndim == 2 else gradients
        self.loss: float = loss

    def factor(self, indices: IndexArray) -> Factor:
        """Sample gradients of the weights in `indices`, over sqrt(samples). float32 (n, b)."""
        if self._rows is not None:
            return np.asarray(self._rows[:, indices] / np.float32(np.sqrt(self._rows.shape[0])))
        first = next(iter(self._passes.values()))[0][0]
        out = np.zeros((first.shape[0], indices.size), dtype=np.float32)
        for layer in self._layers:
            inside = np.flatnonzero((indices >= layer.start) & (indices < layer.stop))
            if inside.size == 0:
                continue
            outputs, inputs = np.divmod(indices[inside] - layer.start, layer.shape[1])
            for a, d in self._passes[layer.name]:
                product = d[..., outputs] * a[..., inputs]
                out[:, inside] += product if product.ndim == 2 else product.reshape(a.shape[0], -1, inside.size).sum(1)
        return out

    def ridge(self, indices: IndexArray) -> FloatArray:
        """Zero: a network's loss brings no diagonal of its own."""
        return np.zeros(indices.size)


def _linear_modules(network: PrunableNetwork) -> dict[str, torch.nn.Linear]:
    """The linear layers among the prunable parameters, by parameter name."""
    modules = dict(network.model.named_modules())
    found = {}
    for layer in network.layers:
        owner, _, leaf = layer.name.rpartition(".")
        module = modules.get(owner)
        if leaf == "weight" and isinstance(module, torch.nn.Linear):
            found[layer.name] = module
    return found
