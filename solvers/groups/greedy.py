"""Backward elimination of groups, ZipLM's rule."""

from dataclasses import dataclass

import numpy as np

from prunebench.core.group_block import GroupBlock
from prunebench.core.group_solver import GroupSolver
from prunebench.core.solver import Incumbent, Stop, register
from prunebench.kernels.groups.path import group_path


@register
@dataclass(frozen=True, kw_only=True)
class GroupGreedy(GroupSolver):
    """Drop one group at a time, the one whose loss is smallest once all others are refitted.

    Proves nothing; deterministic. Inverse and weights are updated exactly after every removal: O(p³) in all. When the
    time is used up, the rest leave in the order of their costs at that moment. `details["curve"]` holds f at every
    count from 0 to C.
    """

    name = "group-greedy"
    baseline = True
    whole_at_limit = True
    reference = "Kurtic, Frantar, Alistarh: ZipLM, NeurIPS 2023"

    def search_groups(self, block: GroupBlock, best: Incumbent, rng: np.random.Generator) -> Stop:
        """The removal path down to nothing; the mask is where it passes the count."""
        stops: list[Stop] = []

        def stop(spent: float) -> Stop | None:
            found = best.stop(spent)
            if found is not None:
                stops.append(found)
            return found

        path = group_path(block.form, stop)
        mask = np.zeros(block.p, dtype=np.bool_)
        mask[path.order[block.p - block.keep :]] = True
        best.offer(mask, "greedy")
        best.details = {"curve": path.values}
        if stops:
            return stops[0].also("the other groups by their costs then")
        return Stop.finished(f"dropped {block.p - block.keep} groups one at a time")
