"""Exact solution by HiGHS, of linear formulations with tangents for the curvature, as HiGHS takes no MIQP.

In mode select, variables that branch and bound's root relaxation can fix, by reduced costs or by probing, are
fixed before HiGHS sees a model (option `probing`). HiGHS then searches for a mask better than the incumbent
below tangents chosen so that it finds none: for the whole rest if some hundred tangents suffice, otherwise for
each part of a tree that is split outside HiGHS (prunebench.solvers.highs.parts). In mode refit HiGHS does this
for the whole program if some hundred tangents suffice. The other formulations are one model of the whole, and
tangents are added between runs rather than in one tree: HiGHS 1.15 names a callback for lazy constraints, but
its input has no rows to pass.

Huangfu, Hall: Parallelizing the dual revised simplex method, Math. Programming Computation 10
(2018), for HiGHS; the formulations and their papers are in prunebench.solvers.highs.formulations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.cost import Cost
from prunebench.core.errors import Refusal, RefusalKind
from prunebench.core.keeping import Count, Quota
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.masks import top_mask
from prunebench.core.optimality import PROOF_TOLERANCE, is_proved
from prunebench.core.proof import Proof
from prunebench.core.solver import Incumbent, Solver, Stop, register
from prunebench.core.stop import StopKind
from prunebench.kernels.relaxations.certificate import certificate, settle
from prunebench.kernels.relaxations.programs import RefitProgram, SelectProgram
from prunebench.kernels.relaxations.shift import certified_shift, plane_shift
from prunebench.kernels.relaxations.split import best_split, certified_split
from prunebench.solvers.highs.model import TOLERANCES, Rows, stopped

if TYPE_CHECKING:
    from prunebench.solvers.highs.model import Outcome
    from prunebench.solvers.highs.parts import Exclusion, Front
    from prunebench.solvers.highs.probing import Reduced

MAX_SIZE = 256
"""Most weights in a block; branch-and-bound proves larger ones."""
PAIRS_SIZE = 24
"""Most free variables left by probing for which products of pairs are written out."""
LP_ROUNDS = 25
"""Most rounds of cuts on the linear relaxation before integrality is imposed."""
MOST_APART = 20
"""Most masks excluded from one model, each for one more run of HiGHS: the best few, normally only the best."""
MOST_KICKS = 2000
"""Most kicks of the iterated descent for the first incumbent."""
NO_BOUND = "no bound: the curvature is not positive definite in floating point; raise the ridge"
"""The stop text of a search without any relaxation."""
ROUNDING = "rounding, and HiGHS' tolerances, leave this gap"
"""The stop text of a search that ended without a proof."""
PROBED = "probing"
"""The formulation's name if fixing variables and splitting left nothing for HiGHS."""
TANGENTS = "tangents"
"""The default formulation, in both modes."""
FORMULATIONS = {
    "select": (TANGENTS, "pairs", "mccormick", "residuals", "shifted-residuals"),
    "refit": (TANGENTS, "perspective", "mask-cuts"),
}
"""Formulations by mode, the default first."""


