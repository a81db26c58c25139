"""The base class of solvers that choose among groups."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from prunebench.core.group_block import GroupBlock
from prunebench.core.group_form import GroupForm
from prunebench.core.incumbent import Incumbent
from prunebench.core.solver import Solver
from prunebench.core.stop import Stop


@dataclass(frozen=True, kw_only=True)
class GroupSolver(Solver):
    """A solver of group blocks: like `Solver`, with `search_groups` in the place of `search`."""

    modes = frozenset({"refit"})
    forms = frozenset({GroupForm})
    miniature = False

    @final
    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The search over the groups of the block."""
        return self.search_groups(group_block(best.block), best, rng)

    def search_groups(self, block: GroupBlock, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Offer masks over groups, bool (C,), to `best` until the search or the budget ends; why it ended.

        block : the group block, which is `best.block`
        """
        raise NotImplementedError(f"solver {self.name!r} has no method search_groups")


def group_block(block: Any) -> GroupBlock:
    """The block itself, which is a group block.

    A group block has the members of a `BlockProblem` that `Incumbent`, `Solver.solve` and `Solution` use, and is
    handed through them under that type; solvers that choose among groups get it back here.
    """
    if not isinstance(block, GroupBlock):
        raise TypeError(f"{type(block).__name__} is no group block")
    return block
