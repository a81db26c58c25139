"""Which matrices of a network are pruned, and which are not: nothing is left out without being told.

A matrix is any floating-point parameter with two axes or more. A problem names those that it prunes; the
options include and exclude, which every network has, choose otherwise by patterns of names.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Selection, selection
from prunebench.networks.network import PrunableNetwork

HEADS = ("get_output_embeddings", "get_classifier")
"""How networks of transformers and of timm are asked for their output head."""

MOST_NEAR = 3
"""How many near names an error lists."""


@dataclass(frozen=True)
class Group:
    """Matrices of one kind.

    kind : type of the module that holds them, with their role where it has one, or how they were chosen
    matrices, weights : how many
    names : parameter names, numbers replaced by * and repeats dropped
    """

    kind: str
    matrices: int
    weights: int
    names: tuple[str, ...]


def prunable_network(problem: NetworkProblem, model: torch.nn.Module | None = None) -> PrunableNetwork:
    """The problem's network with the matrices that it prunes, or those that include and exclude choose.

    Parameters
    ----------
    model : the problem's model where it is loaded already; a new copy if None

    Raises
    ------
    InvalidInput   a pattern that matches nothing, nothing left to prune, a batch norm without running statistics, or
                   what PrunableNetwork refuses
    """
    held: torch.nn.Module = problem.model() if model is None else model
    require_running_statistics(held)
    chosen = selection(problem)
    names = problem.prunable() if not chosen.include else ()
    return PrunableNetwork(held, names if chosen == Selection() else selected(held, names, chosen))


def require_running_statistics(model: torch.nn.Module) -> None:
    """Refuse a batch norm that takes its statistics from the batch also in evaluation mode.

    Raises
    ------
    InvalidInput   there is one: no sample of a batch has a loss, or a gradient, of its own
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InvalidInput(
                f"the {type(module).__name__} {name!r} keeps no running statistics (track_running_stats=False), so "
                "what the network gives for a sample depends on the others of its batch, and no sample has a loss of "
                "its own; let it keep them (a few passes over training data), or use a GroupNorm"
            )


def selected(model: torch.nn.Module, usual: Sequence[str], chosen: Selection) -> tuple[str, ...]:
    """Names of the parameters to prune, in order.

    Parameters
    ----------
    usual : what is pruned where `chosen` includes nothing by name

    Raises
    ------
    InvalidInput   a pattern that matches no matrix, with near names, or nothing left
    """
    include, exclude = chosen.patterns
    known = list(dict.fromkeys([*usual, *_matrices(model, twins=True)]))
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                near = difflib.get_close_matches(pattern, known, MOST_NEAR, 0.3) or known[:MOST_NEAR]
                raise InvalidInput(
                    f"{option}={pattern} matches none of the network's {len(known)} matrices; near names are "
                    f"{', '.join(near)}, and * stands for any letters"
                )
    wanted = [name for name in known if _matches(name, include)] if include else list(usual)
    left = tuple(name for name in wanted if not _matches(name, exclude))
    if not left:
        raise InvalidInput(f"exclude={chosen.exclude} leaves nothing to prune; exclude less")
    return left


def not_pruned(network: PrunableNetwork, chosen: Selection, left_dense: Sequence[str] = ()) -> list[Group]:
    """The matrices of a network that are not pruned, by kind, most weights first.

    left_dense : those that the coordinator cannot prune, which it tells by itself with the reason
    """
    model = network.model
    modules = dict(model.named_modules())
    heads = _heads(model)
    exclude = chosen.patterns[1]
    pruned = {id(model.get_parameter(name)) for name in (*network.names, *left_dense)}
    kinds: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in _matrices(model).items():
        if id(tensor) in pruned:
            continue
        owner = modules[name.rpartition(".")[0]]
        kind = _kind(owner, tensor, heads)
        if _matches(name, exclude):
            kind = f"{kind}, excluded"
        kinds.setdefault(kind, {})[name] = tensor
    groups = [group(kind, {name: item.numel() for name, item in held.items()}) for kind, held in kinds.items()]
    return sorted(groups, key=lambda item: (-item.weights, item.kind))


def group(kind: str, sizes: Mapping[str, int]) -> Group:
    """Matrices by name and size as one group."""
    return Group(kind, len(sizes), sum(sizes.values()), folded(sizes))


def folded(names: Iterable[str]) -> tuple[str, ...]:
    """Names that differ in numbers only, as one: `blocks.0.fc.weight` is `blocks.*.fc.weight`."""
    return tuple(dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in names))


def pattern_of(names: Sequence[str], others: Iterable[str]) -> str:
    """A value of exclude= that matches these parameters and none of the others: folded names where they do, else all.

    Parameters
    ----------
    names : at least one;  others : parameters that are not to match
    """
    rest = set(others) - set(names)
    short = folded(names)
    fits = len(names) > 1 and not any(fnmatchcase(name, pattern) for name in rest for pattern in short)
    return ",".join(short if fits else names)


def kinds_of(model: torch.nn.Module) -> str:
    """The matrices of a network by kind, in words: "8 of Conv1D, 2 of Embedding"."""
    heads, modules = _heads(model), dict(model.named_modules())
    counts: dict[str, int] = {}
    for name, tensor in _matrices(model).items():
        kind = _kind(modules[name.rpartition(".")[0]], tensor, heads)
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} of {kind}" for kind, count in counts.items())


def _matrices(model: torch.nn.Module, *, twins: bool = False) -> dict[str, torch.Tensor]:
    """The floating-point parameters with two axes or more by name; `twins`: under each name they have."""
    return {
        name: item
        for name, item in model.named_parameters(remove_duplicate=not twins)
        if item.ndim >= 2 and item.is_floating_point() and item.numel()
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _kind(owner: torch.nn.Module, tensor: torch.Tensor, heads: Sequence[Any]) -> str:
    kind = type(owner).__name__
    if any(owner is head for head in heads):
        return f"{kind} (output head)"
    if kind not in torch.nn.__dict__ and tensor.ndim > 2:
        return f"{kind} ({tensor.ndim} axes)"
    return kind


def _heads(model: torch.nn.Module) -> list[Any]:
    """The output heads, of a network that can be asked for them."""
    found: list[Any] = []
    for name in HEADS:
        ask = getattr(model, name, None)
        if callable(ask):
            held = ask()
            found += held if isinstance(held, tuple) else [held]
    return [head for head in found if isinstance(head, torch.nn.Module)]
