"""A user's model, data and loss looked at together on a few samples: every mistake is one line, before any work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.networks import own_model_loss
from prunebench.networks.chosen import require_running_statistics
from prunebench.networks.language import replaced, same_before
from prunebench.networks.own_copy import Call, first_line
from prunebench.networks.own_data import Held, OwnSamples, Source
from prunebench.networks.own_losses import (
    CLASSES,
    IGNORED,
    NAMED,
    NEXT_TOKEN,
    Losses,
    main_output,
    named,
    of_function,
)
from prunebench.networks.samples import Batch, Parts

LOOKED_AT = 8
"""Samples, spread over the data, that must make one batch; else samples go through the network one at a time."""

COUNTED_SAMPLES = 64
"""Samples whose tokens are counted to know how many a sample has."""

TOKENS = "input_ids"
"""The argument by which models of transformers take tokens."""

ROW_AXES = 2
"""Axes of tokens: samples, positions."""

Forward = Callable[[torch.nn.Module, Any], Any]
"""Calls a model with the inputs of a batch, as the user's data give them."""


@dataclass(frozen=True)
class Looked:
    """What a look at a few samples showed.

    losses : the loss of every sample
    call : how the model is called with a batch; None where it simply takes one tensor and gives one
    at_once : samples that go through together, 0 for as many as is usual;  alone : whether they make no batch
    labelled : whether targets are the labels among the inputs
    told : what the user should know;  run : sends a batch through the model that was looked at
    """

    losses: Losses
    call: Call | None
    at_once: int
    labelled: bool
    told: tuple[str, ...]
    run: Callable[[], Any]
    alone: bool = False

    def samples(self, source: Source) -> OwnSamples:
        """The samples of a source, as this network takes them."""
        held = Labelled(source) if self.labelled else source
        rows = predicted(held) if self.losses.name == NEXT_TOKEN else 1.0
        return OwnSamples(held, called=self.call is not None, at_once=self.at_once, rows=rows, alone=self.alone)


class Labelled:
    """Samples whose targets are the labels that the model gets with its inputs."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def take(self, positions: IndexArray) -> tuple[Any, Any]:
        """As `prunebench.networks.own_data.Source.take`."""
        inputs, _ = self._source.take(positions)
        return inputs, inputs[own_model_loss.LABELS]


def predicted(source: Source) -> float:
    """How many next tokens a sample's loss is the mean of, by the first COUNTED_SAMPLES."""
    positions = np.arange(min(COUNTED_SAMPLES, len(source)), dtype=np.int64)
    counts = [int((source.take(positions[i : i + 1])[1][:, 1:] != IGNORED).sum()) for i in range(positions.size)]
    return max(1.0, sum(counts) / len(counts))


def looked_at(
    model: torch.nn.Module,
    source: Source,
    loss: str | Callable[..., Any] | None,
    forward: Forward | None,
    *,
    loss_is_mean: bool,
) -> Looked:
    """Run a copy of the model on a few samples.

    Parameters
    ----------
    model : a plain copy, in evaluation mode, where the work will be done
    loss, forward, loss_is_mean : as the user gave them

    Raises
    ------
    InvalidInput   the model does not run, depends on the batch, or its outputs and targets make no finite loss
    """
    require_running_statistics(model)
    go = _plainly if forward is None else forward
    together = _makes_batches(source)
    inputs, targets = _few(model, source, 2 if together else 1)
    outputs = _outputs(model, go, inputs)
    told = [] if together else ["samples have different shapes: they go through the network one at a time"]

    def run() -> Any:
        return go(model, inputs.value[0])

    if loss is None:
        few = _few(model, source, own_model_loss.LOOKED_AT if together else 1)[0]
        own = own_model_loss.of_model(model, go, few, half=_in_half(model))
        labels = own_model_loss.labels_of(inputs) if own.standing_in else None
        with torch.no_grad():
            _require_sound(own.losses, own.outputs(model, inputs), targets if labels is None else labels)
        step = 0 if own.standing_in and together else 1
        return Looked(own.losses, own.outputs, step, labels is not None, (*told, own.losses.told), run, not together)
    simple = forward is None and isinstance(inputs.value[0], torch.Tensor) and isinstance(outputs, torch.Tensor)
    call = None if simple else _calling(go, by_name=isinstance(loss, str))
    with torch.no_grad():
        outputs = outputs if call is None else call(model, inputs)
        losses = _losses(loss, outputs, targets, is_mean=loss_is_mean)
        _require_sound(losses, outputs, targets)
    if losses.told:
        told.append(losses.told)
    return Looked(losses, call, 0 if together else 1, False, tuple(told), run, not together)


