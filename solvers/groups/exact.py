"""Exact choice of groups: best-first branch and bound whose every bound is certified, with a proof if asked for.

The relaxation, a quadratic function of masks below the refitted loss that is bounded by a semidefinite programme, is
explained in `prunebench.kernels.groups.relaxation`; what a proof holds in `prunebench.core.group_proof`.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.group_block import GroupBlock
from prunebench.core.group_proof import GroupProofWriter, GroupRelaxation
from prunebench.core.group_solver import GroupSolver, group_block
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.core.solver import Incumbent, Stop, register
from prunebench.kernels.groups.descent import descend
from prunebench.kernels.groups.path import group_path
from prunebench.kernels.groups.tree import Tree
from prunebench.proofs.groups import record_bound

EXCLUDED = 0.9
"""Share of the tolerance of "optimal" within which a node is excluded; the rest is for rounding."""


@register
@dataclass(frozen=True, kw_only=True)
class GroupExact(GroupSolver):
    """Branch and bound over groups, from the mask of an exchange descent; proves the optimum, or a bound if stopped.

    Every bound is derived by the code that checks proofs (`prunebench.proofs.groups`) from the numbers that the search
    leaves, rounding included. A node costs some ten Cholesky factorisations of its free inputs. Layers of ResNet20
    with 16 groups take about two CPU seconds, with 32 ten or more; with 64 a time limit leaves a gap.
    """

    name = "group-exact"
    exact = True
    reference = "own; lifting of Poljak, Rendl, Wolkowicz (1995), shift of Billionnet, Elloumi, Plateau (2009)"

    proof: bool = False
    """Leave a proof in the solution, from which 'prunebench verify' derives the bound again."""

    def settle(self, best: Incumbent) -> Stop:
        """The bound of the only feasible mask."""
        block = group_block(best.block)
        best.bound(_certified(block, best.mask, ~best.mask, None))
        return Stop.finished("there is one feasible mask")

    def search_groups(self, block: GroupBlock, best: Incumbent, rng: np.random.Generator) -> Stop:
        """An exchange descent, then the tree."""
        _begin(block, best)
        writer = GroupProofWriter(block.hash) if self.proof else GroupProofWriter(block.hash, most=0)

        def certify(kept: BoolArray, dropped: BoolArray, relaxation: GroupRelaxation | None) -> float:
            return _certified(block, kept, dropped, relaxation)

        def offer(mask: BoolArray) -> float:
            value = block.form.value(mask)
            if value < best.objective:
                best.offer(descend(block.form, mask, "first", best.stop).mask, "tree")
            return best.objective

        tree = Tree(block, certify, offer, EXCLUDED * PROOF_TOLERANCE, writer, best.mask)
        try:
            stopped = tree.search(best.objective, best.stop, best.bound)
        finally:
            best.bound(tree.bound)
            best.details = {"nodes": tree.nodes, "waiting": len(tree.waiting), "root_bound": tree.root_bound}
            best.proof = writer.proof(tree.needed) if self.proof else None
        if stopped:
            return stopped
        return Stop.finished(f"every node is excluded, {tree.nodes} in all")


def _begin(block: GroupBlock, best: Incumbent) -> None:
    """Offer the greedy removal and the end of the exchange descent from it."""
    path = group_path(block.form, best.stop)
    greedy = np.zeros(block.p, dtype=np.bool_)
    greedy[path.order[block.p - block.keep :]] = True
    best.offer(greedy, "greedy")
    best.offer(descend(block.form, best.mask, "first", best.stop).mask, "descent")


def _certified(block: GroupBlock, kept: BoolArray, dropped: BoolArray, relaxation: GroupRelaxation | None) -> float:
    return record_bound(block, kept, dropped, relaxation)
