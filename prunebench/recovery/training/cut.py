"""A network without some of its groups, as its user's module, and the values that its training starts from.

A smaller network has its own shapes, so that the values of a dense network, or of a step of its training, are cut to
what is kept before they are put into place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.recovery.training.protocol import Begin
from prunebench.recovery.training.starts import initialise_anew, values_at
from prunebench.structure.check import TOLERANCE
from prunebench.structure.found import Found
from prunebench.structure.module import difference, resized
from prunebench.structure.resize import Living, State, grown_state, shrunk_program, shrunk_state, state_of

Kept = Sequence[BoolArray]
"""What is kept of every family, in order: bool (groups,) each."""


class Cut:
    """Cuts groups out of a problem's network.

    Parameters
    ----------
    problem : of the network;  names : its prunable parameters, in order;  found : its groups
    """

    def __init__(self, problem: NetworkProblem, names: Sequence[str], found: Found) -> None:
        self._problem, self.names, self.found = problem, tuple(names), found

    def require_possible(self) -> None:
        """Refuse a network whose own code does not run with smaller tensors, before any work.

        It is tried with half of every family.

        Raises
        ------
        InvalidInput   with the reason
        """
        half = [np.arange(family.size) < max(1, family.size // 2) for family in self.found.families]
        coupling, living = self.found.coupling, self.living(half)
        state = state_of(coupling)
        expected = shrunk_program(coupling, state, living)(coupling.example)
        reason = "its outputs are others"
        smaller = shrunk_state(coupling, state, living)
        try:
            made = resized(self._problem.model(), smaller)
            with torch.no_grad(), evaluation_mode(made):
                if difference(expected, made(coupling.example)) <= TOLERANCE:
                    return
        except Exception as failure:  # the user's own code
            reason = (str(failure).splitlines() or [type(failure).__name__])[0][:120]
        raise InvalidInput(
            f"problem {self._problem.name}: smaller networks are trained as the module that its user wrote, and its "
            f"code holds sizes of its own ({reason}); train with --recover distil, which trains the graph"
        )

    def living(self, kept: Kept) -> Living:
        """Which indices live."""
        return Living(self.found.coupling, self.found.families, kept)

    def network(self, kept: Kept) -> PrunableNetwork:
        """The smaller network with the dense values."""
        model = self._problem.model()
        return smaller_of(self.names, resized(model, self.state(kept, model)))

    def state(self, kept: Kept, model: nn.Module) -> State:
        """The values of a network of the old shapes, cut to what is kept."""
        coupling, named = self.found.coupling, model.state_dict()
        known = {name: named[name] for name in coupling.parameters if name in named and name not in coupling.tied}
        return shrunk_state(coupling, known, self.living(kept))

    def place(self, network: PrunableNetwork, kept: Kept, begin: Begin) -> None:
        """Put the values that a training starts from into a smaller network, in place.

        Raises
        ------
        InvalidInput   they are not known, or the network cannot be initialised anew
        """
        if begin.kind == "fresh":
            initialise_anew(self._problem, network.model, begin.number)
        elif begin.kind != "pruned":
            _copy(self.state(kept, values_at(self._problem, begin)), network.model)

    def grown(self, kept: Kept, model: nn.Module) -> State:
        """The values of a smaller network at the old shapes, zero where groups are gone."""
        coupling = self.found.coupling
        tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        return grown_state(coupling, state_of(coupling), tensors, self.living(kept))


@dataclass(frozen=True)
class Remaining:
    """What is left of a network whose groups were pruned.

    cut : of the dense network;  kept : of every family;  part : of the dense network's multiply-accumulates
    """

    cut: Cut
    kept: Kept
    part: float


def smaller_of(names: Sequence[str], module: Any) -> PrunableNetwork:
    """A module of smaller shapes, with the dense network's prunable parameters that are still there."""
    left = dict(module.named_parameters())
    return PrunableNetwork(module, [name for name in names if name in left and left[name].numel()])


def _copy(state: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    here = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in state.items():
            here[name].copy_(tensor)