@register
@dataclass(frozen=True, kw_only=True)
class HiGHS(Solver):
    """HiGHS proves blocks of up to some 64 weights; beyond that 'branch-and-bound' proves far more.

    Kept because HiGHS is an independent, widely trusted solver, here behind the same certificate
    (`probing=False` leaves the whole program to it). With `tangents` the details say how many models
    HiGHS proved (`parts`) and how often a part was split before (`splits`). Bounds are lowered by the effect
    of HiGHS' tolerances (rows, integers, reduced costs) and of rounding in the block's and the model's arrays;
    if that leaves more than `optimal` allows, the answer is feasible. What HiGHS itself decides, such as that a
    model has no solution, is not checked; a proof (`proof`) marks it as HiGHS' word. The budget's evaluations
    are nodes of HiGHS.
    """

    name = "highs"
    exact = True
    takes = frozenset({Count, Quota, Cost})
    requires = ("highspy", "numba")
    install = "pip install highspy numba"
    max_size = MAX_SIZE
    miniature_size = 24
    logs = True
    reference = "Huangfu, Hall 2018; Adams, Sherali 1986; Günlük, Linderoth 2010"

    formulation: Literal[
        "auto", "tangents", "pairs", "mccormick", "residuals", "shifted-residuals", "perspective", "mask-cuts"
    ] = "auto"
    """select: tangents (default; needs probing, takes no quota), pairs (default otherwise, up to 24 weights),
    residuals (beyond), shifted-residuals (with a budget the only one), mccormick (textbook);
    refit: tangents (default where some hundred do; takes no quota), perspective (otherwise), mask-cuts."""

    probing: bool = True
    """Mode select without a quota: fix variables by the branch and bound's relaxation before HiGHS sees a model."""

    threads: int = 1
    """Threads HiGHS may use."""

    gap: float = 1e-9
    """Stop at this relative gap, beside the budget's."""

    proof: bool = False
    """Record what probing and splitting fixed, so that it can be checked without a search, up to 1 GiB. What HiGHS
    decided is marked there as its word."""

    def warm_up(self, block: BlockProblem) -> None:
        """Compile what only a split part needs; a miniature is solved without splitting."""
        from prunebench.solvers.highs.parts import warm_up

        if block.mode == "select" and block.budget is None:
            warm_up()

    def refuses(self, block: BlockProblem) -> str | Refusal:
        """Too many weights, or a formulation for the other mode."""
        if self.threads < 1:
            return f"threads is {self.threads}; choose at least 1"
        if block.p > MAX_SIZE:
            return f"it handles at most {MAX_SIZE} weights; use solver 'branch-and-bound', or smaller blocks"
        if self.formulation != "auto" and self.formulation not in FORMULATIONS[block.mode]:
            allowed = ", ".join(FORMULATIONS[block.mode])
            return f"formulation {self.formulation!r} is not for mode {block.mode}; choose auto, {allowed}"
        if block.budget is not None:
            return self._refused_budget(block)
        if self.formulation == TANGENTS and not block.keeping.one_count:
            return Refusal("formulation 'tangents' takes no quota; choose auto", RefusalKind.QUOTA)
        if self.formulation == TANGENTS and block.mode == "select" and not self.probing:
            return "formulation 'tangents' needs probing in mode select; choose auto, pairs or residuals"
        return ""

    def _refused_budget(self, block: BlockProblem) -> str | Refusal:
        """Mode refit, another formulation than shifted residuals, or a proof file."""
        if block.mode == "refit":
            return Refusal(
                "in mode refit it takes no budget; choose solver 'exhaustive' (up to 22 weights) or 'swap'",
                RefusalKind.BUDGET,
            )
        if self.formulation not in ("auto", "shifted-residuals"):
            return Refusal(
                f"formulation {self.formulation!r} takes no budget; choose auto or shifted-residuals",
                RefusalKind.BUDGET,
            )
        if self.proof:
            return Refusal(
                "a proof file says how many weights are kept, which a budget leaves open; leave the proof out",
                RefusalKind.BUDGET,
            )
        return ""

    def settle(self, best: Incumbent) -> Stop:
        """The only mask, with its bound."""
        return settle(best)

    def search(self, best: Incumbent, rng: np.random.Generator) -> Stop:
        """Swap descent and kicks for the incumbent, then rounds of branch and cut with tangents at what it finds."""
        from prunebench.solvers.highs.within_budget import BudgetRun

        budget = best.block.budget
        run = _Run(self, best) if budget is None else BudgetRun(self.threads, best, budget)
        try:
            stop = run.search()
        finally:
            run.tell()
        return replace(stop, text="proved optimal") if is_proved(best.objective, best.lower_bound) else stop


