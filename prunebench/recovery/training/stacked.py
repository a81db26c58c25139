"""Many masks of one network trained at once: a stack of copies, the same samples for all of them.

Small matrices leave a processor idle; a hundred of them in one product do not. The copies never meet: the loss is the
sum of theirs, and every optimizer of `Protocol` works entry by entry, so that each copy moves as it would alone.
"""

from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once
from prunebench.recovery.distillation import changed
from prunebench.recovery.outputs import divergences
from prunebench.recovery.training.course import Course
from prunebench.recovery.training.protocol import Protocol
from prunebench.recovery.training.starts import place
from prunebench.recovery.training.trainer import JUDGED_BATCH, optimizer, weighted

PLAIN = (
    torch.nn.Linear, torch.nn.ReLU, torch.nn.GELU, torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.LeakyReLU,
    torch.nn.Flatten, torch.nn.Identity, torch.nn.LayerNorm, torch.nn.Sequential,
)  # fmt: skip
"""Modules that do the same in training as in evaluation, draw nothing and mix no samples: those of dense networks."""


def why_not(network: PrunableNetwork, protocol: Protocol) -> str:
    """Why masks of this network cannot be trained at once, "" where they can."""
    kinds = {type(module).__name__ for module in network.model.modules() if not isinstance(module, PLAIN)}
    if kinds:
        return f"its {', '.join(sorted(kinds))} is no part of a plain dense network"
    fields = [name for name in ("held_out", "penalty", "per_density") if getattr(protocol, name)]
    if fields:
        return f"{' and '.join(fields)} look at each network by itself"
    return ""


