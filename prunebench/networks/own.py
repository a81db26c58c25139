"""A user's own network as a problem: their model, data, loss and measures, looked at before any work."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from prunebench.core.errors import InvalidInput
from prunebench.core.options import NOTED
from prunebench.core.problem import OWN, Selection, options_as_json
from prunebench.devices import torch_device
from prunebench.networks import own_data
from prunebench.networks.chosen import selected
from prunebench.networks.network import evaluation_mode
from prunebench.networks.own_checks import looked_at, require_labels, require_runs, sees_later_tokens
from prunebench.networks.own_copy import Call, as_given, fingerprint, first_line, plain_copy, taking_parts, uncompiled
from prunebench.networks.own_data import OwnSamples, Say
from prunebench.networks.own_losses import CLASSES, IGNORED, NEXT_TOKEN, Losses, plain_targets
from prunebench.networks.own_matrices import multiplying
from prunebench.networks.samples import Batch, at_once, fetched
from prunebench.quiet import quiet

EVALUATION_BATCH = 256
"""Samples that go through the network at a time while it is judged, where they do not say."""

LARGEST_EXPONENT = 700.0
"""A loss above this has a perplexity that no float64 holds; it is given as that of this one."""

Patterns = str | Sequence[str]
"""Names of parameters, with * and ? for any letters: one, several, or several in one text with commas between."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a network is made of here.

    judge : the user's own measures, None if there are none
    ahead : whether a model of next tokens sees them before it predicts them, so that it has no perplexity
    """

    model: torch.nn.Module
    device: torch.device | None
    call: Call | None
    losses: Losses
    prunable: tuple[str, ...]
    calibration: OwnSamples
    validation: OwnSamples
    judge: Callable[[torch.nn.Module], Mapping[str, float]] | None
    told: tuple[str, ...]
    ahead: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """A network of the user's as a problem: `own_network` makes it.

    The model is held and not copied; `model()` gives a copy of it as it is then.
    """

    name: ClassVar[str] = OWN
    """What runs and reports call it; each network has its own, by its class or by the program that makes it."""
    summary: ClassVar[str] = "a network of your own"
    requires: ClassVar[tuple[str, ...]] = ("torch",)

    loss_name: str = field(metadata={"option": "loss", NOTED: True})
    """The loss, as reports call it."""

    fingerprint: str = field(metadata={NOTED: True})
    """Of the model's tensors."""

    data: str = field(metadata={NOTED: True})
    """A fingerprint of the data."""

    made: Made = field(init=False, repr=False, compare=False)

    @property
    def told(self) -> tuple[str, ...]:
        """What was found out and the user should know."""
        return self.made.told

    def missing(self) -> str:
        """Nothing is."""
        return ""

    def model(self) -> torch.nn.Module:
        """A copy of the model, in evaluation mode."""
        made = plain_copy(self.made.model, self.made.device)
        return made if self.made.call is None else taking_parts(made, self.made.call)

    def prunable(self) -> tuple[str, ...]:
        """The names of the parameters that are pruned."""
        return self.made.prunable

    def calibration(self) -> OwnSamples:
        """The data, without what is held out."""
        return self.made.calibration

    def validation(self) -> OwnSamples:
        """The validation data, or what is held out of the data."""
        return self.made.validation

    def loss(self, outputs: Any, targets: Batch) -> torch.Tensor:
        """The loss of every sample. (s,)"""
        return self.made.losses.of(outputs, targets)

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """The mean loss on the validation samples, what follows from it, and the user's own measures.

        Accuracy where targets are classes, perplexity where the loss is that of next tokens and
        the model does not see them before it predicts them.

        Raises
        ------
        InvalidInput   the user's function gives anything but numbers by name
        """
        return _mean_loss(self, model) | _own_measures(self.made.judge, model)


