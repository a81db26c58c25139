"""Mode select within budgets by HiGHS: one row a budget, and tangents for the shifted curvature.

With x = 1 − m and a shift that makes M = Q + diag(s) semidefinite, f = linear'x + ½‖r‖², r = Rx with R'R = M. HiGHS
gets columns for m, r and s >= tangents of r²; tangents are added at every mask that it finds, until none is new
(Duran, Grossmann: An outer-approximation algorithm for a class of mixed-integer nonlinear programs, Math. Programming
36, 1986). A mask that exceeds a budget by less than HiGHS' tolerance is excluded by name.
"""

from typing import Any

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.cost import Cost
from prunebench.core.mask_bounds import mask_bound
from prunebench.core.optimality import is_proved
from prunebench.core.solver import Incumbent, Stop
from prunebench.kernels.relaxations.budget_relaxation import root_relaxation
from prunebench.kernels.relaxations.certificate import certificate
from prunebench.kernels.relaxations.programs import HALF_ULP, SelectProgram
from prunebench.solvers.highs.formulations import Residuals, summing
from prunebench.solvers.highs.model import TOLERANCES, Model, Rows, stopped

FORMULATION = "shifted-residuals"
"""The formulation's name in details and certificates."""
LP_ROUNDS = 25
"""Most rounds of tangents on the linear relaxation before integrality is imposed."""
ROOM = 1e-9
"""Share of its limit by which a row with fractional costs is widened, so that HiGHS excludes no feasible mask."""
MOST_APART = 20
"""Most masks that are excluded and bounded one by one, each for one more run of HiGHS."""


class BudgetResiduals(Residuals):
    """`Residuals` without a count: the matrix is semidefinite everywhere, and every budget is a row."""

    def __init__(self, program: SelectProgram, budget: Cost, shift: FloatArray, upper: float, threads: int) -> None:
        p = program.linear.size
        matrix = np.array(program.quadratic)
        matrix[np.diag_indices(p)] += shift
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        held = values > 1e-9 * max(float(values[-1]), 1e-300)
        self.rays = (vectors[:, held] * np.sqrt(values[held])).T
        self.whole = self.rays.sum(axis=1)
        self.p, self.rank = p, int(held.sum())
        linear = program.linear - 0.5 * shift
        self.offset = float(linear.sum())
        # a point is no longer than √p, and the eigenvectors reproduce the matrix up to rounding
        lost = (float(np.abs(values[~held]).sum()) + 8.0 * p * HALF_ULP * float(np.linalg.norm(matrix))) * p
        self._lost = lost + summing(program) + 8.0 * p * HALF_ULP * float(np.abs(shift).sum())
        # nothing better than the incumbent has a larger residual, as the linear part is at least its smallest terms
        least = float(np.minimum(linear, 0.0).sum())
        largest = float(np.sqrt(max(2.0 * (upper - least), 0.0))) * 1.001 + 1e-3
        reach = np.minimum(np.abs(self.rays).sum(axis=1), largest)
        # what fits no budget by itself is pruned
        allowed = (budget.costs <= budget.unsafe[:, None]).all(axis=0).astype(np.float64)
        cost = np.concatenate([-linear, np.zeros(self.rank), np.full(self.rank, 0.5)])
        low = np.concatenate([np.zeros(p), -reach, np.zeros(self.rank)])
        high = np.concatenate([allowed, reach, reach**2])
        slopes = np.abs(linear) + largest * np.sqrt((self.rays**2).sum(axis=0))
        # by convexity in its limit a budget's multiplier is at most the range of values, per share of the limit
        spread = abs(least) + abs(self.offset) + 0.5 * float(self.whole @ self.whole)
        self._multipliers = self.rank + float(np.sqrt(self.rank) * largest + slopes.sum())
        self._multipliers += budget.limits.size * spread
        self.model = Model(cost, low, high, p, threads)
        rows = Rows()
        for k, row in enumerate(budget.costs):
            if not (budget.limits[k] > 0.0 and row.any()):
                continue
            whole = budget.allowed[k] == budget.limits[k]
            # whole costs leave no sum between a limit and half more
            most = budget.allowed[k] + 0.5 if whole and (row == np.rint(row)).all() else budget.allowed[k] * (1 + ROOM)
            places = np.flatnonzero(row)
            rows.add(places, row[places] / budget.limits[k], upper=most / budget.limits[k])
        for k in range(self.rank):
            rows.add([*range(p), p + k], [*self.rays[k], 1.0], self.whole[k], self.whole[k])
        self.model.add(rows)

    def point_of(self, mask: BoolArray) -> FloatArray:
        """The mask, its residuals and their squares."""
        m = mask.astype(np.float64)
        r = self.whole - self.rays @ m
        return np.concatenate([m, r, r * r])


