"""Training of what is kept: epochs of a torch optimizer under a mask, with a state that resumes to the bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import BoolArray
from prunebench.core.coordinator import checked_array
from prunebench.core.errors import InvalidInput, PrunebenchError
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork

OTHER, OPTIMIZER = "other.", "optimizer."
"""What the names of arrays in a checkpoint begin with: tensors of the model that are not pruned, the optimizer's."""


class Tuner:
    """One run of an optimizer over the network, in place; weights off the mask are zero after every batch.

    All parameters are trained, prunable or not.

    Parameters
    ----------
    problem, network : the samples, the loss and the model
    mask : bool (p,), the weights that are kept
    optimizer : the name of a class of torch.optim;  settings : its arguments
    batch_size : samples of a step of the optimizer

    Raises
    ------
    InvalidInput   the optimizer does not take these arguments
    """

    def __init__(
        self,
        problem: NetworkProblem,
        network: PrunableNetwork,
        mask: BoolArray,
        *,
        optimizer: str,
        settings: Mapping[str, float],
        batch_size: int,
    ) -> None:
        self._problem, self._network, self._batch = problem, network, batch_size
        self._samples = problem.calibration()
        self._parameters = list(network.model.parameters())
        self._device = self._parameters[0].device
        self._masks = [
            (network.model.get_parameter(layer.name), _tensor(mask[layer.start : layer.stop].reshape(layer.shape)))
            for layer in network.layers
        ]
        try:
            self._optimizer: torch.optim.Optimizer = getattr(torch.optim, optimizer)(self._parameters, **settings)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"optimizer {optimizer} does not take {dict(settings)}: {error}") from error

    def epoch(self, rng: np.random.Generator, count: int | None, seed: int) -> float:
        """Go once through `count` samples in random order, or through all. -> the mean loss of the batches

        seed : of what the model itself draws, such as dropout

        Raises
        ------
        PrunebenchError   the loss of a batch is not finite
        """
        model, total = self._network.model, 0.0
        order = rng.permutation(len(self._samples))[:count]
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        model.train()
        with torch.enable_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, order.size, self._batch):
                total += self._step(order[start : start + self._batch])
        model.zero_grad(set_to_none=True)
        model.eval()
        return total / -(-order.size // self._batch)

    def _step(self, positions: npt.NDArray[np.int64]) -> float:
        inputs, targets = self._samples.batch(positions)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._problem.loss(self._network.model(inputs.to(self._device)), targets.to(self._device)).mean()
        if not bool(torch.isfinite(loss)):
            raise PrunebenchError("the loss stopped being finite while fine-tuning; use a smaller learning rate")
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            for parameter, kept in self._masks:
                parameter.mul_(kept.to(parameter))
        return float(loss.detach())

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What the optimizer remembers, by names that begin with OPTIMIZER."""
        return {
            f"{OPTIMIZER}{number}.{name}": array_of(torch.as_tensor(value))
            for number, held in self._optimizer.state_dict()["state"].items()
            for name, value in held.items()
            if value is not None
        }

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what `state` gave.

        Raises
        ------
        InvalidInput   an array is of another shape than its parameter
        """
        held: dict[int, dict[str, torch.Tensor]] = {}
        for key, array in arrays.items():
            number, _, name = key.removeprefix(OPTIMIZER).partition(".")
            if array.shape not in ((), tuple(self._parameters[int(number)].shape)):
                raise InvalidInput(f"{key} has shape {array.shape}, which is not its parameter's")
            held.setdefault(int(number), {})[name] = torch.from_numpy(np.array(array))
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": held, "param_groups": groups})


def other_tensors(network: PrunableNetwork) -> dict[str, npt.NDArray[Any]]:
    """The model's tensors that are not pruned, by names that begin with OTHER."""
    state = network.model.state_dict()
    return {f"{OTHER}{name}": array_of(tensor) for name, tensor in state.items() if name not in network.names}


def load_other_tensors(network: PrunableNetwork, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Put them back, in place.

    Raises
    ------
    InvalidInput   one is missing, or of another shape or type
    """
    state = {name: tensor for name, tensor in network.model.state_dict().items() if name not in network.names}
    held = {
        name: checked_array(arrays, f"{OTHER}{name}", tuple(tensor.shape), array_of(tensor).dtype.kind)
        for name, tensor in state.items()
    }
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(np.array(held[name])))


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A copy; bfloat16, which numpy does not have, as float32, which holds it exactly."""
    plain = tensor.detach().cpu()
    return np.array((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())


def _tensor(kept: BoolArray) -> torch.Tensor:
    return torch.from_numpy(np.array(kept, dtype=np.float64))