def sees_later_tokens(model: torch.nn.Module, looked: Looked, source: Source) -> bool:
    """Whether a model of next tokens predicts a token from what follows: another last token changes what is before.

    It is then no causal model, and its loss of next tokens makes no perplexity.
    """
    if looked.losses.name != NEXT_TOKEN:
        return False
    place = next(model.parameters()).device
    inputs, targets = looked.samples(source).batch(np.zeros(1, dtype=np.int64))
    inputs = inputs.to(place)
    ids = _token_ids(inputs)
    if ids is None:
        return False
    counted = OwnSamples.counted(targets)
    last = ids.shape[1] - 1 if counted is None else int(counted[0].nonzero().max())
    changed = replaced(ids, torch.tensor([last], device=place))
    other = (
        Parts([changed if item is ids else item for item in inputs.tensors], inputs.layout)
        if isinstance(inputs, Parts)
        else changed
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = (
            main_output(looked.call(model, held) if looked.call and isinstance(held, Parts) else model(held))
            for held in (inputs, other)
        )
    return not same_before(first, second, last)


def _token_ids(inputs: Batch) -> torch.Tensor | None:
    """The tokens (s, t) among the inputs: those of that name, or the first whole numbers; None where there are none."""
    if not isinstance(inputs, Parts):
        return inputs if inputs.ndim == ROW_AXES and not inputs.is_floating_point() else None
    given = inputs.value[0]
    if isinstance(given, dict) and isinstance(given.get(TOKENS), torch.Tensor):
        named: torch.Tensor = given[TOKENS]
        return named
    rows = (item for item in inputs.tensors if item.ndim == ROW_AXES and not item.is_floating_point())
    return next(rows, None)


def require_runs(model: torch.nn.Module, looked: Looked, source: Source, what: str) -> None:
    """Raise InvalidInput unless the model and its loss take samples of another source too.

    what : its name, for the message
    """
    place = next(model.parameters()).device
    inputs, targets = looked.samples(source).batch(np.arange(1, dtype=np.int64))
    inputs, targets = inputs.to(place), targets.to(place)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = looked.call(model, inputs) if looked.call and isinstance(inputs, Parts) else model(inputs)
            looked.losses.of(outputs, targets)
    except Exception as error:  # the user's code may raise anything
        raise InvalidInput(f"{what}: {type(error).__name__}: {first_line(error)}") from error


def require_labels(model: torch.nn.Module, looked: Looked, source: Source) -> None:
    """Raise InvalidInput where targets that are held are no classes of the model's."""
    targets = source.targets if isinstance(source, Held) and looked.losses.name == CLASSES else None
    if not isinstance(targets, torch.Tensor) or targets.ndim != 1 or targets.is_floating_point():
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = main_output(looked.run())
    counted = targets[targets != IGNORED]
    if outputs.ndim == 2 and counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < outputs.shape[1]:
        raise InvalidInput(
            f"targets run from {int(counted.min())} to {int(counted.max())}, and the model has {outputs.shape[1]} "
            f"classes, 0 to {outputs.shape[1] - 1}"
        )


def _few(model: torch.nn.Module, source: Source, count: int) -> tuple[Parts, Batch]:
    """The first samples, where the model is; inputs as `Parts` of a tuple with them."""
    place = next(model.parameters()).device
    inputs, targets = OwnSamples(source, called=True).batch(np.arange(min(count, len(source)), dtype=np.int64))
    assert isinstance(inputs, Parts)
    return inputs.to(place), targets.to(place)


def _makes_batches(source: Source) -> bool:
    """Whether samples from all over the data can be put together to a batch."""
    count = min(LOOKED_AT, len(source))
    try:
        source.take(np.unique(np.linspace(0, len(source) - 1, count).astype(np.int64)))
    except InvalidInput:
        return False
    return True


def _plainly(model: torch.nn.Module, inputs: Any) -> Any:
    """The model called with the inputs: a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _calling(go: Forward, *, by_name: bool) -> Call:
    """How a batch is sent through the model; by_name : whether a loss by name wants the main tensor alone."""
    if by_name:
        return lambda model, inputs: main_output(go(model, inputs.value[0]))
    return lambda model, inputs: go(model, inputs.value[0])


def _outputs(model: torch.nn.Module, go: Forward, inputs: Parts) -> Any:
    """The model's answer to a few samples.

    Raises
    ------
    InvalidInput   it raises; where its numbers are of another type than the data's, that is named
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return go(model, inputs.value[0])
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, InvalidInput):
            raise
        own = {item.dtype for item in model.parameters() if item.is_floating_point()}
        given = {item.dtype for item in inputs.tensors if item.is_floating_point()}
        if given and own and not given & own:
            raise InvalidInput(
                f"the model has numbers of type {_types(own)} and the data {_types(given)}; convert one of them, for "
                f"example model.to({next(iter(given))})"
            ) from error
        shapes = ", ".join(map(str, inputs.shape))
        raise InvalidInput(
            f"the model does not run in evaluation mode on inputs of shape {shapes}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _losses(loss: str | Callable[..., Any] | None, outputs: Any, targets: Batch, *, is_mean: bool) -> Losses:
    """How the loss is taken, looked at on these outputs.

    Raises
    ------
    InvalidInput   it is no loss, or outputs and targets do not go with it
    """
    if not isinstance(loss, str) and not callable(loss):
        raise InvalidInput(
            f"loss is {loss!r}; give one of {', '.join(NAMED)}, a function of (outputs, targets), or None where the "
            "model returns its loss"
        )
    try:
        held = named(loss) if isinstance(loss, str) else of_function(loss, outputs, targets, is_mean=is_mean)
        held.of(outputs, targets)
    except InvalidInput:
        raise
    except Exception as error:  # the user's code may raise anything
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"loss {loss if isinstance(loss, str) else getattr(loss, '__name__', type(loss).__name__)} cannot be taken "
            f"of outputs {shape} and targets {_shown(targets)}: {type(error).__name__}: {first_line(error)}"
        ) from error
    return held


def _require_sound(losses: Losses, outputs: Any, targets: Batch) -> None:
    """Raise InvalidInput unless there is a finite loss for each sample, and each of its own outputs."""
    values = losses.of(outputs, targets)
    if not bool(torch.isfinite(values).all()):
        raise InvalidInput(
            f"loss {losses.name} of the first {len(values)} samples is {[float(value) for value in values]}; look for "
            "weights or data that are NaN, or for logarithms and roots of what they are not of"
        )


def _in_half(model: torch.nn.Module) -> bool:
    return any(item.is_floating_point() and item.element_size() < 4 for item in model.parameters())


def _shown(targets: Batch) -> str:
    if isinstance(targets, Parts):
        return ", ".join(map(str, targets.shape))
    return f"{tuple(targets.shape)} of {targets.dtype}"


def _types(kinds: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
