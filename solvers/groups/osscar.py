"""OSSCAR: groups leave in batches, then several are exchanged at a time.

Meng, Ibrahim, Behdin, Hazimeh, Ponomareva, Mazumder: OSSCAR: One-Shot Structured Pruning in Vision and Language
Models with Combinatorial Optimization, ICML 2024. Written from the paper: batches of the cheapest removals, then a
local search that drops the t cheapest groups and adds the t best, and halves t where that does not lower the loss.
The published code (language models only) is not used; batches and the first t are options here.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.errors import InvalidInput
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_solver import GroupSolver
from prunebench.core.group_state import GroupState
from prunebench.core.solver import Incumbent, Stop, register


@register
@dataclass(frozen=True, kw_only=True)
class Osscar(GroupSolver):
    """Drop the cheapest groups in batches, then exchange t at a time, t halved where that gains nothing.

    Proves nothing; deterministic. Looks at one neighbour a step where group-swap looks at every pair, so an answer of
    `group-swap` started from it is never worse. A batch costs O(p³), an exchange O(t·p²n) for groups of n inputs.
    """

    name = "osscar"
    baseline = True
    reference = "Meng et al.: OSSCAR, ICML 2024"

    batches: int = 10
    """How many batches the groups leave in; within a batch their costs are not updated."""
    exchange: int = 8
    """How many groups the local search exchanges at first."""

    def refuses(self, block: object) -> str:
        """Fewer than one batch, or fewer than no exchange."""
        if self.batches < 1:
            return f"batches is {self.batches}; choose at least 1"
        return f"exchange is {self.exchange}; choose at least 0" if self.exchange < 0 else ""

    def search_groups(self, block: GroupBlock, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Batches of removals, then the local search."""
        state, stop = self._removed(block, best)
        best.offer(state.kept, "removal")
        if stop:
            return stop
        tried, gained = 0, 0
        size = min(self.exchange, block.keep, block.p - block.keep)
        while size >= 1:
            if stop := best.stop(self.batches + tried):
                break
            tried += 1
            other = _exchanged(state, size)
            if other.value < state.value and best.offer(other.kept, "exchange"):
                state, gained = other, gained + 1
            else:
                size //= 2
        best.details = {"exchanges_tried": tried, "exchanges_made": gained}
        return stop or Stop.finished("no exchange of one group gains")

    def _removed(self, block: GroupBlock, best: Incumbent) -> tuple[GroupState, Stop | None]:
        """The state after all batches; once the budget ends, the rest leaves in one."""
        kept: BoolArray = np.ones(block.p, dtype=np.bool_)
        state = GroupState(block.form, kept)
        stop = None
        counts = np.rint(np.linspace(block.p, block.keep, self.batches + 1)).astype(np.int64)
        for number, count in enumerate(counts[1:]):
            stop = best.stop(float(number))
            leaving = int(state.kept.sum()) - (block.keep if stop else int(count))
            _leave(state, leaving)
            if stop:
                break
        return state, stop


def _leave(state: GroupState, count: int) -> None:
    """The `count` groups leave whose single removal costs least now."""
    costs = np.where(state.kept, state.changes(), np.inf)
    state.kept[np.argsort(costs, kind="stable")[:count]] = False
    state.refresh()


def _exchanged(state: GroupState, size: int) -> GroupState:
    """The state with the `size` cheapest groups dropped and then the `size` best ones added."""
    if size > int(state.kept.sum()):
        raise InvalidInput(f"{size} groups cannot be exchanged: {int(state.kept.sum())} are kept")
    other = GroupState(state.form, state.kept)
    _leave(other, size)
    gains = np.where(other.kept, -np.inf, other.changes())
    other.kept[np.argsort(-gains, kind="stable")[:size]] = True
    other.refresh()
    return other
