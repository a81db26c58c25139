"""Layers refitted from the inputs on, so that the kept weights give again what the dense network gives.

A pruned layer is a least-squares problem of its own: every output row chooses its kept weights so that
from the inputs that reach it now the dense network's outputs come out, before whatever follows the layer
(Frantar, Alistarh: Optimal Brain Compression, NeurIPS 2022; Meng et al.: ALPS, NeurIPS 2024). It has many
more equations than unknowns, one a sample and place, where the loss of a sample is a single number; so it
settles thousands of weights from a few hundred samples, and without a gradient.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import Linear, checked_linear, input_rows
from prunebench.curvature.module_use import require_calls_only
from prunebench.networks.network import Layer, PrunableNetwork, evaluation_mode

PLACES = 64
"""Places of a sample's feature map that are looked at, at most: neighbours say nearly the same."""

COST_SAMPLES = 128
"""Samples that the Gram matrices of the costs are taken over: a ranking needs fewer than a fit."""

COST_RIDGE = 0.1
"""Ridge of the costs, relative to the mean diagonal of the Gram matrix: others of the row will go as well."""

_FLOOR = 1e-9
"""Cost of weights that cost nothing (dead rows, weights that are gone), relative to the mean cost."""


class LayerRefit:
    """The linear layers and convolutions of a network, with what the dense network gives at each of them.

    All samples go through the network at once, because a layer is solved while they pass; the dense
    outputs are held, up to 64 places a sample and layer.

    Parameters
    ----------
    network : its weights now are the dense ones; every prunable parameter must be the weight of a
              torch.nn.Linear or an ungrouped, zero-padded Conv2d that is called once
    samples, positions : the samples to be run
    ridge : pull to the weights as they stand, relative to the mean of the inputs' Gram diagonal

    Raises
    ------
    InvalidInput   a prunable parameter of another kind, a layer that is not called exactly once, or whose weight is
                   used otherwise than by calling it
    """

    def __init__(self, network: PrunableNetwork, samples: Samples, positions: IndexArray, *, ridge: float) -> None:
        self._network, self._ridge = network, ridge
        self._modules = [_module(network.model, layer) for layer in network.layers]
        device = next(network.model.parameters()).device
        self._inputs: torch.Tensor = samples.batch(positions)[0].to(device)
        called = {layer.name.removesuffix(".weight"): m for layer, m in zip(network.layers, self._modules, strict=True)}
        require_calls_only(network.model, called, lambda: network.model(self._inputs[:1]))
        outputs: dict[int, torch.Tensor] = {}

        def note(layer: int, module: Linear, given: torch.Tensor, output: torch.Tensor) -> None:
            if layer in outputs:
                raise InvalidInput(f"layer {network.layers[layer].name!r} is used twice; it cannot be refitted alone")
            outputs[layer] = _output_rows(module, output).clone()

        with evaluation_mode(network.model):
            self._run(note)
        missing = [layer.name for number, layer in enumerate(network.layers) if number not in outputs]
        if missing:
            raise InvalidInput(f"layer {missing[0]!r} is never reached by the samples; it cannot be refitted")
        self._targets = [outputs[number] for number in range(len(network.layers))]

    def costs(self, mask: BoolArray, curvature: FloatArray) -> FloatArray:
        """What ½w² of each weight costs if it goes and the rest of its row makes up for it. float64 (p,), positive

        The curvature of output row r over its inputs is taken for s_r·(G + ridge), with G the Gram
        matrix of the inputs and s_r what makes its trace that of `curvature` there (a Kronecker factor,
        diagonal over rows; Martens, Grosse: K-FAC, ICML 2015). Removing weight j and moving the other
        kept ones to their best then costs ½w_j²·s_r/[(G_SS + ridge)⁻¹]_jj (Hassibi, Stork: Optimal Brain
        Surgeon, NeurIPS 1992), S the kept weights of the row.

        Parameters
        ----------
        mask : bool (p,), the weights that are there;  curvature : float64 (p,), the diagonal of the Fisher matrix
        """
        out = np.zeros(mask.size)

        def add(layer: int, module: Linear, given: torch.Tensor, output: torch.Tensor) -> None:
            span = self._network.layers[layer]
            inputs = input_rows(module, given, step=_step(module, output))
            gram = self._gram(layer, inputs)
            trace = float(gram.diagonal().sum())
            if trace == 0.0:
                return
            ridged = gram + COST_RIDGE * trace / len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            part = slice(span.start, span.stop)
            table, kept = curvature[part].reshape(-1, len(gram)), mask[part].reshape(-1, len(gram))
            costs = out[part].reshape(-1, len(gram))
            for row, support in enumerate(kept):
                chosen = torch.from_numpy(np.flatnonzero(support)).to(gram.device)
                if chosen.numel():
                    factor = torch.linalg.cholesky(ridged[chosen][:, chosen])
                    inverse = torch.cholesky_inverse(factor).diagonal().cpu().numpy()
                    costs[row, support] = table[row].sum() / trace / inverse

        with evaluation_mode(self._network.model):
            self._run(add, COST_SAMPLES)
        return np.maximum(out, _FLOOR * out.mean() if out.any() else 1.0)

    def refit(self, mask: BoolArray) -> FloatArray:
        """Refit every layer in the order in which they are run, and leave the result in the network. -> float64 (p,)

        The modules stay in the modes that they have: batch norms in training mode follow the refitted weights.

        mask : bool (p,), the weights that are kept; the others are zero in the network already
        """
        self._run(lambda layer, module, given, output: self._solve(layer, module, given, output, mask))
        weights: FloatArray = self._network.weights()
        return weights

    def _solve(
        self, layer: int, module: Linear, given: torch.Tensor, output: torch.Tensor, mask: BoolArray
    ) -> torch.Tensor:
        """Refit one layer. -> its outputs with the new weights"""
        span = self._network.layers[layer]
        inputs = input_rows(module, given, step=_step(module, output))
        gram = self._gram(layer, inputs)
        shift = self._ridge * float(gram.diagonal().mean())
        if shift > 0.0:
            target = self._targets[layer] if module.bias is None else self._targets[layer] - module.bias
            weights = module.weight.detach().reshape(span.shape[0], -1).to(torch.float64)
            away = (target.T @ inputs).to(torch.float64) / len(inputs) - weights @ gram
            kept = mask[span.start : span.stop].reshape(span.shape[0], -1)
            for row, support in enumerate(kept):
                chosen = torch.from_numpy(np.flatnonzero(support)).to(gram.device)
                if chosen.numel():
                    ridged = gram[chosen][:, chosen]
                    ridged.diagonal().add_(shift)
                    step = torch.cholesky_solve(away[row, chosen].unsqueeze(1), torch.linalg.cholesky(ridged))
                    weights[row, chosen] += step.squeeze(1)
            with torch.no_grad():
                module.weight.copy_(weights.reshape(module.weight.shape))
        return _applied(module, given)

    def _gram(self, layer: int, inputs: torch.Tensor) -> torch.Tensor:
        """X'X/n of a layer's input rows, float64.

        Raises
        ------
        InvalidInput   NaN or infinity; the message names the layer
        """
        gram = (inputs.T @ inputs).to(torch.float64) / len(inputs)
        if not bool(torch.isfinite(gram).all()):
            name = self._network.layers[layer].name
            raise InvalidInput(f"the inputs of layer {name!r} hold NaN or infinity; look for a diverged network")
        return gram

    def _run(
        self,
        use: Callable[[int, Linear, torch.Tensor, torch.Tensor], torch.Tensor | None],
        count: int | None = None,
    ) -> None:
        """Send the first `count` samples through the network, or all.

        `use` gets every layer's number, module, inputs and outputs, and may give back other outputs.
        """

        def hook(layer: int) -> Callable[..., torch.Tensor | None]:
            def called(module: Any, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
                return use(layer, module, given[0], output)

            return called

        handles = [module.register_forward_hook(hook(number)) for number, module in enumerate(self._modules)]
        try:
            with torch.no_grad():
                self._network.model(self._inputs[:count])
        finally:
            for handle in handles:
                handle.remove()


def _module(model: torch.nn.Module, layer: Layer) -> Linear:
    name = layer.name.removesuffix(".weight")
    modules = dict(model.named_modules())
    if name == layer.name or name not in modules:
        raise InvalidInput(f"parameter {layer.name!r} is not the weight of a module; it cannot be refitted by layers")
    return checked_linear(name, modules[name])


def _step(module: Linear, output: torch.Tensor) -> int:
    """Every how many places of a feature map are looked at, in both directions."""
    if isinstance(module, torch.nn.Linear):
        return 1
    return max(1, math.ceil(math.sqrt(output.shape[2] * output.shape[3] / PLACES)))


def _output_rows(module: Linear, output: torch.Tensor) -> torch.Tensor:
    """The outputs that are looked at, in the order of `input_rows`. (n, rows)"""
    if isinstance(module, torch.nn.Linear):
        return output.reshape(-1, output.shape[-1])
    step = _step(module, output)
    return output[:, :, ::step, ::step].permute(0, 2, 3, 1).reshape(-1, output.shape[1])


def _applied(module: Linear, given: torch.Tensor) -> torch.Tensor:
    """The module's outputs, its hooks left out."""
    outputs: torch.Tensor = module.forward(given)
    return outputs