@quiet()
def own_network(
    model: torch.nn.Module,
    data: Any,
    *,
    loss: str | Callable[..., Any] | None = None,
    validation: Any = None,
    evaluate: Callable[[torch.nn.Module], Mapping[str, float]] | None = None,
    prunable: Patterns = (),
    exclude: Patterns = (),
    forward: Callable[[torch.nn.Module, Any], Any] | None = None,
    loss_is_mean: bool = False,
    device: str | None = None,
    seed: int = 0,
    name: str = "",
    say: Say = lambda _line: None,
) -> OwnNetwork:
    """A problem made of a torch model and its data.

    Parameters
    ----------
    model : any torch.nn.Module; held, never changed
    data : a DataLoader, a Dataset, tensors (x, y), a mapping of columns, or batches one after the other. Inputs are a
           tensor, a tuple (positional arguments) or a mapping (keyword arguments)
    loss : one of prunebench.networks.own_losses.NAMED; a function of (outputs, targets) that gives one value a sample
           or their mean; None where the model returns its loss
    validation : data that judge; by default a fifth of `data` is held out
    evaluate : a function of the model that gives measures by name, beside the loss
    prunable : patterns of parameter names; by default the matrices of every layer that multiplies, embeddings and the
               output heads of language models left out
    exclude : patterns of names that are left out
    forward : called with (model, inputs) in place of the model with the inputs
    loss_is_mean : the loss gives one number a batch, which is the mean of its samples' where it cannot be seen
    device : where the work is done; by default where the model is
    seed : of what is held out, and of what a shuffling loader draws
    name : what runs and reports call it; by default by the model's class
    say : told what the user should know, a line at a time

    Raises
    ------
    InvalidInput   the model, data and loss do not go together; in one line, before any work
    """
    if not isinstance(model, torch.nn.Module):
        raise InvalidInput(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    if not any(True for _ in model.parameters()):
        raise InvalidInput("the model has no parameters; there is nothing to prune")
    place = None if device is None else torch_device(device)
    copied = plain_copy(model, place)
    lines: list[str] = []
    reading = own_data.reading_of(copied, with_loss=loss is not None, forward=forward)
    source = own_data.source_of(data, reading, seed, lines.append)
    looked = looked_at(copied, source, loss, forward, loss_is_mean=loss_is_mean)
    lines += looked.told
    ahead = sees_later_tokens(copied, looked, source)
    if ahead:
        lines.append("the model sees the tokens that follow the one it predicts: its loss gives no perplexity")
    require_labels(copied, looked, source)
    if validation is None:
        source, judging = own_data.parted(source, seed)
        lines.append(_held_out(len(source), len(judging), same=source is judging))
    else:
        judging = own_data.source_of(validation, reading, seed, lines.append, "validation")
        require_runs(copied, looked, judging, "validation")
        require_labels(copied, looked, judging)
    problem = OwnNetwork(
        loss_name=looked.losses.name,
        fingerprint=fingerprint(copied.state_dict()),
        data=own_data.digest(source, judging),
    )
    usual = multiplying(copied, looked.run)
    made = Made(
        model=model,
        device=place,
        call=looked.call,
        losses=looked.losses,
        prunable=_prunable(problem, copied, usual, _listed(prunable), _listed(exclude)),
        calibration=looked.samples(source),
        validation=looked.samples(judging),
        judge=evaluate,
        told=tuple(lines),
        ahead=ahead,
    )
    object.__setattr__(problem, "name", name or f"{OWN}{type(uncompiled(model)).__name__}")
    object.__setattr__(problem, "made", made)
    for line in lines:
        say(line)
    return problem


def require_same(problem: OwnNetwork, held: Mapping[str, Any], source: object) -> None:
    """Raise InvalidInput unless a network is the one of which a run holds fingerprint, data, loss and patterns.

    held : by the names of `options_as_json`, those that are to be looked at;  source : for the message
    """
    own = {"include": "", "exclude": "", **options_as_json(problem)}
    names = {"fingerprint": "model", "include": "choice of parameters (prunable)", "exclude": "choice of parameters"}
    for name, value in held.items():
        if own.get(name) != value:
            raise InvalidInput(
                f"{source}: this is another {names.get(name, name)} than the run began with ({name} {own.get(name)!r}, "
                f"not {value!r}); give the same (weights and data drawn from a fixed seed, say), or begin another run"
            )


def _prunable(
    problem: OwnNetwork, model: torch.nn.Module, usual: Sequence[str], include: str, exclude: str
) -> tuple[str, ...]:
    """What is pruned, and noted in the problem as what was asked for.

    Raises
    ------
    InvalidInput   a pattern that matches nothing, or nothing to prune
    """
    chosen = Selection(include=include, exclude=exclude)
    if not usual and not include:
        raise InvalidInput(
            "the model multiplies by no matrix of its own, so nothing is pruned by default; name parameters: prunable="
        )
    object.__setattr__(problem, "_selection", chosen)
    try:
        return selected(model, usual, chosen)
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("include=", "prunable=", 1)) from error


