"""Branch and bound with compiled relaxations: proves optimality, or reports the remaining gap.

Select: convex quadratic relaxations after the best diagonal shift (Billionnet, Elloumi, Plateau,
Discrete Appl. Math. 157, 2009). Refit: perspective relaxations after the best diagonal split
(Pilanci, Wainwright, El Ghaoui, Math. Programming 151, 2015). Both move from a parent's optimum to its
child's by rank-one updates, branch on the variable whose fixing raises the bound most to second order,
and fix others by reduced costs. A quota in mode select becomes an exact penalty: any mask that violates
it costs more than the incumbent, by the bound for the count alone. Where few weights are kept, mode refit evaluates
all masks once the tree has taken as long.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import is_proved
from prunebench.core.proof import ProofWriter
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind, never
from prunebench.kernels.relaxations.beam import Beams, Found
from prunebench.kernels.relaxations.certificate import certificate, settle
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.solvers.branch_and_bound.few import NODE_WORK, Few, affordable, work
from prunebench.solvers.branch_and_bound.without_root import KICKS_A_WEIGHT, fits, settle_for_less

if TYPE_CHECKING:
    from prunebench.kernels.local_search.iterated import Iterated
    from prunebench.kernels.trees.dives import RefitTree, SelectTree

MAX_SIZE = 1024
"""Most weights in a block: relaxations are dense, p² numbers each and O(p³) at the root."""
WORK_OF_A_DIVE = 4e7
"""Multiply-adds of one compiled dive, some hundredths of a second: how long Ctrl-C and limits may wait."""
SEARCH_SHARE = 0.03
"""Work of the search for the first incumbent in mode refit, as a share of what solver swap does: 30 ms at most."""
FEW_MASKS = 1_000_000
"""Up to this many masks a descent is enough: the tree is over at once."""
ENUMERATE = Stop.finished("the tree took as long as evaluating all masks does")
"""Ends the search of the tree in favour of evaluating all masks."""
BEAM_WIDTHS = (64, 8)
"""Widths of the beams that look for a better incumbent, the wider in masks a weight: some .05 s at p = 128."""
PENALTY = 5.0
"""Weight of a group's penalty, in units of the gap without it; half the gap would suffice."""
LEAST_PENALTY = 1e-3
"""Added to that weight, since a gap of zero still needs a penalty; in the scaled program's units, where the
incumbent is about 1000 from the constant."""


@register
@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Solver):
    """Proves optimality in both modes; anytime, with a bound beside every incumbent.

    What it can prove depends more on how the weights were drawn, on keep and on n than on p: most
    blocks of p = 128, many of p = 256. In mode select a limit too short for the root relaxation, which takes 2 s at
    p = 512 and 13 s at p = 1024, gives the bound of the Lagrangian dual and the mask of an iterated descent; the stop
    reason says so. The budget's evaluations are nodes of the tree. In mode refit the
    details also say how many nodes had a tree of their own (`splits`), and how many masks were evaluated where all
    were (`enumerated`).
    """

    name = "branch-and-bound"
    exact = True
    takes = frozenset({Count, Quota, Cost})
    requires = ("numba",)
    install = "pip install numba"
    max_size = MAX_SIZE
    miniature_size = 24
    reference = "Billionnet, Elloumi, Plateau 2009; Pilanci, Wainwright, El Ghaoui 2015"

    threads: int = 1
    """Dives that run at once (with a budget, one); with more the order of the search depends on the machine."""

    proof: bool = False
    """Record what the bound can be derived from again without a search, up to 1 GiB."""

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """More weights than its dense relaxations can hold, a quota or budget in mode refit, or too few threads."""
        if self.threads < 1:
            return f"threads is {self.threads}; choose at least 1"
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'swap' with --bound, or smaller blocks"
        if block.budget is not None:
            return _refused_budget(block, self.proof)
        if not block.keeping.one_count and block.mode == "refit":
            return Refusal(
                "in mode refit it takes no quota; choose solver 'highs' (a few dozen weights), 'exhaustive' or 'swap'",
                RefusalKind.QUOTA,
            )
        return ""

    def settle(self, best: Incumbent) -> Stop:
        """The only mask, with its bound."""
        return settle(best)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Swap descent for the incumbent, the root relaxation, then the tree."""
        from prunebench.solvers.branch_and_bound.budget import BudgetRun

        budget = best.block.budget
        run = _Run(best, rng, self.threads, self.proof) if budget is None else BudgetRun(best, budget)
        try:
            stop = run.search()
        finally:
            run.tell()
        if is_proved(best.objective, best.lower_bound):
            return replace(stop, text="proved optimal")
        return stop


def _refused_budget(block: BlockProblem, proof: bool) -> str | Refusal:
    """Why a block with a budget is not accepted: mode refit, or a proof file."""
    if block.mode == "refit":
        return Refusal(
            "in mode refit it takes no budget; choose solver 'exhaustive' (up to 22 weights) or 'swap'",
            RefusalKind.BUDGET,
        )
    if proof:
        return Refusal(
            "a proof file says how many weights are kept, which a budget leaves open; leave the proof out, and "
            "'prunebench verify' derives the root bound again",
            RefusalKind.BUDGET,
        )
    return ""


def _can_enumerate(block: BlockProblem) -> bool:
    """Whether a block's masks are few enough to be evaluated one and all."""
    counted = block.mode == "refit" and block.budget is None and block.keeping.one_count
    return counted and affordable(block.p, block.keep)


