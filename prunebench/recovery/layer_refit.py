"""Layers refitted from the inputs on, so that the kept weights give again what the dense network gives.

A pruned layer is a least-squares problem of its own: every output row chooses its kept weights so that
from the inputs that reach it now the dense network's outputs come out, before whatever follows the layer
(Frantar, Alistarh: Optimal Brain Compression, NeurIPS 2022; Meng et al.: ALPS, NeurIPS 2024). It has many
more equations than unknowns, one a sample and place, where the loss of a sample is a single number; so it
settles thousands of weights from a few hundred samples, and without a gradient.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.coordinator import LeftDense
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.layer_sources import left_dense
from prunebench.curvature.module_use import used_otherwise
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.recovery.refittable import Refittable, groups_of, inputs_of, outputs_of, step_of

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
    network : its weights now are the dense ones. Prunable parameters are refitted that are the weight of a linear
              layer or a convolution which is called once and used in no other way; `left` says which are not
    samples, positions : the samples to be run
    ridge : pull to the weights as they stand, relative to the mean of the inputs' Gram diagonal

    Raises
    ------
    InvalidInput   there is no layer that can be refitted; the message says why not
    """

    def __init__(self, network: PrunableNetwork, samples: Samples, positions: IndexArray, *, ridge: float) -> None:
        self._network, self._ridge = network, ridge
        device = next(network.model.parameters()).device
        self._inputs: torch.Tensor = samples.batch(positions)[0].to(device)
        reasons: dict[str, str] = {}
        self._modules = _modules(network, reasons, lambda: network.model(self._inputs[:1]))
        outputs: dict[int, torch.Tensor] = {}

        def note(layer: int, module: Refittable, given: torch.Tensor, output: torch.Tensor) -> None:
            if layer in outputs:
                reasons[network.layers[layer].name] = "is used twice"
            outputs[layer] = outputs_of(module, output).clone()

        with evaluation_mode(network.model):
            self._run(note)
        for number in self._modules:
            if number not in outputs:
                reasons[network.layers[number].name] = "is never reached by the samples"
        self._modules = {
            number: module for number, module in self._modules.items() if network.layers[number].name not in reasons
        }
        self._targets = {number: outputs[number] for number in self._modules}
        self.left: tuple[LeftDense, ...] = left_dense(network, reasons)
        """Layers that are not refitted: they stay as they are pruned."""
        if not self._modules:
            name, reason = next(iter(reasons.items()))
            raise InvalidInput(f"there is no layer that can be refitted: {name!r} {reason}; leave recovery layers out")

    def costs(self, mask: BoolArray, curvature: FloatArray) -> FloatArray:
        """What ½w² of each weight costs if it goes and the rest of its row makes up for it. float64 (p,), positive

        The curvature of output row r over its inputs is taken for s_r·(G + ridge), with G the Gram
        matrix of the inputs and s_r what makes its trace that of `curvature` there (a Kronecker factor,
        diagonal over rows; Martens, Grosse: K-FAC, ICML 2015). Removing weight j and moving the other
        kept ones to their best then costs ½w_j²·s_r/[(G_SS + ridge)⁻¹]_jj (Hassibi, Stork: Optimal Brain
        Surgeon, NeurIPS 1992), S the kept weights of the row. In layers that are not refitted nothing makes up for a
        weight, and the cost is its curvature.

        Parameters
        ----------
        mask : bool (p,), the weights that are there;  curvature : float64 (p,), the diagonal of the Fisher matrix
        """
        out = np.zeros(mask.size)
        for number, span in enumerate(self._network.layers):
            if number not in self._modules:
                out[span.start : span.stop] = np.where(mask, curvature, 0.0)[span.start : span.stop]

        def add(layer: int, module: Refittable, given: torch.Tensor, output: torch.Tensor) -> None:
            span = self._network.layers[layer]
            part, groups = slice(span.start, span.stop), groups_of(module)
            tables = [held[part].reshape(groups, span.shape[0] // groups, -1) for held in (curvature, mask, out)]
            for inputs, table, kept, costs in zip(
                inputs_of(module, given, step_of(module, output)), *tables, strict=True
            ):
                _add_costs(self._gram(layer, inputs), table, kept, costs)

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
        self, layer: int, module: Refittable, given: torch.Tensor, output: torch.Tensor, mask: BoolArray
    ) -> torch.Tensor:
        """Refit one layer. -> its outputs with the new weights"""
        span, groups = self._network.layers[layer], groups_of(module)
        rows = span.shape[0] // groups
        weights = module.weight.detach().reshape(groups, rows, -1).to(torch.float64)
        kept = mask[span.start : span.stop].reshape(groups, rows, -1)
        targets = self._targets[layer]
        if module.bias is not None:
            targets = targets - module.bias.reshape(groups, 1, rows)
        for group, inputs in enumerate(inputs_of(module, given, step_of(module, output))):
            gram = self._gram(layer, inputs)
            shift = self._ridge * float(gram.diagonal().mean())
            if shift > 0.0:
                away = (targets[group].T @ inputs).to(torch.float64) / len(inputs) - weights[group] @ gram
                _move_to_best(weights[group], gram, away, kept[group], shift)
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
        use: Callable[[int, Refittable, torch.Tensor, torch.Tensor], torch.Tensor | None],
        count: int | None = None,
    ) -> None:
        """Send the first `count` samples through the network, or all.

        `use` gets every layer's number, module, inputs and outputs, and may give back other outputs.
        """

        def hook(layer: int) -> Callable[..., torch.Tensor | None]:
            def called(module: Any, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
                return use(layer, module, given[0], output)

            return called

        handles = [module.register_forward_hook(hook(number)) for number, module in self._modules.items()]
        try:
            with torch.no_grad():
                self._network.model(self._inputs[:count])
        finally:
            for handle in handles:
                handle.remove()


def _modules(network: PrunableNetwork, reasons: dict[str, str], forward: Callable[[], Any]) -> dict[int, Refittable]:
    """The modules of the layers that can be refitted, by the layers' numbers; adds to `reasons` why others cannot."""
    modules = dict(network.model.named_modules())
    found: dict[int, Refittable] = {}
    for number, layer in enumerate(network.layers):
        name = layer.name.removesuffix(".weight")
        module = modules.get(name)
        if name != layer.name and isinstance(module, Refittable):
            found[number] = module
        else:
            reasons[layer.name] = "is not the weight of a linear layer or a convolution"
    called = {network.layers[number].name.removesuffix(".weight"): module for number, module in found.items()}
    for name in used_otherwise(network.model, called, forward):
        reasons[f"{name}.weight"] = "is used otherwise than by calling its layer"
    return {number: module for number, module in found.items() if network.layers[number].name not in reasons}


def _add_costs(gram: torch.Tensor, table: FloatArray, kept: BoolArray, costs: FloatArray) -> None:
    """Write the costs of a group's kept weights. gram : (c, c);  the others : (rows, c)"""
    trace = float(gram.diagonal().sum())
    if trace == 0.0:
        return
    ridged = gram + COST_RIDGE * trace / len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for row, support in enumerate(kept):
        chosen = torch.from_numpy(np.flatnonzero(support)).to(gram.device)
        if chosen.numel():
            factor = torch.linalg.cholesky(ridged[chosen][:, chosen])
            inverse = torch.cholesky_inverse(factor).diagonal().cpu().numpy()
            costs[row, support] = table[row].sum() / trace / inverse


def _move_to_best(weights: torch.Tensor, gram: torch.Tensor, away: torch.Tensor, kept: BoolArray, shift: float) -> None:
    """Move the kept weights of a group's rows, in place. weights, away, kept : (rows, c);  gram : (c, c)"""
    for row, support in enumerate(kept):
        chosen = torch.from_numpy(np.flatnonzero(support)).to(gram.device)
        if chosen.numel():
            ridged = gram[chosen][:, chosen]
            ridged.diagonal().add_(shift)
            step = torch.cholesky_solve(away[row, chosen].unsqueeze(1), torch.linalg.cholesky(ridged))
            weights[row, chosen] += step.squeeze(1)


def _applied(module: Refittable, given: torch.Tensor) -> torch.Tensor:
    """The module's outputs, its hooks left out."""
    outputs: torch.Tensor = module.forward(given)
    return outputs
