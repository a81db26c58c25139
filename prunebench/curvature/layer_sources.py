"""Where each prunable layer's inputs are seen: at its module, or at the products by its weight; and where nowhere.

A linear layer or plain convolution that is used by calling it, and in no other way, shows its inputs at the call.
Of any other parameter the products are watched (`products`). What is left shows no inputs, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.coordinator import LeftDense
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import Linear, checked_linear, counted_rows, input_width
from prunebench.curvature.layer_tables import Table, Unfit, Unseen, table_of
from prunebench.curvature.module_use import used_otherwise
from prunebench.curvature.products import Part, watching
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import counted_positions, fetched

PADDED = "gets padding among its inputs, and which they are is not seen there (packing=packed has none)"
"""Why nothing is known of a layer whose inputs have another order than the samples' positions."""

LOOKED_AT = 2
"""Samples that are run first: one alone does not show their order, nor weights that are copied once for each."""

UNREACHED = "is never reached by the samples"
"""Why nothing is known of a layer that is not used."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where the inputs of a layer are seen.

    parameter : the layer's weight, by name
    calls : its uses in one pass, as numbers of the tensors that layers get, in the order in which they are had
    module : the layer, where its calls show the inputs;  table : else the weight, whose products do
    """

    parameter: str
    calls: tuple[int, ...]
    module: Linear | None = None
    table: Table | None = None

    @property
    def name(self) -> str:
        """The layer's name, for messages."""
        return self.parameter.removesuffix(".weight")

    @property
    def columns(self) -> int:
        """How many weights an output row has."""
        if self.module is not None:
            return input_width(self.module)
        assert self.table is not None
        return int(self.table.places.shape[1])


@dataclass(frozen=True, eq=False)
class Sources:
    """The layers whose inputs are seen, in the order of the network's layers, and those that are left dense."""

    layers: tuple[Source, ...]
    left: tuple[LeftDense, ...]


def look(network: PrunableNetwork, samples: Samples, chunks: Sequence[IndexArray]) -> Sources:
    """Where the inputs of a network's layers are seen. Runs two samples, and more where it does not reach all layers.

    Parameters
    ----------
    network : left as it was
    chunks : int64 (s,) each, positions of the samples that go through together
    """
    padded = any(_padded(samples, chunk) for chunk in chunks)
    held = _Look(network, samples, padded)
    for chunk in (chunks[0][:LOOKED_AT], *chunks):
        held.run(chunk)
        if not held.unseen():
            break
    return held.sources()


