"""A network walked from its inputs to its outputs, layer by layer, with the layers behind already pruned.

Where the prunable layers sit in a chain of blocks (the decoder layers of a language model, the blocks
of a vision transformer), what enters the next block is kept for all samples, so that a block is run by
itself; elsewhere the network is run from its inputs up to the layer. No gradient is computed.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.curvature.activations import Linear, checked_linear, input_rows, input_width
from prunebench.curvature.module_use import require_calls_only
from prunebench.networks.block_chain import Entered, Stop, find_chain
from prunebench.networks.chosen import pattern_of
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, counted_positions, fetched

CHUNK_SAMPLES = 256
"""Samples in one forward pass: their layer inputs are held at once."""


@dataclass(frozen=True, eq=False)
class InputGrams:
    """What the inputs X of a group of layers, and those Y of the same layers in the dense network, say.

    gram : float64 (c, c)     X'X/n
    cross : float64 (c, c)    X'Y/n; the Gram itself where the dense network is not run
    drift : float64 (c, c)    (X − Y)'(X − Y)/n; zero where the dense network is not run
    count : input vectors seen, n
    """

    gram: FloatArray
    cross: FloatArray
    drift: FloatArray
    count: int


class LayerWalk:
    """The prunable layers in the order in which the network runs them, and their inputs.

    Parameters
    ----------
    network : every prunable parameter must be the weight of a torch.nn.Linear or Conv2d; written to by every call
    samples, positions : the calibration samples to be run
    dense : whether the dense network is run beside the pruned one; a second copy of the model is held then

    Raises
    ------
    InvalidInput   no samples; a prunable parameter of another kind, one that the network never reaches, or one that is
                   used otherwise than by calling its layer
    """

    def __init__(self, network: PrunableNetwork, samples: Samples, positions: IndexArray, *, dense: bool) -> None:
        if positions.size == 0:
            raise InvalidInput("there are no calibration samples; layer-wise pruning needs the layers' inputs")
        self.network = network
        self._samples = samples
        size = at_once(samples, CHUNK_SAMPLES)
        self._chunks = [positions[start : start + size] for start in range(0, positions.size, size)]
        self._dense_model = copy.deepcopy(network.model) if dense else None
        self._names = [layer.name.removesuffix(".weight") for layer in network.layers]
        self._device = next(network.model.parameters()).device
        modules = dict(network.model.named_modules())
        self._modules = [_checked(layer.name, modules) for layer in network.layers]
        require_calls_only(
            network.model, dict(zip(self._names, self._modules, strict=True)), lambda: self._answer(self._chunks[0][:1])
        )
        calls = self._probe()
        self.groups: tuple[tuple[int, ...], ...] = _grouped(
            self._names, calls, [_geometry(module) for module in self._modules]
        )
        """Layers by position in network.layers, those with the same inputs together, in the order they are run."""
        self._expected = [sum(len(calls[layer]) for layer in group) for group in self.groups]
        self._chain = find_chain(network.model, self._names, lambda model: self._forward(model, self._chunks[0]))
        self._block_of = [self._chain.block_of(self._names[group[0]]) if self._chain else None for group in self.groups]
        self._streams: list[list[Entered]] | None = None
        self._at = 0

    @property
    def blocks(self) -> int:
        """How many blocks are run by themselves; 0 where the network is run from its inputs every time."""
        return len(self._chain.names) if self._chain else 0

    def inputs(self, group: int, weights: FloatArray) -> InputGrams:
        """The inputs of `groups[group]` with the network at `weights`, float (p,).

        Groups of a chain must be asked for in order; the weights of blocks behind must not change.

        Raises
        ------
        InvalidInput   the inputs hold NaN or infinity, or are zero throughout; the message names the layer
        """
        self.network.assign(weights)
        members = self.groups[group]
        name, width = self._names[members[0]], input_width(self._modules[members[0]])
        total = torch.zeros((3, width, width), dtype=torch.float64, device=self._device)
        count = 0
        with evaluation_mode(self.network.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            for rows, dense in self._rows(group):
                total[0].addmm_(rows.T, rows)
                count += len(rows)
                if dense is not None:
                    if dense.shape != rows.shape:
                        raise InvalidInput(
                            f"layer {name!r} gets {len(rows)} inputs in the pruned network and {len(dense)} in the "
                            "dense one (experts that are routed to otherwise): use target=own"
                        )
                    total[1].addmm_(rows.T, dense)
                    away = rows - dense
                    total[2].addmm_(away.T, away)
        held = total.cpu().numpy() / max(count, 1)
        if not np.isfinite(held).all():
            raise InvalidInput(
                f"the inputs of layer {name!r} hold NaN or infinity; look for a diverged network or a broken sample"
            )
        if not held[0].any():
            raise InvalidInput(
                f"layer {name!r} gets zeros only, so its inputs say nothing about any weight; prune the layers before "
                "it less, or use more samples"
            )
        cross = held[1] if self._dense_model is not None else held[0]
        return InputGrams(0.5 * (held[0] + held[0].T), cross, held[2], count)

    def _rows(self, group: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """For every chunk the group's inputs, and those of the dense network, float64 (n, c)."""
        block = self._block_of[group]
        if block is not None:
            self._advance(block)
        for number, chunk in enumerate(self._chunks):
            found = [
                self._caught(model, group, self._runner(model, stream, block, number, chunk), chunk)
                for model, stream in self._models()
            ]
            yield found[0], found[1] if len(found) > 1 else None

    def _models(self) -> list[tuple[torch.nn.Module, int]]:
        models = [(self.network.model, 0)]
        return models if self._dense_model is None else [*models, (self._dense_model, 1)]

    def _runner(
        self, model: torch.nn.Module, stream: int, block: int | None, number: int, chunk: IndexArray
    ) -> Callable[[], None]:
        if block is None:
            return lambda: self._forward(model, chunk)
        assert self._chain is not None
        assert self._streams is not None
        chain, held = self._chain, self._streams[stream][number]
        return lambda: _discard(chain.run(model, block, held))

    def _caught(self, model: torch.nn.Module, group: int, run: Callable[[], None], chunk: IndexArray) -> torch.Tensor:
        """The inputs that reach the group's layers while `run` runs, which is cut short after the last."""
        modules = dict(model.named_modules())
        counted = counted_positions(self._samples, self._samples.batch(chunk)[1])
        first, seen, rows = self._names[self.groups[group][0]], 0, []

        def hook(name: str) -> Callable[..., None]:
            def catch(module: Any, inputs: tuple[Any, ...]) -> None:
                nonlocal seen
                seen += 1
                # layers of a group get the same inputs, so those of the first are enough
                if name == first:
                    rows.append(input_rows(module, inputs[0].detach(), counted, layer=name).to(torch.float64))
                if seen == self._expected[group]:
                    raise Stop

            return catch

        hooks = [
            modules[self._names[layer]].register_forward_pre_hook(hook(self._names[layer]))
            for layer in self.groups[group]
        ]
        try:
            run()
        except Stop:
            pass
        finally:
            for handle in hooks:
                handle.remove()
        empty = torch.zeros((0, input_width(self._modules[self.groups[group][0]])), dtype=torch.float64)
        return torch.cat([empty.to(self._device), *(part.to(self._device) for part in rows)])

    def _advance(self, block: int) -> None:
        """Bring what enters `block` up to date, for all chunks and both networks."""
        assert self._chain is not None
        if self._streams is None or self._at > block:
            self._streams = [[self._entered(model, chunk) for chunk in self._chunks] for model, _ in self._models()]
            self._at = 0
        while self._at < block:
            for model, stream in self._models():
                for number, held in enumerate(self._streams[stream]):
                    self._streams[stream][number] = self._chain.passed(model, self._at, held)
            self._at += 1

    def _entered(self, model: torch.nn.Module, chunk: IndexArray) -> Entered:
        assert self._chain is not None
        return self._chain.entered(model, lambda: self._forward(model, chunk))

    def _forward(self, model: torch.nn.Module, chunk: IndexArray) -> None:
        inputs, _ = fetched(self._samples, chunk, self._device)
        model(inputs)

    def _answer(self, chunk: IndexArray) -> Any:
        inputs, _ = fetched(self._samples, chunk, self._device)
        return self.network.model(inputs)

    def _probe(self) -> list[list[int]]:
        """When each layer is called on the first chunk, as the number of the tensor it gets."""
        calls: list[list[int]] = [[] for _ in self._modules]
        seen: list[tuple[torch.Tensor, int]] = []

        def hook(layer: int) -> Callable[..., None]:
            def note(_module: Any, inputs: tuple[Any, ...]) -> None:
                given, version = inputs[0], inputs[0]._version
                same = (i for i, (held, then) in enumerate(seen) if held is given and then == version)
                number = next(same, len(seen))
                if number == len(seen):
                    seen.append((given, version))
                calls[layer].append(number)

            return note

        hooks = [module.register_forward_pre_hook(hook(layer)) for layer, module in enumerate(self._modules)]
        try:
            with evaluation_mode(self.network.model), torch.no_grad(), torch.random.fork_rng(devices=[]):
                self._forward(self.network.model, self._chunks[0][:1])
        finally:
            for handle in hooks:
                handle.remove()
        return calls


