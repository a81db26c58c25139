"""A network seen as one weight vector: the prunable parameters, flattened in order."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import FloatArray, IndexArray, RealArray, numeric
from prunebench.core.errors import InvalidInput, unknown_name
from prunebench.networks import checkpoints


@dataclass(frozen=True)
class Layer:
    """One prunable parameter: its name and the part [start, stop) of the weight vector that it fills."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many weights the layer has."""
        return self.stop - self.start


class PrunableNetwork:
    """The prunable parameters of a torch model as one vector of weights.

    A parameter that the model has under several names (tied weights) is one part of the vector, under the first of
    them: it is pruned once, in all its uses.

    Parameters
    ----------
    model : torch.nn.Module      held, not copied; `assign` writes into it
    names : parameter names, as in model.named_parameters(), in the order of the weight vector

    Raises
    ------
    UnknownName    the model has no parameter of that name; the message gives the nearest match
    InvalidInput   no names, a repeated name, a parameter that shares memory with another, or one that does not hold
                   real floats
    """

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        self.model = model
        held = dict(model.named_parameters(remove_duplicate=False))
        self._check_names(held, names)
        known: dict[int, list[str]] = {}
        for name, parameter in held.items():
            known.setdefault(id(parameter), []).append(name)
        firsts = list(dict.fromkeys(known[id(held[name])][0] for name in names))
        self.tied: dict[str, tuple[str, ...]] = {
            name: tuple(known[id(held[name])][1:]) for name in firsts if len(known[id(held[name])]) > 1
        }
        """The other names of prunable parameters that have several."""
        layers: list[Layer] = []
        start = 0
        for name in firsts:
            stop = start + held[name].numel()
            layers.append(Layer(name, start, stop, tuple(held[name].shape)))
            start = stop
        self.layers: tuple[Layer, ...] = tuple(layers)
        """The prunable parameters in order; together they cover the weight vector."""
        self._stops = np.array([layer.stop for layer in layers])
        self.ways: dict[Any, Any] = {}
        """How sample gradients are computed, by what decides it: filled by `gradient_ways`, once for each process."""
        self.sharing: Any = None
        """A prunebench.curvature.sharing.Sharing where passes over samples are shared out among workers."""

    @property
    def total(self) -> int:
        """How many prunable weights there are."""
        return self.layers[-1].stop

    @property
    def names(self) -> tuple[str, ...]:
        """The prunable parameters' names, in order."""
        return tuple(layer.name for layer in self.layers)

    @property
    def parameters(self) -> tuple[torch.nn.Parameter, ...]:
        """The prunable parameters themselves, in order."""
        return tuple(self.model.get_parameter(layer.name) for layer in self.layers)

    @property
    def precision(self) -> type[np.float32] | type[np.float64]:
        """The shorter type that holds every prunable weight as it is: float32, or float64 if a parameter has that."""
        kinds = {parameter.dtype for parameter in self.parameters}
        return np.float64 if torch.float64 in kinds else np.float32

    def weights(self, dtype: npt.DTypeLike = np.float64) -> Any:
        """The prunable weights. (p,) of that type, a copy.

        Raises
        ------
        InvalidInput   NaN or infinity; the message names the layer
        """
        self.require_finite()
        out = np.empty(self.total, dtype=dtype)
        for layer in self.layers:
            tensor = self.model.get_parameter(layer.name).detach()
            wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
            out[layer.start : layer.stop] = tensor.to(device="cpu", dtype=wide).reshape(-1).numpy()
        return out

    def require_finite(self) -> None:
        """Check the prunable weights where they are, without copying them.

        Raises
        ------
        InvalidInput   NaN or infinity; the message names the layer
        """
        for layer in self.layers:
            bad = int((~torch.isfinite(self.model.get_parameter(layer.name).detach())).sum())
            if bad:
                raise InvalidInput(
                    f"layer {layer.name!r} holds {bad} weights that are NaN or infinite; "
                    "load a checkpoint of a network that did not diverge"
                )

    def assign(self, weights: npt.ArrayLike, layers: Collection[int] | None = None) -> None:
        """Write weights into the model, in place, in the parameters' own dtype. float (p,).

        layers : only those of the layers at these positions

        Raises
        ------
        InvalidInput   wrong shape, NaN or infinity; nothing is written then
        """
        values = numeric("weights", weights)
        if values.shape != (self.total,):
            raise InvalidInput(f"weights have shape {values.shape}; the network needs ({self.total},)")
        written = self.layers if layers is None else [self.layers[number] for number in layers]
        for layer in written:
            if not np.isfinite(values[layer.start : layer.stop]).all():
                raise InvalidInput(f"weights for layer {layer.name!r} hold NaN or infinity; nothing was written")
        with torch.no_grad():
            for layer in written:
                part = np.array(values[layer.start : layer.stop])
                self.model.get_parameter(layer.name).copy_(torch.from_numpy(part).reshape(layer.shape))

    def read(self, indices: IndexArray) -> FloatArray:
        """Some weights as they are in the model. int64 (b,) -> float64 (b,), which holds every dtype's exactly.

        Raises
        ------
        IndexError   an index is outside [0, total)
        """
        out = np.empty(indices.size)
        for parameter, which, places in self._entries(indices):
            out[which] = parameter.detach()[places].to(device="cpu", dtype=torch.float64).numpy()
        return out

    def write(self, indices: IndexArray, values: RealArray) -> None:
        """Write some weights into the model, in place, in the parameters' own dtype: b elements, whatever p is.

        indices : int64 (b,), no repeats;  values : float (b,)

        Raises
        ------
        InvalidInput   wrong shape, NaN or infinity; nothing is written then
        IndexError     an index is outside [0, total); nothing is written then
        """
        if values.shape != indices.shape:
            raise InvalidInput(f"values have shape {values.shape}; {indices.size} weights need ({indices.size},)")
        if not np.isfinite(values).all():
            raise InvalidInput("values for weights hold NaN or infinity; nothing was written")
        entries = list(self._entries(indices))
        with torch.no_grad():
            for parameter, which, places in entries:
                parameter[places] = torch.from_numpy(values[which]).to(parameter.device, parameter.dtype)

    @property
    def version(self) -> tuple[tuple[int, int], ...]:
        """Changes with every write to a prunable parameter that torch counts: all but those through its `.data`."""
        return tuple((id(parameter), parameter._version) for parameter in self.parameters)

    def layer_names(self, indices: npt.ArrayLike) -> npt.NDArray[np.str_]:
        """The layer of each weight in `indices`. int64 (b,) -> str (b,).

        Raises
        ------
        IndexError   an index is outside [0, total)
        """
        return np.array(self.names, dtype=np.str_)[self.owners(np.asarray(indices, dtype=np.int64))]

    def owners(self, indices: IndexArray) -> IndexArray:
        """The number of each weight's layer. int64 (b,)."""
        if indices.size and (indices.min() < 0 or indices.max() >= self.total):
            raise IndexError(f"indices reach outside the network's {self.total} prunable weights")
        return np.searchsorted(self._stops, indices, side="right")

    def _entries(
        self, indices: IndexArray
    ) -> Iterator[tuple[torch.nn.Parameter, IndexArray, tuple[torch.Tensor, ...]]]:
        """For each layer that holds any of the weights: its parameter, which of `indices` those are, their places."""
        owners = self.owners(indices)
        for number in np.unique(owners):
            layer, which = self.layers[number], np.flatnonzero(owners == number)
            places = np.unravel_index(indices[which] - layer.start, layer.shape)
            yield self.model.get_parameter(layer.name), which, tuple(torch.from_numpy(axis) for axis in places)

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the model's whole state, prunable or not, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def load_state(self, state: Mapping[str, torch.Tensor], source: str = "the state") -> None:
        """Put a whole state into the model, in place.

        Raises
        ------
        InvalidInput   names or shapes that are not the model's; nothing is written then
        """
        checkpoints.load_into(self.model, state, source)

    def save(self, path: Path | str) -> None:
        """Write the model's whole state as a safetensors file, whole or not at all."""
        checkpoints.write_state(path, self.model.state_dict())

    def load(self, path: Path | str) -> None:
        """Put the state in a safetensors file into the model, in place.

        Raises
        ------
        MissingData    there is no such file
        InvalidInput   the file is broken, or its names or shapes are not the model's
        """
        self.load_state(checkpoints.read_state(path), f"weights file {str(path)!r}")

    @staticmethod
    def _check_names(held: Mapping[str, torch.nn.Parameter], names: Sequence[str]) -> None:
        if isinstance(names, str) or not names:
            raise InvalidInput(f"prunable parameters are {names!r}; give the names of at least one, as a tuple")
        for position, name in enumerate(names):
            if name not in held:
                raise unknown_name("parameter", name, held)
            if name in names[:position]:
                raise InvalidInput(f"parameter {name!r} is named twice among the prunable ones; name it once")
            if not held[name].is_floating_point() or held[name].numel() == 0:
                raise InvalidInput(
                    f"parameter {name!r} has dtype {held[name].dtype} and shape {tuple(held[name].shape)}; "
                    "only non-empty floating-point parameters can be pruned"
                )
            shared = [other for other in held if _share_memory(held[other], held[name])]
            if shared:
                raise InvalidInput(
                    f"parameter {name!r} has its memory in common with {shared[0]!r}, which is another parameter: "
                    "pruning one would change the other; leave it out (--option exclude=PATTERN), or make them one "
                    "parameter or two apart"
                )


def _share_memory(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first is not second and first.data_ptr() != 0 and first.data_ptr() == second.data_ptr()


def call_with(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], inputs: Any) -> Any:
    """What a network gives with these tensors in the place of its own, by name; the network is left as it was.

    torch's functional_call does that, except for a module that stands under several names: it writes to the module once
    for each name, takes back what it wrote, and leaves a plain tensor where a parameter was. So there every place gets
    its tensor once: under one of the module's names, and in each other module that has the same tensor.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    if len({id(module) for _, module in modules}) == len(modules):
        return torch.func.functional_call(model, dict(tensors), (inputs,))
    held = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    given = {id(held[name]): tensor for name, tensor in tensors.items()}
    owners = dict(modules)
    places: dict[tuple[int, str], str] = {}
    for name, tensor in held.items():
        owner, _, leaf = name.rpartition(".")
        if id(tensor) in given:
            places.setdefault((id(owners[owner]), leaf), name)
    each = {name: given[id(held[name])] for name in places.values()}
    return torch.func.functional_call(model, each, (inputs,), tie_weights=False)


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module has the training flag it had."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
