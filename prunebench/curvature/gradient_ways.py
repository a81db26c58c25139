"""The ways of computing sample gradients, from the fastest to the one that is right by definition.

Outer products and passes through layers take what a layer's inputs and outputs show, vectorising takes the
model as a function of its named parameters, and one backward pass a sample takes the model as it is. Which of
them a network allows is decided by its structure, and whether that is true by `gradient_check`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature import linear_gradients
from prunebench.curvature.gradient_check import (
    CHECKED,
    Checked,
    difference,
    hardest,
    in_half,
    own_gradients,
    true_gradients,
)
from prunebench.curvature.gradient_work import GradientWork, Loss, Parameters
from prunebench.curvature.linear_gradients import Written
from prunebench.curvature.linear_passes import unsuited
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, fetched, tensors_in

OUTER, PASSES, VECTORISED, ONE_BY_ONE = "outer products", "layer passes", "vectorised", "one by one"
"""The ways by name, as run.json and messages give them."""


def way_of(
    network: PrunableNetwork,
    loss: Loss,
    samples: Samples,
    positions: IndexArray,
    *,
    batch_size: int = 1,
    device: str = "cpu",
) -> Checked:
    """How sample gradients of a network are computed: looked at once for each network, loss and process.

    Parameters
    ----------
    positions : some of these samples are computed in two ways
    batch_size : of a row;  device : where the gradients are computed

    Raises
    ------
    InvalidInput   an empty sample, a loss or gradient that is not finite, or a device where no way is right

    Warns
    -----
    RuntimeWarning   a way that the network seems to allow is wrong or impossible
    """
    key = (batch_size > 1, device, _identity(loss))
    if key not in network.ways:
        network.ways[key] = _looked_at(network, loss, samples, positions, batch_size, torch.device(device))
    held: Checked = network.ways[key]
    return held


def expected_way(network: PrunableNetwork, loss: Loss, samples: Samples) -> str:
    """The way of single samples on the CPU: as found, or as the network's structure suggests."""
    held = network.ways.get((False, "cpu", _identity(loss)))
    return held.way if held is not None else next(iter(_suggested(network, samples, torch.device("cpu"))))


def rows_by(
    way: str, work: GradientWork, positions: IndexArray, batch_size: int, chunk: int, out: torch.Tensor
) -> Iterator[Written]:
    """Write gradient rows into `out`, up to `chunk` samples at a time."""
    if batch_size > 1 or way == ONE_BY_ONE:
        return _one_by_one(work, positions, batch_size, out)
    if way == OUTER:
        return linear_gradients.fill(work, positions, chunk, out)
    if way == PASSES:
        return linear_gradients.fill_by_passes(work, positions, chunk, out)
    return _per_sample(work, positions, chunk, out)


def tell_refused(reason: str) -> None:
    """Warn that some samples could not be vectorised where those that were looked at could."""
    _tell({VECTORISED: reason}, {VECTORISED}, ONE_BY_ONE)


def _looked_at(
    network: PrunableNetwork,
    loss: Loss,
    samples: Samples,
    positions: IndexArray,
    batch_size: int,
    device: torch.device,
) -> Checked:
    if batch_size > 1 and _is_there(network, device):
        return Checked(ONE_BY_ONE)
    positions = hardest(network, loss, samples, positions)
    true = true_gradients(network, loss, samples, positions)
    work = GradientWork(network, loss, samples, device)
    rejected: dict[str, str] = {}
    raised: set[str] = set()
    for way in _suggested(network, samples, device):
        if way == ONE_BY_ONE and _is_there(network, device):
            break
        try:
            found = _rows(way, work, positions)
        except (RuntimeError, InvalidInput, NotImplementedError) as error:
            rejected[way] = str(error).splitlines()[0]
            raised.add(way)
            continue
        away = difference(found, true, half=in_half(network))
        if away.small:
            _tell(rejected, raised, way)
            return Checked(way, len(positions), away.error, rejected)
        rejected[way] = str(away)
    if not _is_there(network, device):
        raise InvalidInput(
            f"the network's gradients on {device} are not those it has where it is ({rejected}); move the model there"
        )
    _tell(rejected, raised, ONE_BY_ONE)
    return Checked(ONE_BY_ONE, len(positions), 0.0, rejected)