class _Run:
    """One solve: the tree and its reporting."""

    def __init__(self, best: Incumbent, rng: np.random.Generator, threads: int, proof: bool) -> None:
        from prunebench.kernels.local_search.descent import SwapDescent

        self.best, self.block, self.rng, self.threads = best, best.block, rng, threads
        self.writer = ProofWriter(self.block.hash, self.block.mode, self.block.p) if proof else None
        self.descent = SwapDescent(self.block)
        self.nodes, self.splits = 0, 0
        self.certificate: dict[str, Any] = {}
        self.improver: Iterated | None = None

    def tell(self) -> None:
        """Write counters and proofs into the answer."""
        best = self.best
        # the objective is rounded: the mask's exact value may be a few units in the last place below it
        own = mask_bound(self.block, best.mask)
        if np.isfinite(own):
            best.lower_bound = min(best.lower_bound, own)
        best.details["nodes"] = self.nodes
        if self.block.mode == "refit":
            best.details["splits"] = self.splits
        if self.certificate:
            best.details["certificate"] = certificate(bound=best.lower_bound, nodes=self.nodes, **self.certificate)
        best.proof = None if self.writer is None else self.writer.proof()

    def search(self) -> Stop:
        """Run until the proof is complete or the budget is used up."""
        best = self.best
        self._descend()
        best.timings["descent"] = best.seconds
        if self.block.mode == "select" and not fits(best):
            ended, self.certificate = settle_for_less(best, self.improver)
            return ended
        tree = self._select_tree() if self.block.mode == "select" else self._refit_tree()
        if tree is None:
            return Stop(
                StopKind.FAILED, "no bound: the curvature is not positive definite in floating point; raise the ridge"
            )
        best.timings["root"] = best.seconds - best.timings["descent"]
        stop = self._through(tree)
        best.timings["tree"] = best.seconds - best.timings["descent"] - best.timings["root"]
        return stop or Stop.finished(
            "the search is complete, but rounding leaves a gap: the block is ill-conditioned; a larger ridge "
            "leaves a smaller one"
        )  # fmt: skip

    def _descend(self) -> None:
        """Find the incumbent, by a descent and then by kicks or, in mode refit, a search; bound without relaxation."""
        from prunebench.kernels.local_search.descent import search
        from prunebench.kernels.local_search.iterated import Iterated

        block, best = self.block, self.best
        best.offer(self.descent.run(best.mask, best).mask, "descent")
        if block.mode == "select" and block.keeping.one_count and not best.stop():
            self.improver = Iterated.of(block)
            if fits(best):
                best.offer(self.improver.run(best.mask, KICKS_A_WEIGHT * block.p, lambda _: best.stop()), "kicks")
        if block.mode == "refit" and block.mask_count > FEW_MASKS:
            for end in search(block, best.mask, best, self.rng, share=SEARCH_SHARE):
                best.offer(end.mask, "search")
        best.bound(block.form.lower_bound())

    def _select_tree(self) -> "SelectTree":
        """The tree with the best shift; with a quota, its program includes the groups' penalties."""
        from prunebench.kernels.trees.dives import SelectTree

        block, best = self.block, self.best
        program = SelectProgram.of(block, best.objective)
        upper = program.inner(best.objective)
        tree = SelectTree(program, upper, best.stop)
        point, price, root = tree.root_proof()
        formulation = "select: diagonal shift"
        if not block.keeping.one_count:
            best.bound(program.outer(root))
            # a mask that violates the quota costs at least root + 2·weight, which exceeds the incumbent
            weight = PENALTY * max(upper - root, 0.0) + LEAST_PENALTY
            program = program.within(block.keeping, weight)
            if self.writer is not None:
                self.writer.penalty = weight / program.scale
            tree = SelectTree(program, upper, best.stop)
            point, price, root = tree.root_proof()
            formulation = "select: diagonal shift with group penalties"
        shift = tree.shift / program.scale
        self._rooted(tree, root, formulation=formulation, shift=shift, point=point, price=price / program.scale)
        return tree

    def _refit_tree(self) -> "RefitTree | None":
        """The tree with the best split; None if the curvature allows none."""
        from prunebench.kernels.trees.dives import RefitTree

        best = self.best
        program = RefitProgram.of(self.block, best.objective)
        tree = RefitTree.of(program, program.inner(best.objective), best.stop)
        if tree is not None:
            point, root = tree.root_proof()
            split = tree.delta / program.scale
            self._rooted(tree, root, formulation="refit: diagonal split", split=split, point=point)
        return tree

    def _rooted(self, tree: "SelectTree | RefitTree", root: float, **proof: Any) -> None:
        """Report the root relaxation's bound, and keep the data from which it is derived."""
        program, best = tree.program, self.best
        best.bound(program.outer(root))
        tolerance = (tree.margin + tree.slack + program.rounding) / program.scale
        self.certificate = {**proof, "root_bound": min(program.outer(root), best.objective), "tolerance": tolerance}

    def _through(self, tree: "SelectTree | RefitTree") -> Stop | None:
        """Search the tree. -> why it ended early, or None"""
        from prunebench.kernels.trees.dives import SelectTree
        from prunebench.solvers.branch_and_bound.search import Search

        block, best, program = self.block, self.best, tree.program
        upper = program.inner(best.objective)

        def improved(mask: BoolArray, value: float) -> tuple[BoolArray, float]:
            best.offer(mask, "tree")
            if block.mode == "refit":
                best.offer(self.descent.run(mask, best).mask, "descent")
            return best.mask, min(value, program.inner(best.objective))

        def watch(bound: float, nodes: int) -> None:
            best.bound(program.outer(bound))
            self.nodes = nodes

        few = self._few(tree.program) if isinstance(tree.program, RefitProgram) else None
        most = work(block.p, block.keep) / (NODE_WORK * block.p**2) if few else np.inf

        def stop(nodes: float) -> Stop | None:
            return best.stop(nodes) or (ENUMERATE if nodes > most else None)

        limit = int(max(20, min(WORK_OF_A_DIVE / block.p**2, best.budget.evaluations)))
        settled = lambda mask: program.inner(mask_bound(block, mask))  # noqa: E731  # passed on as a value
        search = Search(tree, upper, best.mask, improved, settled, watch, stop, self.threads, writer=self.writer)
        if isinstance(tree, SelectTree) and block.keeping.one_count:
            search.look = lambda: self._look(tree)
        try:
            search.run(limit)
        finally:
            self.splits = search.splits
        self.nodes = search.nodes
        best.bound(program.outer(search.bound))
        if few is None or search.stopped is not ENUMERATE:
            return search.stopped
        # the last dive may have finished the tree
        return None if is_proved(best.objective, best.lower_bound) else self._enumerate(few)

    def _look(self, tree: "SelectTree") -> tuple[BoolArray, float]:
        """Beams over the root's shift, whose best masks are often far below what dives find. -> the best mask, value"""
        best, beams = self.best, Beams(tree.program, tree.shift, (BEAM_WIDTHS[0], BEAM_WIDTHS[1] * self.block.p))
        # the budget's evaluations are nodes, not what beams decide
        while isinstance(found := beams.following(lambda _: best.stop(self.nodes)), Found):
            best.offer(~found.ones[0], "beam")
        return best.mask, tree.program.inner(best.objective)

    def _few(self, program: RefitProgram) -> Few | None:
        """The program, if all its masks may be evaluated; a proof file has no records of that."""
        block, best = self.block, self.best
        if self.writer is not None or best.budget.evaluations < np.inf or not _can_enumerate(block):
            return None
        return Few.of(program, best.objective * program.scale)

    def _enumerate(self, few: Few) -> Stop | None:
        """Evaluate all masks, as the tree has taken as long as that would. -> why it ended early, or None"""
        block, best, program = self.block, self.best, few.program
        with best.building():
            _compile()
        known = -program.inner(best.objective)
        found = few.best(known, best.stop)
        if found.mask is not None:
            best.offer(found.mask, "enumeration")
        if found.stopped:
            return found.stopped
        best.details["enumerated"] = block.mask_count
        best.bound(program.outer(-max(found.gain, known) - few.doubt))
        return None


def _compile() -> None:
    """Compile or load the evaluation of all masks, on a program of four weights: few solves need it."""
    small = QuadraticForm(hessian=np.eye(4), ridge=0.1, centre=np.ones(4))
    Few(RefitProgram.of(BlockProblem(small, np.ones(4), 3, "refit"), 1.0), np.eye(4), 0.0).best(np.inf, never)
