"""The loop that follows a protocol: epochs of a torch optimizer under a mask, with a state that resumes to the bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.coordinator import checked_array
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once
from prunebench.recovery.batch_norm import batch_norms, reestimate_batch_norm
from prunebench.recovery.distillation import changed
from prunebench.recovery.outputs import divergences
from prunebench.recovery.tensors import array_of
from prunebench.recovery.training.course import Course, DenseSchedule
from prunebench.recovery.training.protocol import Protocol

MODEL, OPTIMIZER, BEST = "model.", "optimizer.", "best."
"""How the names of arrays in a checkpoint begin: the model's tensors, the optimizer's, those of the best epoch."""

TEACHER_BYTES = 512 * 2**20
"""Predictions of the dense network that are held at most; beyond, they are computed anew with every batch."""

JUDGED_BATCH = 1000
"""Samples that go through a network at a time where nothing is trained and they do not say how many."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    loss : the mean loss of its batches, distillation and penalty counted;  judged : the mean loss of the samples that
    judge, None where none do;  rate : the learning rate of its last step
    """

    loss: float
    judged: float | None
    rate: float


class Trainer:
    """One training of a network, in place. The model is left in evaluation mode after every epoch.

    Parameters
    ----------
    problem, network : the samples, the loss and the model, which has the values that training begins with
    mask : bool (p,), the weights that are kept
    protocol : what is done
    teacher : the dense network, for distillation; None without
    dense : how the dense network was trained, for schedule=rewound; None where that is not known

    Raises
    ------
    InvalidInput   the protocol does not fit the network or its samples
    """

    def __init__(
        self, problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, protocol: Protocol, *,
        teacher: torch.nn.Module | None = None, dense: DenseSchedule | None = None,
    ) -> None:  # fmt: skip
        if protocol.distil and teacher is None:
            raise InvalidInput("distillation needs the dense network as a teacher")
        self._problem, self._network, self._protocol = problem, network, protocol
        self._samples = problem.calibration()
        self._model = network.model
        self._parameters = [held for held in self._model.parameters() if held.is_floating_point()]
        self._device = self._parameters[0].device
        self._norms = batch_norms(self._model)
        averages = bool(self._norms) and protocol.batch_norm == "train"
        self.course = Course(protocol, problem.name, len(self._samples), dense=dense, averages=averages)
        self._masks = [
            (self._model.get_parameter(layer.name), _kept(mask, layer, self._device)) for layer in network.layers
        ]
        self._optimizer = optimizer(self._parameters, protocol)
        self._teacher = teacher
        self._aimed: torch.Tensor | None = None
        self._best: dict[str, torch.Tensor] | None = None
        self.epochs: list[Epoch] = []
        """The epochs done."""
        self.best = 0
        """After how many epochs the values were those that are returned; where nothing judges, after all done."""
        if not protocol.penalty:
            self._cut()
        self._first = self._judged()
        self._note(self._first)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        patience, done = self._protocol.patience, len(self.epochs)
        # epochs before the cut are no candidates, so that patience begins after it
        since = max(self.best, self._cut_at // self.course.per_epoch if self._protocol.penalty else 0)
        return done >= self.course.total_epochs or bool(patience and done - since >= patience)

    def epoch(self) -> Epoch:
        """Go once through the samples, or to the last step.

        Raises
        ------
        PrunebenchError   the loss of a batch is not finite
        """
        protocol, total = self._protocol, 0.0
        batches, seed = self.course.batches(len(self.epochs))
        images = torch.Generator().manual_seed(seed)
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._model.train()
        if protocol.batch_norm != "train":
            for norm in self._norms:
                norm.eval()
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number, positions in batches:
                total += self._step(positions, number, images)
        self._model.zero_grad(set_to_none=True)
        self._model.eval()
        done = Epoch(total / len(batches), None, self.course.rate(batches[-1][0]))
        self.epochs.append(done)
        if self.done and protocol.batch_norm == "re-estimate" and self._norms:
            reestimate_batch_norm(self._model, self._samples, self.course.division.trained)
        judged = self._judged()
        self.epochs[-1] = replace(done, judged=judged)
        self._note(judged)
        return self.epochs[-1]

    def finish(self) -> None:
        """Leave the best epoch's values in the model, and look at the count.

        Raises
        ------
        PrunebenchError   a weight off the mask is not zero
        """
        if self._best is not None:
            self._network.load_state(self._best)
        if not self.epochs:
            self._cut()
        if stray := sum(int((held[~kept] != 0).sum()) for held, kept in self._masks):
            raise PrunebenchError(f"training left {stray} weights off the mask that are not zero; please report this")

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON-able values from which `load` goes on, to the bit."""
        arrays = {f"{MODEL}{name}": array_of(value) for name, value in self._model.state_dict().items()}
        for number, parameter in enumerate(self._parameters):
            memory = self._optimizer.state.get(parameter, {})
            arrays |= {
                f"{OPTIMIZER}{number}.{name}": array_of(torch.as_tensor(value))
                for name, value in memory.items()
                if value is not None
            }
        arrays |= {f"{BEST}{name}": array_of(value) for name, value in (self._best or {}).items()}
        return arrays, {"best": self.best, "first": self._first, "epochs": [vars(done) for done in self.epochs]}

    def load(self, arrays: Mapping[str, npt.NDArray[Any]], info: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises
        ------
        InvalidInput   an array is missing, or of another shape
        """
        now = self._model.state_dict()
        self._network.load_state(tensors_of(arrays, MODEL, now))
        memory: dict[int, dict[str, torch.Tensor]] = {}
        for key, array in arrays.items():
            if key.startswith(OPTIMIZER):
                number, _, name = key.removeprefix(OPTIMIZER).partition(".")
                if array.shape not in ((), tuple(self._parameters[int(number)].shape)):
                    raise InvalidInput(f"{key} has shape {array.shape}, which is not its parameter's")
                memory.setdefault(int(number), {})[name] = torch.from_numpy(np.array(array))
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": memory, "param_groups": groups})
        self._best = tensors_of(arrays, BEST, now) if any(key.startswith(BEST) for key in arrays) else None
        self._first = info["first"]
        self.best, self.epochs = int(info["best"]), [Epoch(**done) for done in info["epochs"]]

    def _step(self, positions: IndexArray, number: int, images: torch.Generator) -> float:
        protocol = self._protocol
        for group in self._optimizer.param_groups:
            group["lr"] = self.course.rate(number)
        pulled = bool(protocol.penalty) and number < self._cut_at
        if protocol.penalty and number == self._cut_at:
            self._cut()
        inputs, targets = self._samples.batch(positions)
        inputs = changed(inputs, protocol.augment, images).to(self._device)
        self._optimizer.zero_grad(set_to_none=True)
        outputs = self._model(inputs)
        counting = self.course.division.counting(positions)
        loss = weighted(self._problem.loss(outputs, targets.to(self._device)), counting)
        if protocol.distil:
            apart = divergences(outputs, self._taught(positions, inputs), protocol.temperature)
            loss = (1.0 - protocol.distil) * loss + protocol.distil * weighted(apart.flatten(), counting)
        if pulled:
            off = torch.stack([held[~kept].abs().sum() for held, kept in self._masks])
            loss = loss + protocol.penalty * off.sum()
        if not bool(torch.isfinite(loss)):
            raise PrunebenchError(
                f"the loss stopped being finite in training; use a learning_rate below {protocol.learning_rate:g}"
            )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if not pulled:
            # what the optimizer remembers of pruned weights then stays zero too, and they do not move
            for held, kept in self._masks:
                if held.grad is not None:
                    held.grad.mul_(kept)
        self._optimizer.step()
        return float(loss.detach())

    @property
    def _cut_at(self) -> int:
        """The step from which on weights off the mask are zero, where a penalty pulls at them before."""
        return self.course.total_steps // 2

    def _cut(self) -> None:
        with torch.no_grad():
            for held, kept in self._masks:
                held.mul_(kept)
                for value in self._optimizer.state.get(held, {}).values():
                    if isinstance(value, torch.Tensor) and value.shape == held.shape:
                        value.mul_(kept)

    def _taught(self, positions: IndexArray, inputs: Any) -> torch.Tensor:
        """What the dense network predicts: held for all samples where inputs stay as they are and there is room."""
        assert self._teacher is not None
        if self._aimed is None and self._protocol.augment == "none":
            self._aimed = self._predictions()
        if self._aimed is not None and self._aimed.numel():
            return self._aimed[np.searchsorted(self.course.division.trained, positions)]
        with torch.no_grad(), evaluation_mode(self._teacher):
            found: torch.Tensor = self._teacher(inputs)
        return found

    def _predictions(self) -> torch.Tensor:
        """Those for all samples that are trained on; empty where they take more than TEACHER_BYTES."""
        assert self._teacher is not None
        trained, parts = self.course.division.trained, []
        step = at_once(self._samples, JUDGED_BATCH)
        with torch.no_grad(), evaluation_mode(self._teacher):
            for start in range(0, trained.size, step):
                found = self._teacher(self._samples.batch(trained[start : start + step])[0].to(self._device))
                if not isinstance(found, torch.Tensor) or (
                    found.numel() * 4 * trained.size > TEACHER_BYTES * found.shape[0]
                ):
                    return torch.empty(0)
                parts.append(found)
        return torch.cat(parts)

    def _judged(self) -> float | None:
        """The mean loss of the samples that judge, at the weights that would be returned."""
        positions, total = self.course.division.judging, 0.0
        if not positions.size:
            return None
        step = at_once(self._samples, JUDGED_BATCH)
        with torch.no_grad(), evaluation_mode(self._model):
            for start in range(0, positions.size, step):
                inputs, targets = self._samples.batch(positions[start : start + step])
                losses = self._problem.loss(self._model(inputs.to(self._device)), targets.to(self._device))
                total += float(losses.sum(dtype=torch.float64))
        return total / positions.size

    def _note(self, judged: float | None) -> None:
        """Hold the present values if they are judged the best; those from before the cut are no candidates."""
        if judged is None:
            self.best = len(self.epochs)
            return
        known = self._first if not self.best else self.epochs[self.best - 1].judged
        within = bool(self._protocol.penalty) and len(self.epochs) * self.course.per_epoch <= self._cut_at
        if not within and (self._best is None or known is None or judged < known):
            self.best = len(self.epochs)
            self._best = self._network.state()


def weighted(losses: torch.Tensor, counting: FloatArray | None) -> torch.Tensor:
    """The mean over samples, the last axis, each counting as told. losses (…, s), counting (s,) or None -> (…)

    Losses of several positions a sample, such as tokens, follow each other; all of a sample count alike.
    """
    if counting is None:
        return losses.mean(dim=-1)
    each = torch.from_numpy(counting).to(losses.device, losses.dtype)
    return (losses * each.repeat_interleave(losses.shape[-1] // each.numel())).mean(dim=-1)


def optimizer(parameters: Sequence[torch.Tensor], protocol: Protocol) -> torch.optim.Optimizer:
    """The optimizer that a protocol names."""
    settings = {"lr": protocol.learning_rate, "weight_decay": protocol.weight_decay}
    if protocol.optimizer in ("SGD", "RMSprop"):
        usual = 0.9 if protocol.optimizer == "SGD" else 0.0
        settings["momentum"] = usual if protocol.momentum is None else protocol.momentum
    made: torch.optim.Optimizer = getattr(torch.optim, protocol.optimizer)(parameters, **settings)
    return made


def _kept(mask: BoolArray, layer: Any, device: torch.device) -> torch.Tensor:
    part = np.array(mask[layer.start : layer.stop].reshape(layer.shape))
    return torch.from_numpy(part).to(device)


def tensors_of(
    arrays: Mapping[str, npt.NDArray[Any]], prefix: str, like: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The arrays of a prefix as tensors of the shapes and kinds that a state has."""
    out = {}
    for name, tensor in like.items():
        array = checked_array(arrays, f"{prefix}{name}", tuple(tensor.shape), array_of(tensor).dtype.kind)
        out[name] = torch.from_numpy(np.array(array))
    return out