def _tell(rejected: dict[str, str], raised: set[str], way: str) -> None:
    for name, reason in rejected.items():
        if name == VECTORISED and name in raised:
            text = f"the network cannot be vectorised over samples ({reason}); its gradients are computed {way}"
        else:
            text = f"sample gradients by {name} are not those of plain autograd ({reason}); they are computed {way}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _rows(way: str, work: GradientWork, positions: IndexArray) -> list[Parameters]:
    """The gradients of a few samples, by layer."""
    out = torch.empty((positions.size, work.network.total))
    with evaluation_mode(work.model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in rows_by(way, work, positions, 1, positions.size, out):
            pass
    return [{layer.name: row[layer.start : layer.stop] for layer in work.network.layers} for row in out]


def _suggested(network: PrunableNetwork, samples: Samples, device: torch.device) -> Iterator[str]:
    """The ways that the network's structure allows, fastest first."""
    if not getattr(samples, "alone", False):
        if linear_gradients.applies(network):
            yield OUTER
        # A network that takes samples one at a time shows their layers' inputs apart from each other.
        elif at_once(samples, CHECKED) > 1 and _by_passes(network, samples, device):
            yield PASSES
        yield VECTORISED
    yield ONE_BY_ONE


def _is_there(network: PrunableNetwork, device: torch.device) -> bool:
    return next(network.model.parameters()).device == device


def _identity(loss: Loss) -> Any:
    """What tells losses apart, the same for a method of a problem each time that it is looked up."""
    own = getattr(loss, "__func__", loss)
    return getattr(own, "__code__", type(own))


def _by_passes(network: PrunableNetwork, samples: Samples, device: torch.device) -> bool:
    """Whether gradients can be had from passes through linear layers and convolutions, where the model is."""
    place = next(network.model.parameters()).device
    if place != device:
        return False
    modules = linear_gradients.weighted_modules(network)
    if unsuited(network, samples, place, modules):
        return False
    return not any(isinstance(m, torch.nn.Conv2d) for m in modules.values()) or _apart(network, samples, place)


def _apart(network: PrunableNetwork, samples: Samples, place: torch.device) -> bool:
    """Whether the network treats every sample of a batch by itself: two together give what each gives alone.

    Vectorising over samples refuses what depends on the values of a batch (branches), which
    numbers alone might not show.
    """

    def alone(one: torch.Tensor) -> list[torch.Tensor]:
        return [outputs[0] for outputs in tensors_in(network.model(one.unsqueeze(0)))]

    positions = np.arange(min(2, len(samples)), dtype=np.int64)
    inputs = samples.batch(positions)[0].to(place)
    with evaluation_mode(network.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        together = tensors_in(network.model(inputs))
        try:
            with _without_hints():
                apart = torch.func.vmap(alone)(inputs)
        except RuntimeError:
            return False
    return bool(together) and all(
        torch.allclose(both, each, rtol=1e-3, atol=1e-4 * (1.0 + float(both.abs().max())))
        for both, each in zip(together, apart, strict=True)
    )


@contextmanager
def _without_hints() -> Iterator[None]:
    """Inside, torch does not say which operators it vectorises by a loop: nobody can do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        yield


def _per_sample(work: GradientWork, positions: IndexArray, chunk: int, out: torch.Tensor) -> Iterator[Written]:
    """Write the gradients of up to `chunk` samples at a time into the rows of `out`."""

    def loss_of_one(prunable: Parameters, one: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return work.losses(prunable, one.unsqueeze(0), target.unsqueeze(0))[0]

    gradients_of = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0))
    for start in range(0, positions.size, chunk):
        inputs, targets = work.batch(positions[start : start + chunk])
        try:
            with _without_hints():
                gradients = gradients_of(work.prunable, inputs, targets)
        except RuntimeError as error:
            # Once the way is found, these samples, or so few of them, come by where those looked at did not.
            if start == 0 and all(held.way != VECTORISED for held in work.network.ways.values()):
                raise
            # this chunk alone, so that it makes no difference who computes those that follow
            stop, reason = start + len(inputs), str(error).splitlines()[0]
            yield from (
                step._replace(refused=reason) for step in _one_by_one(work, positions[start:stop], 1, out[start:stop])
            )
            continue
        for layer in work.network.layers:
            # Popped, so that a layer's gradients are freed as soon as they are written.
            part = gradients.pop(layer.name).reshape(len(inputs), -1)
            out[start : start + len(inputs), layer.start : layer.stop].copy_(part)
        yield Written(len(inputs))


def _one_by_one(work: GradientWork, positions: IndexArray, batch_size: int, out: torch.Tensor) -> Iterator[Written]:
    """Write the mean gradients of consecutive mini-batches into the rows of `out`, one backward pass each."""
    names, there = work.network.names, _is_there(work.network, work.device)
    for row in range(len(out)):
        part = positions[row * batch_size : (row + 1) * batch_size]
        batch = fetched(work.samples, part, work.device)
        if there:
            gradients = list(own_gradients(work.network, work.loss, batch, names).values())
        else:
            gradients = _elsewhere(work, batch)
        for layer, gradient in zip(work.network.layers, gradients, strict=True):
            out[row, layer.start : layer.stop].copy_(gradient.reshape(-1))
        yield Written(1)


def _elsewhere(work: GradientWork, batch: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """The same on a device where the model is not: as a function of its named parameters."""
    prunable = work.leaves()
    with torch.enable_grad():
        mean = work.losses(prunable, *batch).mean()
        return list(torch.autograd.grad(mean, list(prunable.values()), materialize_grads=True))
