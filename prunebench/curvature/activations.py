"""The layer-input form: how much a linear layer's outputs change, row by row.

For inputs X (n, d_in) and one output row with dense weights w0, f(w) = 1/2 ||X (w - w0)||²/n: the
quadratic form with curvature X'X/n, the same for all rows of the layer (OBC, SparseGPT, Wanda, ALPS).
A convolution is the linear layer of its patches: d_in is input channels × kernel.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import FloatArray, frozen
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.core.problem import Samples
from prunebench.core.quadratic import QuadraticForm
from prunebench.curvature.module_use import require_calls_only
from prunebench.networks.network import PrunableNetwork, call_with, evaluation_mode
from prunebench.networks.samples import checked_positions

CHUNK_SAMPLES = 256
"""Samples in one forward pass: their layer inputs are held at once."""

Linear = torch.nn.Linear | torch.nn.Conv2d
"""The modules whose outputs are linear in inputs, or patches of inputs, that all output rows share."""


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """What the curvature of a linear layer's rows is made of.

    layer : the module's name
    gram : float64 (d_in, d_in)      X'X/n, read-only
    count : how many input vectors there were, n (positions in a sequence count each)
    weights : float64 (d_out, d_in)  the layer's dense weights, read-only
    """

    layer: str
    gram: FloatArray
    count: int
    weights: FloatArray

    def form(self, row: int, ridge: float) -> QuadraticForm:
        """The quadratic form of output row `row`; `ridge` is relative to the mean of the Gram's diagonal.

        Raises
        ------
        InvalidInput   there is no such row, or the layer's inputs are zero throughout
        """
        if not 0 <= row < len(self.weights):
            raise InvalidInput(f"layer {self.layer!r} has {len(self.weights)} output rows; there is no row {row}")
        mean_diagonal = float(self.gram.diagonal().mean())
        if mean_diagonal == 0.0:
            raise InvalidInput(f"layer {self.layer!r} gets zeros only, so its inputs say nothing about any weight")
        return QuadraticForm(hessian=self.gram, ridge=ridge * mean_diagonal, centre=self.weights[row])

    def forms(self, ridge: float) -> Iterator[QuadraticForm]:
        """The forms of all output rows, in order; they share one Gram matrix."""
        first = self.form(0, ridge)
        for row in self.weights:
            # A new form would copy and check the (d_in, d_in) matrix again for every row.
            form = copy.copy(first)
            object.__setattr__(form, "centre", frozen(row))
            object.__setattr__(form, "derived", first.derived)
            yield form


def layer_inputs(
    network: PrunableNetwork | torch.nn.Module,
    layer: str,
    samples: Samples,
    positions: npt.ArrayLike | Sequence[int],
    *,
    device: str = "cpu",
) -> LayerInputs:
    """Stream samples through the network and add up X'X of one linear layer's inputs in float64.

    Parameters
    ----------
    network : the model is run in evaluation mode where `device` says; nothing of it is changed
    layer : name of a torch.nn.Linear or torch.nn.Conv2d, or of its weight
    samples : Samples
    positions : int64 (s,)     which samples

    Raises
    ------
    UnknownName    the model has no module of that name
    InvalidInput   the module is neither, is never reached, gets NaN, or its weight is used otherwise than by calling it
    """
    model = network.model if isinstance(network, PrunableNetwork) else network
    name = layer.removesuffix(".weight")
    module = _linear(model, name)
    chosen = checked_positions(positions, len(samples))
    width = input_width(module)
    gram = torch.zeros((width, width), dtype=torch.float64, device=device)
    count = 0

    def add(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal count
        rows = input_rows(module, inputs[0].detach()).to(torch.float64)
        gram.addmm_(rows.T, rows)
        count += len(rows)

    one, _ = samples.batch(chosen[:1])
    place = next(model.parameters()).device
    require_calls_only(model, {name: module}, lambda: model(one.to(place)))
    tensors = {key: item.detach().to(device) for key, item in model.named_parameters()}
    tensors |= {key: item.detach().to(device, copy=True) for key, item in model.named_buffers()}
    hook = module.register_forward_pre_hook(add)
    try:
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for start in range(0, chosen.size, CHUNK_SAMPLES):
                inputs, _ = samples.batch(chosen[start : start + CHUNK_SAMPLES])
                call_with(model, tensors, inputs.to(device))
    finally:
        hook.remove()
    if count == 0:
        raise InvalidInput(f"layer {name!r} is never reached by the samples; choose a layer the network uses")
    held = gram.cpu().numpy() / count
    if not np.isfinite(held).all():
        raise InvalidInput(
            f"the inputs of layer {name!r} hold NaN or infinity; look for a diverged network or a broken sample"
        )
    weights = module.weight.detach().to(device="cpu", dtype=torch.float64).reshape(-1, width).numpy().copy()
    return LayerInputs(name, frozen(held), count, frozen(weights))


def input_width(module: Linear) -> int:
    """How many weights an output row of a linear layer or convolution has."""
    return int(module.weight[0].numel())


def input_rows(
    module: Linear, inputs: torch.Tensor, counted: torch.Tensor | None = None, step: int = 1, layer: str = ""
) -> torch.Tensor:
    """What each output of the module is a weighted sum of: its inputs, or the patches of a convolution. (n, width)

    Parameters
    ----------
    module : checked by `checked_linear`
    inputs : (..., in_features), or images (s, channels, height, width)
    counted : bool (s, t), optional     which positions of a linear layer's inputs count; the others are padding
    step : of a convolution, every how many of its outputs in both directions
    layer : its name, for messages
    """
    if isinstance(module, torch.nn.Conv2d):
        padding = module.padding
        if isinstance(padding, str):
            # torch keeps what "same" means in this order: left, right, top, bottom
            inputs = torch.nn.functional.pad(inputs, module._reversed_padding_repeated_twice)
            padding = (0, 0)
        stride = (step * module.stride[0], step * module.stride[1])
        patches = torch.nn.functional.unfold(
            inputs, module.kernel_size, dilation=module.dilation, padding=padding, stride=stride
        )
        return patches.transpose(1, 2).reshape(-1, input_width(module))
    return counted_rows(layer, inputs, counted)


def counted_rows(layer: str, inputs: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """A linear layer's inputs as rows, those of padding left out. (..., c) -> (n, c)

    Parameters
    ----------
    layer : for the message
    counted : bool (s, t), which positions are no padding; None where there is none

    Raises
    ------
    InvalidInput   there is padding, and the inputs do not show which of them are
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    if counted is None or bool(counted.all()):
        return rows
    counted = counted.to(rows.device)
    if counted.numel() == len(rows):
        return rows[counted.reshape(-1)]
    # A head's axis, say, may stand between the samples and the positions.
    length = [axis for axis in range(1, inputs.ndim - 1) if inputs.shape[axis] == counted.shape[1]]
    if len(inputs) == len(counted) and len(length) == 1:
        return inputs.movedim(length[0], 1)[counted].reshape(-1, inputs.shape[-1])
    raise InvalidInput(
        f"layer {layer!r} gets inputs of shape {tuple(inputs.shape)} for {tuple(counted.shape)} tokens, some of them "
        "padding, and which is not seen there; use packing=packed, whose sequences have no padding, or leave the "
        "layer out with exclude=NAME"
    )