class _Run:
    """One solve: the rounds between incumbent and bound."""

    def __init__(self, options: HiGHS, best: Incumbent) -> None:
        from prunebench.solvers.highs.proof import Trail

        self.options, self.block, self.best = options, best.block, best
        self.tolerance = 0.0
        self.nodes, self.rounds = 0, 0
        self.stopped: Stop | None = None
        self.formulation: str = options.formulation
        self.root = -np.inf
        self.left: Reduced | None = None
        self.free = np.arange(self.block.p)
        self.most = np.inf
        self.front: Front | None = None
        self.trail = Trail(self.block if options.proof else None)

    def search(self) -> Stop:
        """Run until the proof is complete or the budget is used up."""
        self._search()
        return self.stopped or Stop.finished(ROUNDING)

    def tell(self) -> None:
        """Write counters and proofs into the answer."""
        best = self.best
        if np.isfinite(best.lower_bound):
            # no proof can exceed the best mask's own value, rounding included
            best.lower_bound = min(best.lower_bound, mask_bound(self.block, best.mask))
        best.details = {
            "nodes": self.nodes, "rounds": self.rounds, "formulation": self.formulation, "free": self.free.size,
        }  # fmt: skip
        if self.front is not None:
            self.nodes = best.details["nodes"] = self.front.nodes
            best.details.update(rounds=self.front.rounds, parts=self.front.models, splits=self.front.splits)
        if np.isfinite(best.lower_bound):
            best.details["certificate"] = certificate(
                f"highs: {self.formulation}",
                root_bound=self.root, bound=best.lower_bound, tolerance=self.tolerance, nodes=self.nodes,
            )  # fmt: skip
        best.proof = self._proof()

    def _proof(self) -> Proof | None:
        """The records of what was fixed and split; only the root relaxation if HiGHS solved the whole."""
        if not self.options.proof or not np.isfinite(self.best.lower_bound):
            return None
        if not self.trail.entered:
            self.trail.enter_whole(self.block, self.best.objective, self.best.stop)
        return self.trail.finished(self.best.lower_bound - PROOF_TOLERANCE * abs(self.best.objective))

    def _search(self) -> None:
        from prunebench.kernels.local_search.descent import swap_descent

        block, best = self.block, self.best
        self._offer(swap_descent(block, best.mask, best).mask)
        self._raise_bound(block.form.lower_bound())
        program, formulation = self._formulated()
        if program is None or formulation is None:
            self.stopped = self.stopped or best.stop(self.nodes)
            if not self.stopped and self.formulation not in (PROBED, TANGENTS):
                self.stopped = Stop(StopKind.FAILED, NO_BOUND)
            return
        # the tolerance already covers the rounding of probing
        self.tolerance += (2.0 * formulation.slack + 2.0 * program.rounding) / program.scale
        self.tolerance += 1e-9 * min(abs(self.best.objective), abs(program.inner(self.best.objective)) / program.scale)
        self._rounds(program, formulation)

    def _rounds(self, program: SelectProgram | RefitProgram, formulation: Any) -> None:
        """Solve the model repeatedly, adding tangents at every mask found, until nothing is left to prove or add."""
        model, best = formulation.model, self.best
        seen = self._linearised(formulation) if formulation.curved else set()
        # masks excluded from the model, with a lower bound on each
        apart: dict[bytes, float] = {}

        def watch(dual: float) -> None:
            if np.isfinite(dual):
                others = program.outer(dual + formulation.offset - formulation.slack)
                self._raise_bound(min([others, *apart.values()]))

        self.stopped = best.stop(self.nodes)
        while not self.stopped:
            self.rounds += 1
            start, stop = formulation.point_of(self._start()), best.stop_after(self.nodes)
            outcome = model.solve(best.wall_remaining, start, stop, watch)
            self.nodes += outcome.nodes
            if outcome.infeasible and (self.left is not None or apart):
                # probing may exclude the incumbent, and the model's columns need only hold better solutions
                self._raise_bound(self.most if self.left is not None else min(apart.values()))
                return
            watch(outcome.bound)
            if self.rounds == 1:
                self.root = best.lower_bound
            added = self._added(outcome, formulation, seen)
            if best.lower_bound >= best.objective - self.tolerance:
                # only HiGHS' tolerances may be left of the gap: then bound the best mask by itself
                mask = self._mask_of(outcome.points[0]) if outcome.points else best.mask
                proved = is_proved(best.objective, best.lower_bound)
                if proved or self.left is not None or len(apart) == MOST_APART or mask.tobytes() in apart:
                    return
                apart[mask.tobytes()] = mask_bound(self.block, mask)
                model.add(_all_but(mask))
                continue
            self.stopped = best.stop(self.nodes)
            if not self.stopped and not outcome.finished:
                self.stopped = stopped(outcome)
            if not self.stopped and (not formulation.curved or not added):
                self.stopped = TOLERANCES

    def _linearised(self, formulation: Any) -> set[bytes]:
        """Add tangents at the start and at optima of the model without integrality. -> the masks that have one"""
        model = formulation.model
        start = self._start()
        model.add(formulation.violated(formulation.point_of(start), every=True))
        for _ in range(LP_ROUNDS):
            point = model.relax(self.best.remaining)
            rows = formulation.violated(point) if point is not None else None
            if rows is None or not rows.starts or self.best.stop():
                break
            model.add(rows)
        return {start.tobytes()}

    def _added(self, outcome: "Outcome", formulation: Any, seen: set[bytes]) -> int:
        """Offer the masks that HiGHS found, adding a tangent at each without one. -> how many had none"""
        before = len(seen)
        for point in outcome.points:
            mask = self._mask_of(point)
            self._offer(mask if self.left is None else self.left.lift(mask))
            if formulation.curved and mask.tobytes() not in seen:
                seen.add(mask.tobytes())
                formulation.model.add(formulation.violated(formulation.point_of(mask), every=True))
        return len(seen) - before

    def _formulated(self) -> tuple[SelectProgram | RefitProgram | None, Any]:
        from prunebench.kernels.local_search.iterated import Iterated
        from prunebench.solvers.highs import formulations

        block, threads = self.block, self.options.threads
        if block.mode == "select":
            program = SelectProgram.of(block, self.best.objective).widened(block)
            if block.keeping.one_count:
                kicks = min(block.p**2 // 8, MOST_KICKS)
                self._offer(Iterated.of(block).run(self.best.mask, kicks, lambda _: self.best.stop()))
                program = SelectProgram.of(block, self.best.objective).widened(block)
            shift: FloatArray | None = None
            if self.options.probing and block.keeping.one_count:
                program, shift = self._probed(program)
                if self.formulation == PROBED:
                    return program, None
                if self.formulation in ("auto", TANGENTS):
                    self._parts()
                    return program, None
            if self.formulation == "auto":
                self.formulation = "pairs" if self.free.size <= PAIRS_SIZE else "residuals"
            if self.formulation in ("pairs", "mccormick"):
                return program, formulations.Pairs(program, threads, self.formulation == "mccormick", block.quota)
            if self.formulation == "residuals":
                shift = np.zeros(self.free.size)
            elif shift is None:
                shift = plane_shift(
                    program.quadratic,
                    program.linear,
                    program.count,
                    program.inner(self.best.objective),
                    stop=self.best.stop,
                ).diagonal
            return program, formulations.Residuals(
                program,
                certified_shift(program.quadratic, shift),
                program.inner(self.best.objective),
                threads,
                block.quota,
            )
        if self.formulation in ("auto", TANGENTS) and block.keeping.one_count and self._refit_tangents():
            return None, None
        lowest = block.form.lower_bound()
        refit = _widened_refit(
            block, RefitProgram.of(block, self.best.objective, lowest if np.isfinite(lowest) else None)
        )
        self.tolerance = 0.0
        self.formulation = "perspective" if self.formulation in ("auto", TANGENTS) else self.formulation
        upper = refit.inner(self.best.objective)
        split = best_split(refit, upper, stop=self.best.stop)
        delta = None if split is None else certified_split(refit, split.delta)
        if delta is None or self.best.stop():
            return refit, None
        if self.formulation == "mask-cuts":
            return refit, formulations.MaskCuts(refit, delta, threads, block.quota)
        return refit, formulations.Perspective(refit, delta, upper, threads, block.quota)

    def _probed(self, program: SelectProgram) -> tuple[SelectProgram, FloatArray]:
        """The program left by probing and its part of the shift; closes the proof if nothing is left."""
        from prunebench.solvers.highs.probing import probed

        left = probed(program, self.best.objective, self.best.stop)
        self.left, self.free, self.most, self.tolerance = left, left.free, left.cut, left.doubt
        self.trail.follow(left)
        if left.settled:
            if not left.closed:
                # one mask is left that has not been excluded
                self._offer(left.lift(np.full(left.free.size, left.program.count == 0)))
            self.formulation = PROBED
        self._raise_bound(self.most if left.settled else left.bound)
        self.root = self.best.lower_bound
        return left.program, left.shift

    def _parts(self) -> None:
        """Prove what probing left by HiGHS, part by part."""
        from prunebench.solvers.highs.parts import Front

        assert self.left is not None
        self.formulation = TANGENTS

        def offer(mask: BoolArray) -> float:
            self._offer(mask)
            return self.best.objective

        self.front = Front(
            self.left, self.best.objective, offer, self._raise_bound, self.best.stop,
            lambda: self.best.wall_remaining, self.options.threads, self.trail,
        )  # fmt: skip
        self.front.run()
        self.stopped, self.tolerance = self.front.stopped, self.front.tolerance
        if not self.front.models and not self.stopped:
            self.formulation = PROBED

    def _refit_tangents(self) -> bool:
        """Prove a refit program by HiGHS below tangents of a small tree; False if no such tree closes."""
        from prunebench.kernels.trees.dives import RefitTree
        from prunebench.solvers.highs.parts import NODES_OF_THE_WHOLE, prove_refit

        best = self.best
        self.formulation = TANGENTS
        while not (self.stopped or best.stop()):
            # once for every better incumbent
            program = _widened_refit(self.block, RefitProgram.of(self.block, best.objective))
            upper, before = program.inner(best.objective), best.objective
            tree = RefitTree.of(program, upper, best.stop)
            if tree is None:
                return False
            _, root = tree.root_proof()
            self._raise_bound(program.outer(root))
            if best.stop():
                break
            # try a dive's mask first, as no small tree closes with a poor incumbent
            mask = tree.dive(tree.root(), upper, NODES_OF_THE_WHOLE).mask
            if mask is not None:
                self._offer(mask)
                if best.objective < before:
                    continue
            proof = None if best.stop() else prove_refit(tree, upper, self.options.threads)
            if proof is None and best.stop():
                break
            if proof is None:
                return False
            exclusion, tangent_at = proof
            self.tolerance = 2.0 * program.rounding / program.scale
            self.root = best.lower_bound

            watch = self._watcher(program, exclusion)
            seen: set[bytes] = set()
            # HiGHS proves nothing about masks excluded from the model; this bounds them
            apart = np.inf
            while not self.stopped and best.objective == before:
                self.rounds += 1
                outcome = exclusion.model.solve(best.wall_remaining, None, best.stop, watch)
                self.nodes += outcome.nodes
                if outcome.infeasible:
                    self._raise_bound(min(program.outer(exclusion.proven), apart))
                    return True
                if outcome.failed:
                    # seen for columns that nearly cancel: the perspective model takes over
                    return False
                fresh = [mask for mask in exclusion.masks(outcome.points) if mask.tobytes() not in seen]
                for mask in fresh:
                    seen.add(mask.tobytes())
                    self._offer(mask)
                    slopes, constants = tangent_at(mask)
                    exclusion.exclude(slopes[0], constants[0])
                    exclusion.take_out(mask)
                    apart = min(apart, mask_bound(self.block, mask))
                self.stopped = best.stop(self.nodes)
                if not self.stopped and not outcome.finished:
                    self.stopped = stopped(outcome)
                if not self.stopped and not fresh:
                    self.stopped = TOLERANCES
        self.stopped = self.stopped or best.stop(self.nodes)
        return True

    def _watcher(self, program: RefitProgram, exclusion: "Exclusion") -> Callable[[float], None]:
        """A receiver of HiGHS' dual bounds, capped at the statement that nothing is better than the incumbent.

        It stops once a mask was excluded from the model, as later bounds are those of the other masks.
        """
        first = self.rounds

        def watch(dual: float) -> None:
            if np.isfinite(dual) and self.rounds <= first + 1:
                self._raise_bound(program.outer(min(exclusion.bound_of(dual), exclusion.proven)))

        return watch

    def _start(self) -> BoolArray:
        """The incumbent's mask of the free variables, with the model's number of ones."""
        mask: BoolArray = self.best.mask[self.free]
        if self.left is not None:
            wanted = mask.size - self.left.program.count
            mask = _with_count(mask, wanted)
        return mask

    def _mask_of(self, point: FloatArray) -> BoolArray:
        """The mask of the largest binaries, as HiGHS' integers hold only up to a tolerance."""
        if self.left is None:
            return self.block.top_mask(point[: self.block.p])
        return top_mask(point[: self.free.size], self.free.size - self.left.program.count)

    def _raise_bound(self, bound: float) -> None:
        self.best.bound(min(bound, self.most))

    def _offer(self, mask: BoolArray) -> None:
        self.best.offer(mask, "highs")


def _widened_refit(block: BlockProblem, program: RefitProgram) -> RefitProgram:
    """The program with more rounding, for a Hessian formed from a factor."""
    form = block.form
    reach = float(form.entry_sizes @ np.abs(form.centre))
    rounding = program.rounding + form.formed_error * reach**2 * program.scale
    return replace(program, rounding=rounding, relative=program.relative + form.formed_error)


def _all_but(mask: BoolArray) -> Rows:
    """The row that only this mask violates; the mask's binaries are a model's first columns."""
    row, kept = Rows(), np.flatnonzero(mask)
    row.add(kept, np.ones(kept.size), upper=kept.size - 1)
    return row


def _with_count(mask: BoolArray, count: int) -> BoolArray:
    """`mask` with entries set or cleared from the front until `count` are set."""
    changed = mask.copy()
    missing = count - int(mask.sum())
    changed[np.flatnonzero(mask != (missing > 0))[: abs(missing)]] = missing > 0
    return changed