class Stack:
    """M copies of a plain dense network, each under its own mask, trained by one protocol.

    Parameters
    ----------
    problem, network : the samples, the loss and the model; what is not prunable starts from the model's values
    masks : bool (M, p), at least one
    protocol : what is done
    weights : the values that copies start from where the protocol starts from pruned ones, float (M, p) or (p,);
        None for those of the model. Those off the mask do not count
    teacher : the dense network, for distillation; made by the problem where the protocol distils and none is given

    Raises
    ------
    InvalidInput   the network or the protocol cannot be stacked, with the reason; or shapes that do not fit
    """

    def __init__(
        self, problem: NetworkProblem, network: PrunableNetwork, masks: BoolArray, protocol: Protocol, *,
        weights: FloatArray | None = None, teacher: torch.nn.Module | None = None,
    ) -> None:  # fmt: skip
        if reason := why_not(network, protocol):
            raise InvalidInput(f"{problem.name}: masks cannot be trained at once, for {reason}")
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.shape[1] != network.total or masks.dtype != np.bool_ or not masks.shape[0]:
            raise InvalidInput(f"masks are {masks.dtype} {masks.shape}; bool (masks, {network.total}) is expected")
        place(problem, network, protocol.begin)
        self._problem, self._model, self._protocol, self._masks = problem, network.model, protocol, masks
        self._network, self._samples = network, problem.calibration()
        self.course = Course(protocol, problem.name, len(self._samples))
        self._teacher = (problem.model() if teacher is None else teacher) if protocol.distil else None
        values = network.weights() if weights is None or protocol.begin.kind != "pruned" else np.asarray(weights)
        values = np.where(masks, values, 0.0)
        self._held = self._stacked(values)
        self._kept = {
            layer.name: torch.from_numpy(masks[:, layer.start : layer.stop].reshape(-1, *layer.shape))
            for layer in network.layers
        }
        self._optimizer = optimizer(list(self._held.values()), protocol)
        self._done = 0

    def _stacked(self, values: FloatArray) -> dict[str, torch.Tensor]:
        """All parameters of all copies, (M, …) each."""
        count, out = values.shape[0], {}
        layers = {layer.name: layer for layer in self._network.layers}
        for name, held in self._model.named_parameters():
            if layer := layers.get(name):
                part = values[:, layer.start : layer.stop].reshape(count, *layer.shape)
                out[name] = torch.tensor(part, dtype=held.dtype, device=held.device)
            else:
                out[name] = held.detach()[None].repeat(count, *(1 for _ in held.shape))
        return {name: value.requires_grad_(True) for name, value in out.items()}

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self._done >= self.course.total_epochs

    def epoch(self) -> FloatArray:
        """Go once through the samples. -> the mean loss of the batches, of every copy, float64 (M,)

        Raises
        ------
        PrunebenchError   a loss is not finite
        """
        batches, seed = self.course.batches(self._done)
        images = torch.Generator().manual_seed(seed)
        total = torch.zeros(self._masks.shape[0], dtype=torch.float64)
        with torch.enable_grad():
            for number, positions in batches:
                for group in self._optimizer.param_groups:
                    group["lr"] = self.course.rate(number)
                inputs, targets = self._samples.batch(positions)
                inputs = changed(inputs, self._protocol.augment, images)
                self._optimizer.zero_grad(set_to_none=True)
                losses = self._losses(inputs, targets, self.course.division.counting(positions))
                if not bool(torch.isfinite(losses).all()):
                    rate = self._protocol.learning_rate
                    raise PrunebenchError(
                        f"the loss stopped being finite in training; use a learning_rate below {rate:g}"
                    )
                losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                for name, kept in self._kept.items():
                    grad = self._held[name].grad
                    if grad is not None:
                        grad.mul_(kept)
                self._optimizer.step()
                total += losses.detach().double()
        self._done += 1
        return np.asarray((total / len(batches)).numpy())

    def _losses(self, inputs: Any, targets: Any, counting: FloatArray | None) -> torch.Tensor:
        """The loss of every copy on a batch. counting : how much each sample does, (s,). -> (M,)"""
        outputs = self.outputs(inputs)
        losses = weighted(self._of_samples(outputs, targets), counting)
        alpha = self._protocol.distil
        if not alpha:
            return losses
        assert self._teacher is not None
        with torch.no_grad(), evaluation_mode(self._teacher):
            aimed = self._teacher(inputs)
        apart = divergences(outputs, aimed.expand_as(outputs), self._protocol.temperature)
        return (1.0 - alpha) * losses + alpha * weighted(apart.flatten(1), counting)

    def _of_samples(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """The loss of every copy and sample: all copies' outputs are one batch to the problem. (M, s)"""
        count = outputs.shape[0]
        repeated = targets.repeat(count, *(1 for _ in targets.shape[1:]))
        losses: torch.Tensor = self._problem.loss(outputs.flatten(0, 1), repeated)
        return losses.reshape(count, -1)

    def outputs(self, inputs: Any) -> torch.Tensor:
        """What every copy gives. (M, s, …)"""

        def one(held: dict[str, torch.Tensor]) -> Any:
            return torch.func.functional_call(self._model, held, (inputs,))

        found: torch.Tensor = torch.func.vmap(one)(self._held)
        return found

    def weights(self) -> FloatArray:
        """The prunable weights of every copy, zero off its mask. float64 (M, p)

        Raises
        ------
        PrunebenchError   a weight off the mask is not zero
        """
        parts = [self._held[name].detach().double().reshape(self._masks.shape[0], -1) for name in self._kept]
        found: FloatArray = torch.cat(parts, dim=1).cpu().numpy()
        if stray := int((found[~self._masks] != 0.0).sum()):
            raise PrunebenchError(f"training left {stray} weights off the masks that are not zero; please report this")
        return found

    def state(self, number: int) -> dict[str, torch.Tensor]:
        """The model's whole state of one copy, counted from 0."""
        held = {name: value.detach()[number].clone() for name, value in self._held.items()}
        return {name: held.get(name, value) for name, value in self._network.state().items()}

    def losses(self, positions: Any) -> FloatArray:
        """The mean loss of every copy on these calibration samples, float64 (M,)."""
        total = torch.zeros(self._masks.shape[0], dtype=torch.float64)
        step = at_once(self._samples, JUDGED_BATCH)
        with torch.no_grad():
            for start in range(0, positions.size, step):
                inputs, targets = self._samples.batch(positions[start : start + step])
                total += self._of_samples(self.outputs(inputs), targets).double().sum(dim=1)
        return np.asarray(total.numpy() / positions.size)