def checked_linear(name: str, module: torch.nn.Module) -> Linear:
    """The module, if its outputs are linear in inputs or patches that all output rows share.

    Raises
    ------
    InvalidInput   another kind of module, a grouped convolution, or one that pads with other than zeros
    """
    if isinstance(module, torch.nn.Conv2d):
        if module.groups != 1:
            raise InvalidInput(
                f"layer {name!r} is a convolution of {module.groups} groups, whose output rows see different inputs; "
                "leave it out of the prunable parameters, or use another coordinator"
            )
        if module.padding_mode != "zeros":
            raise InvalidInput(f"layer {name!r} pads with {module.padding_mode!r}; layer-input forms know zeros only")
        return module
    if not isinstance(module, torch.nn.Linear):
        raise InvalidInput(
            f"layer {name!r} is a {type(module).__name__}; layer-input forms are for torch.nn.Linear and "
            "torch.nn.Conv2d only"
        )
    return module


def layer_input_form(
    network: PrunableNetwork | torch.nn.Module,
    layer: str,
    samples: Samples,
    positions: npt.ArrayLike | Sequence[int],
    *,
    row: int = 0,
    ridge: float = 0.01,
) -> QuadraticForm:
    """The layer-input form of one output row; `layer_inputs(...).forms(ridge)` gives all rows for one pass.

    Parameters and errors: as `layer_inputs` and `LayerInputs.form`. The default ridge is the one
    percent of the mean diagonal that OBC and SparseGPT use.
    """
    return layer_inputs(network, layer, samples, positions).form(row, ridge)


def _linear(model: torch.nn.Module, name: str) -> Linear:
    modules = dict(model.named_modules())
    if name not in modules:
        known = [key for key, module in modules.items() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
        raise unknown_name("layer", name, known)
    return checked_linear(name, modules[name])
