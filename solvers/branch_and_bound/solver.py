"""Branch and bound with compiled relaxations: a proof of optimality, or the gap that is left.

Select: convex quadratic relaxations after the best diagonal shift (Billionnet, Elloumi, Plateau,
Discrete Appl. Math. 157, 2009). Refit: perspective relaxations after the best diagonal split
(Pilanci, Wainwright, El Ghaoui, Math. Programming 151, 2015). Both walk from a parent's optimum to
its child's by rank-one updates, branch on the variable whose fixing raises the bound most to second
order, and fix others by their reduced costs. A quota in mode select becomes an exact penalty: any
mask that breaks it costs more than the incumbent, by the bound that holds without it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import is_proved
from prunebench.core.proof import ProofWriter
from prunebench.core.solution import Solution, Status
from prunebench.core.solver import Budget, Progress, Recorder, register
from prunebench.kernels.relaxations.certificate import certificate
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram

MAX_SIZE = 1024
WORK_OF_A_DIVE = 4e7
KICKS_A_WEIGHT = 2
PENALTY, LEAST_PENALTY = 5.0, 1e-3
"""The weight of a group's penalty in units of the gap without it, of which half would do, and at least so much."""


@register
@dataclass(frozen=True, kw_only=True)
class BranchAndBound:
    """Proves optimality in both modes; anytime, with a bound beside every incumbent.

    What it can prove depends on how the weights were drawn and on keep and n more than on p: most
    blocks of p = 128, many of p = 256. Budgeted evaluations are nodes of the tree. In mode refit the
    details also say how many nodes had a tree of their own (`splits`).
    """

    name: ClassVar[str] = "branch-and-bound"
    modes: ClassVar[frozenset[str]] = frozenset({"select", "refit"})
    exact: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    quotas: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    install: ClassVar[str] = "pip install numba"
    max_size: ClassVar[int | None] = MAX_SIZE
    miniature_size: ClassVar[int] = 24
    reference: ClassVar[str] = "Billionnet, Elloumi, Plateau 2009; Pilanci, Wainwright, El Ghaoui 2015"

    threads: int = 1
    """Dives that run at once; with more than one the order of the search depends on the machine."""

    proof: bool = False
    """Record what the bound can be derived from again without a search, up to 1 GiB."""

    def refuses(self, block: BlockProblem) -> str:
        """More weights than its dense relaxations can hold, a quota in mode refit, or no thread to run on."""
        if self.threads < 1:
            return f"threads is {self.threads}; choose at least 1"
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'swap' with --bound, or smaller blocks"
        if not block.keeping.one_count and block.mode == "refit":
            return (
                "in mode refit it takes no quota; choose solver 'highs' (a few dozen weights), 'exhaustive' or 'swap'"
            )
        return ""

    def solve(
        self, block: BlockProblem, budget: Budget, rng: np.random.Generator, progress: Progress | None = None
    ) -> Solution:
        """Swap descent for the incumbent, the root relaxation, then the tree."""
        recorder = Recorder(budget, progress)
        mask = block.incumbent
        objective = block.evaluate(mask)
        recorder.record(objective)
        if block.settled:
            bound = min(mask_bound(block, mask), objective)
            recorder.record(lower_bound=bound)
            return Solution.from_mask(
                block, mask, status=Status.OPTIMAL if is_proved(objective, bound) else Status.FEASIBLE,
                stop_reason="only one mask", recorder=recorder, lower_bound=bound, details={"certificate": certificate(
                    "one mask", root_bound=bound, bound=bound, tolerance=0.0, nodes=0)},
            )  # fmt: skip
        if recorder.expired():
            return Solution.from_mask(
                block, mask, status=Status.TIME_LIMIT, stop_reason=recorder.expired(), recorder=recorder
            )
        return _Run(block, recorder, self.threads, self.proof).solve(mask, objective)


