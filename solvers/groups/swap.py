"""Exchange descent over groups: every pair of a kept and a dropped group, by the exact change of the refitted loss."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_solver import GroupSolver
from prunebench.core.solver import Incumbent, Stop, register
from prunebench.kernels.groups.descent import DescentEnd, descend
from prunebench.kernels.groups.path import group_path

PERTURBED_SHARE = 0.25
"""Share of the exchangeable groups that a restart exchanges at random: enough to leave a local optimum's basin."""


@register
@dataclass(frozen=True, kw_only=True)
class GroupSwap(GroupSolver):
    """Exchange one kept and one dropped group while that lowers the refitted loss, from greedy and other starts.

    Proves no bound; the answer is 1-swap optimal if `details["locally_optimal"]` says so: every pair was valued
    exactly and none lowers f by more than 1e-9 of it. Starts are the greedy removal, the start mask if it is another,
    then perturbations of the best mask so far.
    """

    name = "group-swap"
    stochastic = True
    reference = "all pairs of the exchange of OSSCAR (Meng et al., ICML 2024)"

    restarts: int = 2
    """Descents from perturbations of the best mask, after those from greedy removal and from the start mask."""
    improvement: Literal["first", "best"] = "first"
    """first: the first kept group, by cost of dropping it, with a gainful partner; best: the best of all pairs."""

    def refuses(self, block: object) -> str:
        """Fewer than no restarts, or an unknown improvement."""
        if self.restarts < 0:
            return f"restarts is {self.restarts}; choose at least 0"
        if self.improvement not in ("first", "best"):
            return f"improvement is {self.improvement!r}; choose first or best"
        return ""

    def search_groups(self, block: GroupBlock, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Descents from every start."""
        path = group_path(block.form)
        greedy = np.zeros(block.p, dtype=np.bool_)
        greedy[path.order[block.p - block.keep :]] = True
        best.offer(greedy, "greedy")
        starts = [greedy]
        if block.start_mask is not None and not np.array_equal(block.start_mask, greedy):
            starts.append(block.start_mask)
        ends: list[DescentEnd] = []
        spent = 0.0
        stop: Stop | None = None
        for number in range(len(starts) + self.restarts):
            mask = starts[number] if number < len(starts) else _perturbed(best.mask, rng)
            end = descend(block.form, mask, self.improvement, best.stop_after(spent))
            spent += end.evaluations
            best.offer(end.mask, "descent")
            ends.append(end)
            stop = end.stopped or best.stop(spent)
            if stop:
                break
        best.details = {
            "descents": len(ends),
            "moves": sum(end.moves for end in ends),
            "exchanges_valued": spent,
            "locally_optimal": any(np.array_equal(end.mask, best.mask) and end.locally_optimal for end in ends),
            "curve": path.values,
        }
        return stop or Stop.finished(f"descents finished: {len(ends)}")


def _perturbed(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    """`mask` with a share of its groups exchanged at random."""
    kept, dropped = np.flatnonzero(mask), np.flatnonzero(~mask)
    count = max(1, round(PERTURBED_SHARE * min(kept.size, dropped.size)))
    out = mask.copy()
    out[rng.choice(kept, count, replace=False)] = False
    out[rng.choice(dropped, count, replace=False)] = True
    return out
