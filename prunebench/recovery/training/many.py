"""What masks come to: trained by one protocol, many at once where the network allows it, and judged."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.problem import NetworkProblem, Samples, spread
from prunebench.networks.chosen import prunable_network
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.stacked import Stack, why_not
from prunebench.recovery.training.starts import trainer

STACKED_WEIGHTS = 600_000
"""Weights of all copies that are trained at once: 250 of digits-mlp, 18 of mlpnet-mnist. More gain nothing: their
values, gradients and the optimizer's two moments no longer fit into a processor's cache."""

JUDGED = 10_000
"""Calibration samples, at most, whose loss is the training loss."""

JUDGED_BATCH = 500
"""Samples that go through all copies at a time where nothing is trained."""

Told = Callable[[int, int], None]
"""Takes how many masks are trained, of how many."""

Outputs = Callable[[Any], torch.Tensor]
"""What copies give for inputs of s samples: (M, s, classes)."""


@dataclass(frozen=True)
class Judged:
    """Mean loss and accuracy (a fraction) of every copy. float64 (M,), (M,)"""

    loss: FloatArray
    accuracy: FloatArray


@dataclass(frozen=True)
class Reached:
    """What masks come to: on calibration samples, and on validation samples."""

    training: Judged
    validation: Judged


@dataclass(frozen=True)
class Copies:
    """Some copies after their training: which masks they have, what they give, and their states."""

    positions: IndexArray
    outputs: Outputs
    states: Callable[[], list[dict[str, torch.Tensor]]]


def reached(
    problem: NetworkProblem, network: PrunableNetwork, masks: BoolArray, protocol: Protocol, *,
    weights: FloatArray | None = None, told: Told = lambda _done, _total: None,
) -> Reached:  # fmt: skip
    """Train every mask by the protocol and judge it; with no step to take the masked values are judged as they are.

    Parameters
    ----------
    problem, network : the samples and the loss; the network whose values are masked, left as it is
    masks : bool (M, p);  protocol : of every training
    weights : values to start from where the protocol starts from pruned ones, float (M, p); None: those that the
        network has
    told : called as masks are done
    """
    parts: list[tuple[IndexArray, Judged, Judged]] = []
    calibration, validation = problem.calibration(), problem.validation()
    looked = looked_at(calibration)
    for copies in trained(problem, network, masks, protocol, weights=weights, told=told):
        here = judge(copies.outputs, problem, calibration, looked)
        there = judge(copies.outputs, problem, validation, np.arange(len(validation)))
        parts.append((copies.positions, here, there))
    out = np.empty((4, masks.shape[0]))
    for positions, here, there in parts:
        out[:, positions] = here.loss, here.accuracy, there.loss, there.accuracy
    return Reached(Judged(out[0], out[1]), Judged(out[2], out[3]))


def trained(
    problem: NetworkProblem, network: PrunableNetwork, masks: BoolArray, protocol: Protocol, *,
    weights: FloatArray | None = None, told: Told = lambda _done, _total: None,
) -> Iterator[Copies]:  # fmt: skip
    """Train masks by a protocol, as many at once as pay, and give each lot. Parameters are those of `reached`."""
    count, total = masks.shape
    base = network.state()
    if why_not(network, protocol):
        for number in range(count):
            own = None if weights is None else weights[number]
            yield _alone(problem, base, masks[number], protocol, own, number)
            told(number + 1, count)
        return
    at_a_time = max(1, STACKED_WEIGHTS // total)
    for first in range(0, count, at_a_time):
        positions = np.arange(first, min(first + at_a_time, count))
        some = None if weights is None else weights[positions]
        stack = Stack(problem, network, masks[positions], protocol, weights=some)
        while not stack.done:
            stack.epoch()
        yield Copies(positions, stack.outputs, partial(_states, stack, positions.size))
        network.load_state(base)
        told(int(positions[-1]) + 1, count)


def _states(stack: Stack, count: int) -> list[dict[str, torch.Tensor]]:
    return [stack.state(number) for number in range(count)]


def _alone(
    problem: NetworkProblem, base: Mapping[str, torch.Tensor], mask: BoolArray, protocol: Protocol,
    weights: FloatArray | None, number: int,
) -> Copies:  # fmt: skip
    network = prunable_network(problem)
    network.load_state(base)
    network.assign(np.where(mask, network.weights() if weights is None else weights, 0.0))
    training = trainer(problem, network, mask, protocol)
    while not training.done:
        training.epoch()
    training.finish()
    return Copies(np.array([number]), outputs_of(network.model), lambda: [network.state()])


def outputs_of(model: torch.nn.Module) -> Outputs:
    """What one model gives, as a single copy."""

    def outputs(inputs: Any) -> torch.Tensor:
        found: torch.Tensor = model(inputs)
        return found[None]

    model.eval()
    return outputs


def judge(outputs: Outputs, problem: NetworkProblem, samples: Samples, positions: IndexArray) -> Judged:
    """Mean loss and accuracy of every copy on some samples; sums are float64."""
    loss, right = 0.0, 0.0
    step = min(JUDGED_BATCH, at_once(samples, JUDGED_BATCH))
    with torch.no_grad():
        for start in range(0, positions.size, step):
            inputs, targets = samples.batch(positions[start : start + step])
            found = outputs(inputs)
            count = found.shape[0]
            losses = problem.loss(found.flatten(0, 1), targets.repeat(count)).reshape(count, -1)
            loss = loss + losses.double().sum(dim=1).cpu().numpy()
            right = right + (found.argmax(dim=2) == targets).double().sum(dim=1).cpu().numpy()
    return Judged(np.asarray(loss) / positions.size, np.asarray(right) / positions.size)


def judge_model(problem: NetworkProblem, model: torch.nn.Module) -> Reached:
    """The same of one model, as it is: arrays of one entry."""
    calibration, validation = problem.calibration(), problem.validation()
    with evaluation_mode(model):
        here = judge(outputs_of(model), problem, calibration, looked_at(calibration))
        there = judge(outputs_of(model), problem, validation, np.arange(len(validation)))
    return Reached(here, there)


def looked_at(calibration: Samples) -> IndexArray:
    """The calibration samples whose loss is the training loss: all, or JUDGED of them, always the same."""
    total = len(calibration)
    return spread(total, min(JUDGED, total), np.random.default_rng(0))
