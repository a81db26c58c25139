"""The loss that a model returns by itself, as one number a sample.

Such a loss is one number for the whole batch. Where a loss by name, taken of the same outputs and labels, gives for
every sample what the model gives for that sample alone, it stands for the model's own; elsewhere samples go through
the network one at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.core.errors import InvalidInput
from prunebench.networks.own_losses import (
    CLASSES,
    NEXT_TOKEN,
    Losses,
    agree,
    binary_cross_entropy,
    cross_entropy,
    main_output,
    mean_squares,
    next_token,
    own_loss,
    plain_targets,
)
from prunebench.networks.samples import Batch, Parts

LABELS = "labels"
"""The argument by which models of transformers take what their loss compares with."""

STANDING_IN: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    CLASSES: cross_entropy,
    NEXT_TOKEN: next_token,
    "mse": mean_squares,
    "binary_cross_entropy": binary_cross_entropy,
}
"""Losses that models return, in the order in which they are tried."""

LOOKED_AT = 4
"""Samples on which a loss by name must give what the model gives."""

Forward = Callable[[torch.nn.Module, Any], Any]
"""Calls a model with the inputs of a batch."""


@dataclass(frozen=True)
class ModelLoss:
    """How the model's own loss is taken.

    losses : of what `outputs` gives
    outputs : what the loss takes of a batch: the logits, or the losses themselves
    standing_in : the loss by name that gives the same; "" where samples go one at a time
    """

    losses: Losses
    outputs: Callable[[torch.nn.Module, Parts], Any]
    standing_in: str


def of_model(model: torch.nn.Module, forward: Forward, inputs: Parts, *, half: bool) -> ModelLoss:
    """The model's loss, looked at on a few samples.

    Parameters
    ----------
    model : in evaluation mode
    inputs : of a few samples, as `OwnSamples` gives them

    Raises
    ------
    InvalidInput   the outputs hold no loss
    """
    count = min(len(inputs), LOOKED_AT)
    with torch.no_grad():
        alone = torch.stack([_loss_of(forward(model, _given(inputs[i : i + 1]))) for i in range(count)])
        together = forward(model, _given(inputs[:count]))
    labels = labels_of(inputs[:count])
    for name, of in STANDING_IN.items():
        if labels is None:
            break
        try:
            found = of(main_output(together), labels)
        except (RuntimeError, IndexError, ValueError, InvalidInput):
            continue
        if agree(found, alone, half=half):
            told = (
                f"the model's own loss is taken for a batch as {name} of its logits and labels, which gives the same "
                f"on {count} samples"
            )
            held = Losses(name, lambda outputs, targets, of=of: of(outputs, plain_targets(targets)), told)  # type: ignore[misc]
            return ModelLoss(held, lambda m, parts: main_output(forward(m, _given(parts))), standing_in=name)
    told = "the model's own loss is one number a batch: samples go through it one at a time, which takes longer"
    return ModelLoss(Losses("the model's own", _as_given, told), _one_by_one(forward), standing_in="")


def labels_of(inputs: Parts) -> torch.Tensor | None:
    """The labels among the inputs that a model takes by name, None where there are none."""
    given = _given(inputs)
    labels = given.get(LABELS) if isinstance(given, dict) else None
    return labels if isinstance(labels, torch.Tensor) and labels.ndim else None


def _one_by_one(forward: Forward) -> Callable[[torch.nn.Module, Parts], torch.Tensor]:
    def losses(model: torch.nn.Module, inputs: Parts) -> torch.Tensor:
        # Inside torch's vmap there is one sample, and a loop over it is none.
        return torch.stack([_loss_of(forward(model, _given(inputs[i : i + 1]))) for i in range(len(inputs))])

    return losses


def _loss_of(outputs: Any) -> torch.Tensor:
    loss = own_loss(outputs)
    if loss is None:
        shape = f" of shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else ""
        raise InvalidInput(
            f"the model returns a {type(outputs).__name__}{shape} and no loss; give loss= a name or a function of "
            "(outputs, targets), or the labels with the data where the model computes its loss from them"
        )
    return loss.reshape(())


def _given(inputs: Parts) -> Any:
    return inputs.value[0]


def _as_given(outputs: torch.Tensor, _targets: Batch) -> torch.Tensor:
    return outputs