class _Look:
    """What has been seen of every layer so far."""

    def __init__(self, network: PrunableNetwork, samples: Samples, padded: bool) -> None:
        self._network, self._samples, self._padded = network, samples, padded
        self._model = network.model
        self._device = next(network.model.parameters()).device
        self._parameters = {layer.name: network.model.get_parameter(layer.name) for layer in network.layers}
        self._modules: dict[str, Linear] = {}
        self._calls: dict[str, list[int]] = {}
        self._parts: dict[str, dict[Part, None]] = {}
        self._reasons: dict[str, str] = {}
        self._given: list[tuple[Any, int]] = []
        """The tensors that layers got, with the version of their memory; None for the inputs of a product."""
        self._entered: dict[str, torch.Tensor] = {}
        """Where there is padding: what the modules that own watched parameters are called with."""

    def run(self, chunk: IndexArray) -> None:
        """Send samples through, and note what is used that has not been before."""
        if not self._calls and not self._parts:
            self._modules = self._called(chunk)
        before = set(self._calls)
        watched = {name: item for name, item in self._parameters.items() if name not in self._modules}
        hooks = [
            module.register_forward_pre_hook(self._noting(name))
            for name, module in self._modules.items()
            if name not in before
        ]
        if self._padded:
            hooks += self._entering(watched)

        def take(part: Part, rows: torch.Tensor, ordered: bool) -> None:
            self._take(part, count=part.name not in before)
            if self._padded and not (ordered and self._as_entered(part.name, rows, counted)):
                self._reasons[part.name] = PADDED

        inputs, targets = fetched(self._samples, chunk, self._device)
        counted = counted_positions(self._samples, targets)
        try:
            with quiet_pass(self._model), watching(watched, take, self._foreign):
                self._model(inputs)
        finally:
            for handle in hooks:
                handle.remove()

    def unseen(self) -> bool:
        """Whether more samples might show more."""
        for name, parameter in self._parameters.items():
            if name in self._reasons:
                continue
            if name not in self._calls:
                return True
            if name not in self._modules:
                try:
                    table_of(name, parameter, self._parts[name])
                except Unseen:
                    return True
                except Unfit:
                    continue
        return False

    def sources(self) -> Sources:
        """All that has been seen."""
        found: list[Source] = []
        for name, parameter in self._parameters.items():
            if name not in self._calls:
                self._reasons.setdefault(name, UNREACHED)
            if name in self._reasons:
                continue
            calls = tuple(self._calls[name])
            if name in self._modules:
                found.append(Source(name, calls, module=self._modules[name]))
                continue
            try:
                found.append(Source(name, calls, table=table_of(name, parameter, self._parts[name])))
            except Unfit as error:
                self._reasons[name] = str(error)
        return Sources(tuple(found), left_dense(self._network, self._reasons))

    def _called(self, chunk: IndexArray) -> dict[str, Linear]:
        """The modules that show the inputs of their weights, by the weights' names."""
        twins: dict[int, int] = {}
        for _, item in self._model.named_parameters(remove_duplicate=False):
            twins[id(item)] = twins.get(id(item), 0) + 1
        modules = dict(self._model.named_modules())
        found: dict[str, Linear] = {}
        for name, parameter in self._parameters.items():
            owner, _, leaf = name.rpartition(".")
            if leaf != "weight" or twins[id(parameter)] > 1 or owner not in modules:
                continue
            try:
                found[owner] = checked_linear(owner, modules[owner])
            except InvalidInput:
                continue
        inputs, _ = fetched(self._samples, chunk[:1], self._device)
        otherwise = used_otherwise(self._model, found, lambda: self._model(inputs)) if found else ()
        return {f"{owner}.weight": module for owner, module in found.items() if owner not in otherwise}

    def _noting(self, name: str) -> Callable[..., None]:
        def note(_module: Any, inputs: tuple[Any, ...]) -> None:
            given, version = inputs[0], inputs[0]._version
            same = (i for i, (held, then) in enumerate(self._given) if held is given and then == version)
            number = next(same, len(self._given))
            if number == len(self._given):
                self._given.append((given, version))
            self._calls.setdefault(name, []).append(number)
            if self._padded:
                self._require_told_apart(name, given)

        return note

    def _require_told_apart(self, name: str, given: torch.Tensor) -> None:
        """Leave a layer out whose inputs do not show which of them are padding."""
        if not isinstance(self._modules[name], torch.nn.Linear):
            return
        counted = torch.ones((len(given), given.shape[1] if given.ndim > 1 else 1), dtype=torch.bool)
        counted[0, 0] = False
        try:
            counted_rows(name, given, counted)
        except InvalidInput:
            self._reasons[name] = PADDED

    def _entering(self, parameters: Mapping[str, torch.Tensor]) -> list[Any]:
        """Hooks that see what the owners of parameters are called with."""
        modules = dict(self._model.named_modules())

        def hook(name: str) -> Callable[..., None]:
            def enter(_module: Any, given: tuple[Any, ...]) -> None:
                if given and isinstance(given[0], torch.Tensor):
                    self._entered[name] = given[0]

            return enter

        owners = {name: modules.get(name.rpartition(".")[0]) for name in parameters}
        return [owner.register_forward_pre_hook(hook(name)) for name, owner in owners.items() if owner is not None]

    def _as_entered(self, name: str, rows: torch.Tensor, counted: torch.Tensor | None) -> bool:
        """Whether rows are what the parameter's owner was called with, position by position of each sample."""
        given = self._entered.get(name)
        return (
            given is not None
            and counted is not None
            and given.shape[:-1] == counted.shape
            and rows.shape == (counted.numel(), given.shape[-1])
            and bool(torch.equal(rows, given.reshape(rows.shape)))
        )

    def _take(self, part: Part, *, count: bool) -> None:
        if count and part not in self._parts.get(part.name, {}):
            self._calls.setdefault(part.name, []).append(len(self._given))
            self._given.append((None, 0))
        self._parts.setdefault(part.name, {})[part] = None

    def _foreign(self, name: str, operation: str) -> None:
        self._reasons[name] = f"is used otherwise than as a factor of a product (by {operation})"


def left_dense(network: PrunableNetwork, reasons: Mapping[str, str]) -> tuple[LeftDense, ...]:
    """Parameters with the same reason together, in the order of the network."""
    sizes = {layer.name: layer.size for layer in network.layers}
    names: dict[str, list[str]] = {}
    for layer in network.layers:
        if layer.name in reasons:
            names.setdefault(reasons[layer.name], []).append(layer.name)
    return tuple(LeftDense(why, tuple(held), sum(sizes[name] for name in held)) for why, held in names.items())


@contextmanager
def quiet_pass(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and the generator of the CPU put back afterwards."""
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        yield


def _padded(samples: Samples, chunk: IndexArray) -> bool:
    if getattr(samples, "counted", None) is None:
        return False
    counted = counted_positions(samples, samples.batch(chunk)[1])
    return counted is not None and not bool(counted.all())


def chunks_of(positions: IndexArray, size: int) -> list[IndexArray]:
    """Positions in pieces of `size`."""
    return [positions[start : start + size] for start in range(0, positions.size, size)]
