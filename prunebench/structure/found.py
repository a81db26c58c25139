"""The groups of a network that are pruned: found, checked, with what they cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from prunebench.core.arrays import BoolArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.networks.network import evaluation_mode
from prunebench.networks.own_losses import plain_targets
from prunebench.networks.samples import Parts, at_once, fetched
from prunebench.structure import families as kinds
from prunebench.structure.branches import masked_program
from prunebench.structure.check import Checked, check
from prunebench.structure.cost import Cost, Unit, cost_of
from prunebench.structure.families import Family, Frozen
from prunebench.structure.resize import Living
from prunebench.structure.trace import EXAMPLES, Coupling, couple

BATCH = 250
"""Samples that go through a network at a time where they do not say how many."""


@dataclass(frozen=True)
class Found:
    """The groups of a network.

    coupling : its graph;  families : those that are pruned
    others : families that are not: not asked for, or refused by their check, with what it found
    frozen : what must stay, and why
    tokens : how many tokens a sample has, 0 where samples are no rows of tokens
    """

    coupling: Coupling
    families: tuple[Family, ...]
    others: tuple[Checked, ...]
    frozen: tuple[Frozen, ...]
    tokens: int

    def cost(self, unit: Unit) -> Cost:
        """What the network costs, as a function of what is kept of its families."""
        return cost_of(self.coupling, self.families, unit)

    def inputs(self, samples: Samples, positions: IndexArray) -> Any:
        """The inputs of these samples, where the network is."""
        return _given(fetched(samples, positions, _device(self.coupling))[0])

    def classifies(self, samples: Samples) -> bool:
        """Whether targets are classes, one a sample."""
        targets = plain_targets(samples.batch(np.zeros(1, dtype=np.int64))[1])
        return isinstance(targets, torch.Tensor) and targets.ndim == 1 and not targets.is_floating_point()

    def loss(
        self,
        state: Mapping[str, torch.Tensor],
        samples: Samples,
        positions: IndexArray,
        loss: Callable[..., Any],
        kept: Sequence[BoolArray] | None = None,
    ) -> float:
        """The mean loss of these samples with other parameters and buffers.

        kept : of every family; it says which residual branches are gone. None: none is
        """
        living = Living(self.coupling, self.families, kept or [np.ones(f.size, dtype=bool) for f in self.families])
        program = masked_program(self.coupling.program, living.gone)
        total, step = 0.0, at_once(samples, BATCH)
        with torch.no_grad():
            for start in range(0, positions.size, step):
                inputs, targets = fetched(samples, positions[start : start + step], _device(self.coupling))
                outputs = functional_call(program, dict(state), (_given(inputs),))
                total += float(loss(outputs, targets).sum(dtype=torch.float64))
        return total / positions.size


def find(
    model: torch.nn.Module, samples: Samples, asked: Sequence[str], say: Callable[[str], None] = lambda _line: None
) -> Found:
    """Find the groups of a network, and check those that are asked for.

    Parameters
    ----------
    asked : kinds and patterns of names (`families.chosen`);  say : is told what is refused

    Raises
    ------
    InvalidInput   the structure cannot be found, or no family that is asked for can be pruned
    """
    inputs, _ = fetched(samples, np.arange(min(EXAMPLES, len(samples))), next(model.parameters()).device)
    example = _given(inputs)
    with evaluation_mode(model):
        coupling = couple(model, example)
    every, frozen = kinds.families(coupling)
    wanted = kinds.chosen(every, asked)
    checked = check(coupling, wanted)
    good = tuple(family for family, result in zip(wanted, checked, strict=True) if not result.reason)
    refused = [result for result in checked if result.reason]
    for result in refused:
        family = result.families[0]
        say(f"not pruned: {family.kind} {family.name} ({family.size} groups): {result.reason}")
    if not good:
        raise InvalidInput(
            f"no family can be pruned: {refused[0].families[0].kind} {refused[0].families[0].name}: {refused[0].reason}"
        )
    rest = [Checked((family,), float("nan")) for family in every if family not in wanted]
    return Found(coupling, good, (*refused, *rest), frozen, _tokens(example))


def _tokens(example: Any) -> int:
    """How many tokens a sample has, where samples are rows of whole numbers."""
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(example) if isinstance(leaf, torch.Tensor)]
    rows = [leaf for leaf in leaves if leaf.ndim == 2 and not leaf.is_floating_point()]
    return int(rows[0].shape[1]) if rows else 0


def _given(inputs: Any) -> Any:
    """Inputs as a network takes them."""
    return inputs.value if isinstance(inputs, Parts) else inputs


def _device(coupling: Coupling) -> torch.device:
    return next(coupling.program.parameters()).device
