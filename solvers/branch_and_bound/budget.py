"""Branch and bound in mode select where budgets say what may be kept.

The relaxation is convex everywhere, as no count confines the masks, and each node's bound is its linearisation
minimised over the fractional knapsack (prunebench.kernels.relaxations.budget_relaxation). Dives go depth first; between
them the open node with the smallest bound is next, so that the bound rises from the first dive on.
"""

import heapq
from typing import Any

import numpy as np

from prunebench.core.cost import Cost
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import PROOF_TOLERANCE
from prunebench.core.solver import Incumbent, Stop
from prunebench.kernels.relaxations.budget_relaxation import FREE, BudgetRoot, root_relaxation
from prunebench.kernels.relaxations.certificate import BUDGET_SHIFT, certificate
from prunebench.kernels.relaxations.programs import SelectProgram
from prunebench.solvers.branch_and_bound.budget_tree import BudgetNodes, dive, pruned_mask, workspace
from prunebench.solvers.branch_and_bound.without_root import fits, settle_for_less

WORK_OF_A_DIVE = 2e7
"""Multiply-adds of one dive, some hundredths of a second: how long Ctrl-C and limits may wait."""
MARGIN = 0.1
"""Share of the tolerance of "optimal" by which a mask must be better to be searched for."""
POOL_BYTES = 256 * 2**20
"""Memory for open nodes, at some 10 bytes a weight each; beyond it every dive ends before the next begins."""


class BudgetRun:
    """One solve: the incumbent by descent, the root relaxation, and the tree."""

    def __init__(self, best: Incumbent, budget: Cost) -> None:
        from prunebench.kernels.local_search.descent import SwapDescent

        self.best, self.block, self.budget = best, best.block, budget
        self.descent = SwapDescent(self.block)
        self.nodes = 0
        self.certificate: dict[str, Any] = {}

    def tell(self) -> None:
        """Write counters and the certificate into the answer."""
        best = self.best
        # the objective is rounded: the mask's exact value may be a few units in the last place below it
        own = mask_bound(self.block, best.mask)
        if np.isfinite(own):
            best.lower_bound = min(best.lower_bound, own)
        best.details["nodes"] = self.nodes
        if self.certificate:
            best.details["certificate"] = certificate(bound=best.lower_bound, nodes=self.nodes, **self.certificate)

    def search(self) -> Stop:
        """Run until the proof is complete or the budget is used up."""
        block, best = self.block, self.best
        starts = [best.mask, block.top_mask(block.form.diagonal() * block.dense_weights**2)]
        for start in starts:
            best.offer(self.descent.run(start, best).mask, "descent")
        best.bound(block.form.lower_bound())
        best.timings["descent"] = best.seconds
        if not fits(best):
            stop, self.certificate = settle_for_less(best, None)
            return stop
        program = SelectProgram.of(block, best.objective).widened(block)
        root = root_relaxation(program, self.budget, program.inner(best.objective), best.stop)
        best.bound(program.outer(root.bound))
        self.certificate = {
            "formulation": BUDGET_SHIFT, **root.proof(program.scale),
            "root_bound": min(program.outer(root.bound), best.objective),
            "tolerance": 2.0 * root.program.rounding / program.scale,
        }  # fmt: skip
        best.timings["root"] = best.seconds - best.timings["descent"]
        ended = self._through(program, root)
        best.timings["tree"] = best.seconds - best.timings["descent"] - best.timings["root"]
        return ended or Stop.finished("the search is complete, but rounding leaves a gap")

    def _through(self, program: SelectProgram, root: BudgetRoot) -> Stop | None:
        """Search the tree. -> why it ended early, or None"""
        best, budget = self.best, self.budget
        p, budgets = root.point.size, budget.limits.size
        work = workspace(p, budget.costs, budget.safe, budget.unsafe)
        upper = program.inner(best.objective)
        work.best[0] = upper
        margin = max(MARGIN * PROOF_TOLERANCE * abs(best.objective) * program.scale, 2.0 * root.program.rounding)
        limit = int(max(20, min(WORK_OF_A_DIVE / p**2, best.budget.evaluations)))
        stack = BudgetNodes.of(p + 2, p, budgets)
        free = np.full((1, p), FREE, np.int8)
        first = BudgetNodes(free, root.point[None].copy(), root.prices[None].copy(), np.array([root.bound]))
        heap: list[tuple[float, int, BudgetNodes]] = [(root.bound, 0, first)]
        count, stop = 0, best.stop(0)
        while heap and not stop:
            bound, _, node = heapq.heappop(heap)
            if bound < work.best[0] - margin:
                stack.load(node)
                work.depth[0] = 1
                self.nodes += int(dive(root.program, stack, work, margin, limit))
                while int(work.depth[0]) and len(heap) * 10 * p > POOL_BYTES and not best.stop(self.nodes):
                    self.nodes += int(dive(root.program, stack, work, margin, limit))
                for row in range(int(work.depth[0])):
                    count += 1
                    heapq.heappush(heap, (float(stack.bound[row]), count, stack.row(row)))
                self._improve(program, work)
            lowest = heap[0][0] if heap else np.inf
            best.bound(program.outer(min(lowest, work.best[0] - margin, work.best[1])))
            stop = best.stop(self.nodes)
        return stop if heap else None

    def _improve(self, program: SelectProgram, work: Any) -> None:
        """Offer a better mask of a dive, and what descent makes of it."""
        best = self.best
        if work.best[0] < program.inner(best.objective):
            mask = pruned_mask(work)
            if self.budget.feasible(mask):
                best.offer(mask, "tree")
                best.offer(self.descent.run(mask, best).mask, "descent")
        work.best[0] = min(work.best[0], program.inner(best.objective))