class _Run:
    """One solve: the incumbent, the tree, and how the two are reported."""

    def __init__(self, block: BlockProblem, recorder: Recorder, threads: int, proof: bool) -> None:
        from prunebench.kernels.local_search.descent import SwapDescent

        self.block, self.recorder, self.threads = block, recorder, threads
        self.writer = ProofWriter(block.hash, block.mode, block.p) if proof else None
        self.descent = SwapDescent(block)
        self.mask: BoolArray = block.incumbent
        self.objective = np.inf
        self.timings: dict[str, float] = {}

    def solve(self, mask: BoolArray, objective: float) -> Solution:
        """Run to the end of the proof or of the budget, or to Ctrl-C."""
        self.mask, self.objective = mask, objective
        self.bound, self.nodes, self.splits, self.reason = -np.inf, 0, 0, ""
        self.proof: dict[str, Any] = {}
        status = None
        try:
            self._search()
        except KeyboardInterrupt:
            status, self.reason = Status.INTERRUPTED, "interrupted"
        tolerance = self.proof.pop("tolerance", 0.0)
        # the objective is rounded itself: its mask's exact value may be a few units in the last place below it
        own = mask_bound(self.block, self.mask)
        self.bound = min(self.bound, own) if np.isfinite(own) else self.bound
        if status is None:
            proved = is_proved(self.objective, self.bound)
            expired = self.reason.startswith(("time limit", "evaluation limit"))
            status = Status.OPTIMAL if proved else Status.TIME_LIMIT if expired else Status.FEASIBLE
            if proved:
                self.reason = "proved optimal"
            elif not self.reason:
                self.reason = (
                    "the search is complete, but rounding leaves a gap: the block is ill-conditioned; a larger ridge "
                    "leaves a smaller one"
                )
        details: dict[str, Any] = {
            "nodes": self.nodes,
            **({"splits": self.splits} if self.block.mode == "refit" else {}),
        }
        if self.proof:
            details["certificate"] = certificate(bound=self.bound, tolerance=tolerance, nodes=self.nodes, **self.proof)
        return Solution.from_mask(
            self.block, self.mask, status=status, stop_reason=self.reason, recorder=self.recorder,
            lower_bound=self.bound, timings=self.timings, details=details,
            proof=None if self.writer is None else self.writer.proof(),
        )  # fmt: skip

    def _search(self) -> None:
        from prunebench.kernels.trees.dives import RefitTree, SelectTree, kicked_mask
        from prunebench.solvers.branch_and_bound.search import Search

        block, recorder = self.block, self.recorder
        self._offer(self.descent.run(self.mask, recorder).mask)
        select = block.mode == "select"
        if select and block.keeping.one_count and not recorder.expired():
            start = SelectProgram.of(block, self.objective)
            self._offer(kicked_mask(start, self.mask, KICKS_A_WEIGHT * block.p))
        self.bound = min(block.form.lower_bound(), self.objective)
        recorder.record(lower_bound=self.bound)
        self.timings["descent"] = recorder.seconds
        program = SelectProgram.of(block, self.objective) if select else RefitProgram.of(block, self.objective)
        upper = program.inner(self.objective)
        expired = lambda: bool(recorder.expired())  # noqa: E731  # passed on as a value
        tree: SelectTree | RefitTree | None
        if isinstance(program, SelectProgram):
            tree = SelectTree(program, upper, expired)
            point, price, root = tree.root_proof()
            formulation = "select: diagonal shift"
            if not block.keeping.one_count:
                self.bound = max(self.bound, min(program.outer(root), self.objective))
                # a mask that breaks the quota costs root + 2·weight at least: more than the incumbent
                weight = PENALTY * max(upper - root, 0.0) + LEAST_PENALTY
                program = program.within(block.keeping, weight)
                if self.writer is not None:
                    self.writer.penalty = weight / program.scale
                tree = SelectTree(program, upper, expired)
                point, price, root = tree.root_proof()
                formulation = "select: diagonal shift with group penalties"
            proof: dict[str, Any] = {
                "formulation": formulation,
                "shift": tree.shift / program.scale, "point": point, "price": price / program.scale,
            }  # fmt: skip
        else:
            tree = RefitTree.of(program, upper, expired)
            if tree is None:
                self.reason = "no bound: the curvature is not positive definite in floating point; raise the ridge"
                return
            point, root = tree.root_proof()
            proof = {"formulation": "refit: diagonal split", "split": tree.delta / program.scale, "point": point}
        self.bound = max(self.bound, min(program.outer(root), self.objective))
        tolerance = (tree.margin + tree.slack + program.rounding) / program.scale
        self.proof = {**proof, "root_bound": min(program.outer(root), self.objective), "tolerance": tolerance}
        recorder.record(lower_bound=self.bound)
        self.timings["root"] = recorder.seconds - self.timings["descent"]

        def improved(mask: BoolArray, value: float) -> tuple[BoolArray, float]:
            self._offer(mask)
            if not select:
                self._offer(self.descent.run(mask, recorder).mask)
            return self.mask, min(value, program.inner(self.objective))

        def stop(value: float, bound: float, nodes: int) -> str:
            self.bound = max(self.bound, min(program.outer(bound), self.objective))
            self.nodes = nodes
            recorder.record(lower_bound=self.bound)
            return recorder.expired(nodes)

        limit = int(max(20, min(WORK_OF_A_DIVE / block.p**2, recorder.budget.evaluations)))
        settle = lambda mask: program.inner(mask_bound(block, mask))  # noqa: E731  # passed on as a value
        search = Search(tree, upper, self.mask, improved, settle, stop, self.threads, writer=self.writer)
        try:
            search.run(limit)
        finally:
            self.splits = search.splits
        self.nodes, self.reason = search.nodes, search.reason
        self.bound = max(self.bound, min(program.outer(search.bound), self.objective))
        recorder.record(lower_bound=self.bound)
        self.timings["tree"] = recorder.seconds - self.timings["descent"] - self.timings["root"]

    def _offer(self, mask: BoolArray) -> None:
        """Take a mask as the incumbent if the block itself says it is better."""
        objective = self.block.evaluate(mask)
        if objective < self.objective:
            self.mask, self.objective = mask, objective
            self.recorder.record(objective)