def _grouped(
    names: Sequence[str], calls: Sequence[Sequence[int]], geometries: Sequence[tuple[str, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Layers that get the same tensors and see them alike, in the order of the first call."""
    unreached = [name for name, numbers in zip(names, calls, strict=True) if not numbers]
    if unreached:
        pattern = pattern_of([f"{name}.weight" for name in unreached], [f"{name}.weight" for name in names])
        raise InvalidInput(
            f"layer {unreached[0]!r} is never reached by the samples, so nothing is known of its weights (nor of "
            f"{len(unreached) - 1} more layers); leave them out of the prunable parameters: --option exclude={pattern}"
        )
    groups: dict[tuple[tuple[int, ...], tuple[str, ...]], list[int]] = {}
    for layer, numbers in enumerate(calls):
        groups.setdefault((tuple(numbers), geometries[layer]), []).append(layer)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def _geometry(module: Linear) -> tuple[str, ...]:
    """What decides, beside the input, which patches a layer sees."""
    if isinstance(module, torch.nn.Conv2d):
        parts = (module.kernel_size, module.stride, module.padding, module.dilation)
        return tuple(str(part) for part in parts)
    return ()


def _checked(parameter: str, modules: dict[str, torch.nn.Module]) -> Linear:
    name = parameter.removesuffix(".weight")
    if name == parameter or name not in modules:
        raise InvalidInput(
            f"parameter {parameter!r} is not the weight of a module; layer-wise pruning knows torch.nn.Linear and "
            "torch.nn.Conv2d only"
        )
    return checked_linear(name, modules[name])


def _discard(_result: Any) -> None:
    pass
