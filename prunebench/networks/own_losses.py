"""The loss of a user's network as one number a sample: by name, by a function of theirs, or the model's own."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.networks.samples import Batch, Parts

Loss = Callable[[Any, Any], torch.Tensor]
"""Outputs and targets of s samples -> the loss of every sample, (s,)."""

IGNORED = -100
"""The label that counts for nothing, as in torch and transformers."""

CLOSE, CLOSE_HALF = 1e-4, 2e-2
"""Relative difference up to which two ways of computing a loss agree: rounding of float32, and of 16 bits."""

MEAN, SUM = "mean", "sum"
"""What torch's own losses call their reductions to one number."""


@dataclass(frozen=True)
class Losses:
    """How the loss of every sample is computed.

    name : what reports call it;  of : outputs and targets of s samples -> (s,)
    told : what the user should know of it, "" where it went as usual
    """

    name: str
    of: Loss
    told: str = ""


def main_output(outputs: Any) -> torch.Tensor:
    """What a loss by name looks at: the outputs themselves, their `logits`, or the first of several.

    Raises
    ------
    InvalidInput   there is no tensor
    """
    held = outputs
    if not isinstance(held, torch.Tensor):
        logits = held.get("logits") if isinstance(held, Mapping) else getattr(held, "logits", None)
        held = logits if logits is not None else held
    if isinstance(held, tuple | list) and held:
        held = held[0]
    if not isinstance(held, torch.Tensor):
        raise InvalidInput(
            f"the model returns a {type(outputs).__name__} without logits, of which a loss by name makes nothing; give "
            "the loss as a function of (outputs, targets)"
        )
    return held


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of classes, (s, c) with labels (s,) or probabilities (s, c); of every place too, (s, c, …) or (s, …, c)."""
    if outputs.ndim > 2 and outputs.shape[:-1] == targets.shape and outputs.shape[2:] != targets.shape[1:]:
        outputs = outputs.movedim(-1, 1)
    losses = functional.cross_entropy(_wide(outputs), targets, reduction="none")
    if losses.ndim == 1:
        return losses
    return _mean(losses, None if targets.is_floating_point() else targets != IGNORED)


def next_token(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of every next token: logits (s, t, c) and the token ids (s, t), those of IGNORED left out."""
    return cross_entropy(outputs[:, :-1].movedim(-1, 1), targets[:, 1:])


def binary_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of logits, with targets from 0 to 1 of the same shape."""
    held = _alike(outputs, targets)
    return _mean(functional.binary_cross_entropy_with_logits(outputs, held.to(outputs.dtype), reduction="none"))


def mean_squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of each sample."""
    return _mean(functional.mse_loss(outputs, _alike(outputs, targets).to(outputs.dtype), reduction="none"))


def mean_distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference of each sample."""
    return _mean(functional.l1_loss(outputs, _alike(outputs, targets).to(outputs.dtype), reduction="none"))


def smooth_distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean of torch's smooth_l1 of each sample."""
    return _mean(functional.smooth_l1_loss(outputs, _alike(outputs, targets).to(outputs.dtype), reduction="none"))