class BudgetRun:
    """One solve: rounds of branch and cut with tangents at what they find."""

    def __init__(self, threads: int, best: Incumbent, budget: Cost) -> None:
        self.threads, self.best, self.block, self.budget = threads, best, best.block, budget
        self.nodes, self.rounds, self.root, self.tolerance = 0, 0, -np.inf, 0.0

    def tell(self) -> None:
        """Write counters and the certificate into the answer."""
        best = self.best
        if np.isfinite(best.lower_bound):
            # no proof can exceed the best mask's own value, rounding included
            best.lower_bound = min(best.lower_bound, mask_bound(self.block, best.mask))
        best.details = {
            "nodes": self.nodes, "rounds": self.rounds, "formulation": FORMULATION, "free": self.block.p,
        }  # fmt: skip
        if np.isfinite(best.lower_bound):
            best.details["certificate"] = certificate(
                f"highs: {FORMULATION}",
                root_bound=self.root, bound=best.lower_bound, tolerance=self.tolerance, nodes=self.nodes,
            )  # fmt: skip

    def search(self) -> Stop:
        """Run until the proof is complete or the budget is used up."""
        from prunebench.kernels.local_search.descent import swap_descent

        block, best = self.block, self.best
        best.offer(swap_descent(block, best.mask, best).mask, "descent")
        best.bound(block.form.lower_bound())
        program = SelectProgram.of(block, best.objective).widened(block)
        upper = program.inner(best.objective)
        shift = root_relaxation(program, self.budget, upper, best.stop).shift
        formulation = BudgetResiduals(program, self.budget, shift, upper, self.threads)
        self.tolerance = (2.0 * formulation.slack + 2.0 * program.rounding) / program.scale
        self.tolerance += 1e-9 * min(abs(best.objective), abs(upper) / program.scale)
        self._linearise(formulation)
        return self._rounds(program, formulation)

    def _linearise(self, formulation: BudgetResiduals) -> None:
        """Add tangents at the incumbent and at optima of the model without integrality."""
        model = formulation.model
        model.add(formulation.violated(formulation.point_of(self.best.mask), every=True))
        for _ in range(LP_ROUNDS):
            point = model.relax(self.best.remaining)
            rows = formulation.violated(point) if point is not None else None
            if rows is None or not rows.starts or self.best.stop():
                return
            model.add(rows)

    def _rounds(self, program: SelectProgram, formulation: BudgetResiduals) -> Stop:
        best, model = self.best, formulation.model
        seen = {best.mask.tobytes()}
        # masks excluded from the model, with a lower bound on each
        apart: dict[bytes, float] = {}

        def watch(dual: float) -> None:
            if np.isfinite(dual):
                best.bound(min([program.outer(dual + formulation.offset - formulation.slack), *apart.values()]))

        while not (stop := best.stop(self.nodes)):
            self.rounds += 1
            start = formulation.point_of(best.mask) if best.mask.tobytes() not in apart else None
            outcome = model.solve(best.wall_remaining, start, best.stop_after(self.nodes), watch)
            self.nodes += outcome.nodes
            if outcome.infeasible and apart:
                best.bound(min(apart.values()))
                break
            watch(outcome.bound)
            if self.rounds == 1:
                self.root = best.lower_bound
            added = self._take(outcome, formulation, seen)
            if is_proved(best.objective, best.lower_bound):
                break
            if best.lower_bound >= best.objective - self.tolerance:
                # only HiGHS' tolerances may be left of the gap: then bound the best mask by itself
                if best.mask.tobytes() in apart or len(apart) == MOST_APART:
                    return TOLERANCES
                apart[best.mask.tobytes()] = mask_bound(self.block, best.mask)
                model.add(excluded(best.mask))
            elif not outcome.finished:
                return best.stop(self.nodes) or stopped(outcome)
            elif not added:
                return TOLERANCES
        proved = is_proved(best.objective, best.lower_bound)
        return Stop.finished("proved optimal") if proved else stop or TOLERANCES

    def _take(self, outcome: Any, formulation: BudgetResiduals, seen: set[bytes]) -> int:
        """Offer the masks that HiGHS found, with tangents there; exclude those beyond a budget. -> how many are new"""
        new = 0
        for point in outcome.points:
            mask = np.asarray(point[: self.block.p] > 0.5)
            if mask.tobytes() in seen:
                continue
            seen.add(mask.tobytes())
            new += 1
            if self.budget.feasible(mask):
                self.best.offer(mask, "highs")
                formulation.model.add(formulation.violated(formulation.point_of(mask), every=True))
            else:
                formulation.model.add(excluded(mask))
        return new


def excluded(mask: BoolArray) -> Rows:
    """The row that excludes exactly this mask: at least one weight differs."""
    rows = Rows()
    rows.add(np.arange(mask.size), np.where(mask, -1.0, 1.0), lower=1.0 - float(mask.sum()))
    return rows
