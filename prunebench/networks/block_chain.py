"""A chain of blocks inside a network, each fed with what the one before gives: run block by block.

The decoder layers of a language model, or the blocks of a vision transformer. Found by looking at a
run, not by names, and used only if running the blocks one after the other gives what the network gave.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.networks.network import evaluation_mode

CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "layer_past", "use_cache")
"""Arguments that carry a key-value cache from call to call; blocks are run without."""


class Stop(Exception):
    """Ends a run of the network that has shown what was wanted."""


@dataclass(frozen=True, eq=False)
class Entered:
    """What enters a block: the hidden states, and the other arguments of every block's call."""

    hidden: torch.Tensor
    others: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


class Chain:
    """The blocks of a chain by name, in order. Models are passed in, so that a copy can be run alike."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def block_of(self, layer: str) -> int | None:
        """The block that holds a layer; None outside the chain."""
        return next((i for i, name in enumerate(self.names) if layer == name or layer.startswith(f"{name}.")), None)

    def entered(self, model: torch.nn.Module, forward: Callable[[], None]) -> Entered:
        """What enters the first block while `forward` runs the model, cut short after the last has been called."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def catch(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, {key: value for key, value in kwargs.items() if key not in CACHE_ARGUMENTS}))
            if len(calls) == len(self.names):
                raise Stop

        blocks = [model.get_submodule(name) for name in self.names]
        handles = [block.register_forward_pre_hook(catch, with_kwargs=True) for block in blocks]
        with _hooks(handles), suppress(Stop):
            forward()
        return Entered(calls[0][0][0].detach(), tuple((args[1:], kwargs) for args, kwargs in calls))

    def run(self, model: torch.nn.Module, block: int, held: Entered) -> Any:
        """A block's answer to what enters it."""
        args, kwargs = held.others[block]
        return model.get_submodule(self.names[block])(held.hidden, *args, **kwargs)

    def passed(self, model: torch.nn.Module, block: int, held: Entered) -> Entered:
        """What enters the block after `block`."""
        return Entered(hidden_of(self.run(model, block, held)).detach(), held.others)


def find_chain(
    model: torch.nn.Module, layers: Sequence[str], forward: Callable[[torch.nn.Module], None]
) -> Chain | None:
    """The chain that holds most of the layers, or None where there is none of at least two blocks.

    Parameters
    ----------
    model : run once or twice by `forward`
    layers : names of the modules whose inputs are wanted
    forward : runs the model given on a few samples
    """
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for names in _candidates(model, layers):
            if _linked(model, names, lambda: forward(model)):
                return Chain(names)
    return None


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states in a block's answer: itself, or the first of several."""
    held: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return held


def _candidates(model: torch.nn.Module, layers: Sequence[str]) -> list[list[str]]:
    """The children of every list or sequence of modules that holds layers in two of them or more, most layers first."""
    found: list[tuple[int, list[str]]] = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            continue
        children = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        chain = Chain(children)
        inside = [block for block in map(chain.block_of, layers) if block is not None]
        # a chain of single layers has nothing to gain
        if len(set(inside)) >= 2 and len(inside) > len(set(inside)):
            found.append((len(inside), children))
    return [children for _, children in sorted(found, key=lambda pair: -pair[0])]


def _linked(model: torch.nn.Module, names: Sequence[str], forward: Callable[[], None]) -> bool:
    """Whether each block is called once, in order, with the answer of the one before, and answers alike by itself."""
    blocks = [model.get_submodule(name) for name in names]
    given: list[tuple[int, Any]] = []
    answers: list[torch.Tensor] = []

    def before(number: int) -> Callable[..., None]:
        return lambda _module, args, _kwargs: given.append((number, args[0] if args else None))

    def after(_module: Any, _args: Any, output: Any) -> None:
        answers.append(hidden_of(output))

    with _hooks(
        [block.register_forward_pre_hook(before(i), with_kwargs=True) for i, block in enumerate(blocks)]
        + [block.register_forward_hook(after) for block in blocks]
    ):
        forward()
    if [number for number, _ in given] != list(range(len(blocks))):
        return False
    if not isinstance(given[0][1], torch.Tensor):
        return False
    if any(given[i + 1][1] is not answers[i] for i in range(len(blocks) - 1)):
        return False
    chain = Chain(names)
    held = chain.entered(model, forward)
    for block in range(len(blocks)):
        held = chain.passed(model, block, held)
    return bool(torch.allclose(held.hidden, answers[-1], rtol=1e-4, atol=1e-5 * float(answers[-1].abs().max())))


@contextmanager
def _hooks(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