def negative_log_likelihood(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of logarithms of probabilities (s, c, …) and labels (s, …)."""
    losses = functional.nll_loss(_wide(outputs), targets, reduction="none")
    return losses if losses.ndim == 1 else _mean(losses, targets != IGNORED)


CLASSES, NEXT_TOKEN = "cross_entropy", "next_token"
"""Names of losses of which more is known: accuracy, perplexity."""

NAMED: Mapping[str, Loss] = {
    CLASSES: cross_entropy,
    NEXT_TOKEN: next_token,
    "binary_cross_entropy": binary_cross_entropy,
    "nll": negative_log_likelihood,
    "mse": mean_squares,
    "l1": mean_distance,
    "smooth_l1": smooth_distance,
}
"""The losses by name; all take what the model puts out, logits where they are of classes."""


def named(name: str) -> Losses:
    """A loss by name.

    Raises
    ------
    UnknownName   there is none; the message has the nearest
    """
    if name not in NAMED:
        raise unknown_name("loss", name, NAMED, "(or give a function of (outputs, targets))")
    of = NAMED[name]
    return Losses(name, lambda outputs, targets: of(main_output(outputs), plain_targets(targets)))


def of_function(given: Callable[..., Any], outputs: Any, targets: Batch, *, is_mean: bool) -> Losses:
    """A user's function of (outputs, targets), looked at on two samples (or the only one there is).

    One value a sample is taken as it is. A single number is applied to one sample at a time, if it is the mean of
    what it says of each of the two, or if the user says so.

    Parameters
    ----------
    outputs, targets : of two samples
    is_mean : the user's word that the loss of a batch is the mean of its samples'

    Raises
    ------
    InvalidInput   anything else; the message says what it gives
    """
    name = getattr(given, "__name__", type(given).__name__)
    found = _unreduced(given, outputs, targets)
    if found is not None:
        told = f"loss {name} is taken with reduction='none', one value a sample"
        return Losses(name, lambda o, t: _tensor(name, found(o, plain_targets(t))), told)
    count = len(targets)
    value = _tensor(name, given(outputs, plain_targets(targets)))
    each = [_tensor(name, given(_sample(outputs, i, count), plain_targets(targets[i : i + 1]))) for i in range(count)]
    if value.shape == (count,) and all(one.shape == (1,) for one in each):
        return Losses(name, lambda o, t: _tensor(name, given(o, plain_targets(t))))
    if value.numel() != 1 or any(one.numel() != 1 for one in each):
        raise InvalidInput(
            f"loss {name} gives shape {tuple(value.shape)} for {count} samples; expected one value a sample, "
            f"({count},), or their mean: average over everything but the first axis"
        )
    mean = torch.stack([one.reshape(()) for one in each]).mean()
    told_so = is_mean or getattr(given, "reduction", None) in (MEAN, SUM)
    if not told_so and not _close(value.reshape(()), mean):
        raise InvalidInput(
            f"loss {name} gives one number for a batch of {count} ({float(value):.6g}), which is not the mean of what "
            f"it gives for each sample ({float(mean):.6g}); give one value a sample, or say loss_is_mean=True, and it "
            "is applied to one sample at a time"
        )
    told = f"loss {name} gives one number a batch: it is applied to one sample at a time"
    return Losses(name, lambda o, t: _one_at_a_time(name, given, o, t), told)


def own_loss(outputs: Any) -> torch.Tensor | None:
    """The loss that a model returns: `.loss`, under "loss", the first of several, or a lone number; None if none."""
    held = outputs
    if isinstance(held, Mapping):
        held = held.get("loss")
    elif not isinstance(held, torch.Tensor):
        held = getattr(held, "loss", held[0] if isinstance(held, tuple | list) and held else None)
    return held if isinstance(held, torch.Tensor) and held.numel() == 1 else None


def plain_targets(targets: Batch) -> Any:
    """The targets as the user gave them."""
    if not isinstance(targets, Parts):
        return targets
    held = targets.value
    return held[TARGETS] if isinstance(held, dict) and set(held) == {TARGETS, COUNTED} else held


TARGETS, COUNTED = "prunebench targets", "prunebench counted"
"""Under these names the targets of a batch are held together with what of its inputs is no padding."""


def agree(first: torch.Tensor, second: torch.Tensor, *, half: bool = False) -> bool:
    """Whether two computations of the same losses agree up to rounding."""
    return first.shape == second.shape and _close(first, second, CLOSE_HALF if half else CLOSE)


def _close(first: torch.Tensor, second: torch.Tensor, tolerance: float = CLOSE) -> bool:
    wide = first.double(), second.double()
    return bool(torch.allclose(*wide, rtol=tolerance, atol=tolerance * float(wide[1].abs().max())))


def _unreduced(given: Any, outputs: Any, targets: Batch) -> Callable[..., Any] | None:
    """A loss module of torch's without its reduction, where that gives one value a sample."""
    if not isinstance(given, torch.nn.Module) or getattr(given, "reduction", None) not in (MEAN, SUM):
        return None
    made = copy.copy(given)
    setattr(made, "reduction", "none")  # noqa: B010
    value = made(outputs, plain_targets(targets))
    return made if isinstance(value, torch.Tensor) and value.shape == (len(targets),) else None


def _one_at_a_time(name: str, given: Callable[..., Any], outputs: Any, targets: Batch) -> torch.Tensor:
    count = len(targets)
    if count == 1:
        return _tensor(name, given(outputs, plain_targets(targets))).reshape(1)
    parts = [given(_sample(outputs, i, count), plain_targets(targets[i : i + 1])) for i in range(count)]
    return torch.stack([_tensor(name, part).reshape(()) for part in parts])


def _sample(outputs: Any, number: int, count: int) -> Any:
    """What a batch's outputs say of one sample: of every tensor with the samples along its first axis one row."""

    def one(leaf: Any) -> Any:
        samples = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == count
        return leaf[number : number + 1] if samples else leaf

    return pytree.tree_map(one, outputs)


def _tensor(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise InvalidInput(
            f"loss {name} gives a {type(value).__name__}; expected a tensor that torch can differentiate"
        )
    return value


def _alike(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The targets in the outputs' shape, of which they may lack or have axes of length 1.

    Raises
    ------
    InvalidInput   they are of another shape, which torch would stretch
    """
    if outputs.shape != targets.shape and outputs.squeeze().shape != targets.squeeze().shape:
        raise InvalidInput(
            f"outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}; give targets of "
            "the outputs' shape"
        )
    return targets.reshape(outputs.shape)


def _wide(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.float() if outputs.element_size() < 4 else outputs


def _mean(losses: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of each sample, over what counts."""
    losses = losses.reshape(len(losses), -1)
    if counted is None:
        return losses.mean(dim=1)
    return losses.sum(dim=1) / counted.reshape(len(losses), -1).sum(dim=1).clamp(min=1)