def _listed(patterns: Patterns) -> str:
    if isinstance(patterns, str):
        return patterns
    if not all(isinstance(part, str) for part in patterns):
        raise InvalidInput(f"patterns are {patterns!r}; give names of parameters, with * for any letters")
    return ",".join(patterns)


def _held_out(left: int, held: int, *, same: bool) -> str:
    if same:
        return "there is one sample, which calibrates and judges"
    return f"no validation= is given: {held:,} of {left + held:,} samples are held out to judge"


def _mean_loss(problem: OwnNetwork, model: torch.nn.Module) -> dict[str, float]:
    """The mean loss on the validation samples, with accuracy or perplexity where the loss has them."""
    samples, total, right, weighed, counts = problem.validation(), 0.0, 0, 0.0, 0
    device = next(model.parameters()).device
    step = at_once(samples, EVALUATION_BATCH)
    classes = problem.loss_name == CLASSES
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for start in range(0, len(samples), step):
            inputs, given = fetched(samples, np.arange(start, min(start + step, len(samples))), device)
            outputs = model(inputs)
            losses = problem.loss(outputs, given).double()
            total += float(losses.sum())
            targets = plain_targets(given)
            if classes and _are_labels(outputs, targets):
                right += int((outputs.argmax(dim=1) == targets).sum())
            else:
                classes = False
            if problem.loss_name == NEXT_TOKEN and not problem.made.ahead:
                tokens = (targets[:, 1:] != IGNORED).sum(dim=1)
                weighed, counts = weighed + float((losses * tokens).sum()), counts + int(tokens.sum())
    out = {"loss": total / len(samples)}
    if classes:
        out = {"accuracy": right / len(samples), **out}
    if counts:
        out["perplexity"] = math.exp(min(weighed / counts, LARGEST_EXPONENT))
    return out


def _are_labels(outputs: Any, targets: Any) -> bool:
    return (
        isinstance(outputs, torch.Tensor)
        and isinstance(targets, torch.Tensor)
        and outputs.ndim == 2
        and targets.ndim == 1
        and not targets.is_floating_point()
    )


def _own_measures(
    judge: Callable[[torch.nn.Module], Mapping[str, float]] | None, model: torch.nn.Module
) -> dict[str, float]:
    """What the user's function makes of the model.

    Raises
    ------
    InvalidInput   anything but numbers by name
    """
    if judge is None:
        return {}
    with evaluation_mode(model), torch.no_grad(), as_given(model):
        try:
            found = judge(model)
        except Exception as error:  # the user's code may raise anything
            raise InvalidInput(f"evaluate raised {type(error).__name__}: {first_line(error)}") from error
    try:
        return {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput(f"evaluate gives {found!r}; it must give numbers by name, as {{'accuracy': 0.9}}") from error
