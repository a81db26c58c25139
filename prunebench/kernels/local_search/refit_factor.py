"""Swap search in mode refit without a p×p matrix: exchanges of many weights, then exact working sets.

With S the support, R the ridge and M = (I + A_S R⁻¹ A_S')⁻¹ (n×n), the residual of the refit is
z = M·right, and one pass over the columns gives the weights, the gradients, the cost
w_i²/(2 P_ii) of dropping i with P_ii = (1 - a_i'M a_i/ρ_i)/ρ_i, and the gain g_j²/(2 (ρ_j + a_j'M a_j))
of adding j. Splicing exchanges the cheapest kept for the most useful pruned weights and accepts only
if the true objective falls (Zhu et al., A polynomial algorithm for best-subset selection, PNAS 2020).
A working set B is treated exactly: minimising f over the kept weights outside B leaves a quadratic
form in B, on which the tableau kernel descends.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.linalg import blas, lapack

from prunebench.core.arrays import (
    BoolArray,
    Factor,
    FloatArray,
    IndexArray,
    by_column,
    columns_of,
    times,
    transposed_times,
)
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.masks import top_mask
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.stop import Stop, StopKind
from prunebench.kernels.local_search import refit_kernel

WORKING_SET = 256
"""Most kept and most pruned weights exchanged at a time."""
COLUMN_CHUNK = 4096
"""Columns of the factor converted to float64 at a time."""
EXCHANGED, EXCHANGED_SETS = 0.25, 8
"""Share of the kept weights considered for exchange, the cheapest, and the least such number in working sets."""
LEAST_SHARE = 1e-6
"""Floor for the share of a weight's own curvature that the other kept weights leave."""
MINIMUM_GAIN = 1e-12
"""A round must lower f by this share of the change that refitting makes from w = 0."""
SOURCE = "swaps"
"""The source of this search's masks, as the incumbent names it."""


@dataclass
class RefitView:
    """The refit on one support: float64 (p,) arrays.

    weights;  gradient : of f there;  drop : cost of removing each kept weight;  gain : decrease of f by adding
    each pruned one. drop and gain serve for ranking only.
    """

    weights: FloatArray
    gradient: FloatArray
    drop: FloatArray
    gain: FloatArray


class DualRefit:
    """Quantities of the refit from the n×n dual system, for a form with a factor and a positive ridge."""

    def __init__(self, form: QuadraticForm) -> None:
        assert form.factor is not None
        self._form = form
        self._factor: Factor = form.factor
        self._energy: FloatArray | None = None
        self._held: tuple[BoolArray, FloatArray, FloatArray] | None = None

    def view(self, mask: BoolArray, fresh: bool) -> RefitView:
        """Weights, gradient, drop and gain on a support. O(np), and O(n²k) if `fresh`.

        If not `fresh`, the ranking uses a_j'M a_j of the last fresh view, which has them for likely exchanges
        only: of the others, a pruned weight gets gain 0 and a kept one a prohibitive cost.
        """
        form = self._form
        lower = _cholesky(self._system(mask))
        inner = transposed_times(self._factor, _solve(lower, self._right(mask)))
        weights = np.where(mask, form.centre - (form.linear + inner) / form.ridge, 0.0)
        gradient = np.where(mask, 0.0, form.linear + inner - form.ridge * form.centre)
        if fresh or self._energy is None:
            self._energy = self._energies(lower, mask, weights, gradient)
        energy = self._energy
        # leverage in the factor's precision serves for ranking; a share of zero would make dropping its weight free
        share = np.maximum(1.0 - energy / form.ridge, LEAST_SHARE)
        drop = 0.5 * weights**2 * form.ridge / share
        return RefitView(weights, gradient, drop, 0.5 * gradient**2 / (form.ridge + energy))

    def reduced(self, fixed: BoolArray, chosen: IndexArray) -> tuple[FloatArray, FloatArray]:
        """The form's matrix and slope at zero on `chosen`, minimised over the weights in `fixed`, all others zero."""
        form = self._form
        lower = _cholesky(self._system(fixed))
        columns = columns_of(self._factor, chosen).astype(np.float64, copy=False)
        half = scipy.linalg.solve_triangular(lower, columns, lower=True, check_finite=False)
        matrix = half.T @ half
        matrix[np.diag_indices_from(matrix)] += form.ridge[chosen]
        residual = _solve(lower, self._right(fixed))
        return matrix, form.linear[chosen] + columns.T @ residual - form.ridge[chosen] * form.centre[chosen]

    def refit(self, mask: BoolArray) -> FloatArray:
        """The refit on a support, as accurate as the form's own. float64 (p,)"""
        return self._form.refit(mask, self._system(mask))

    def _right(self, mask: BoolArray) -> FloatArray:
        """The right-hand side of the dual system. (n,)"""
        self._system(mask)
        assert self._held is not None
        return self._held[2]

    def _system(self, mask: BoolArray) -> FloatArray:
        """I + A_S R⁻¹ A_S' in float64, its upper triangle, updated by the columns that changed since the last call."""
        held, form = self._held, self._form
        size = self._factor.shape[0]
        if held is None or int((held[0] != mask).sum()) * 2 > int(mask.sum()):
            system = np.eye(size, order="F")
            right = -times(self._factor, np.where(mask, form.linear / form.ridge, form.centre))
            self._add(system, np.flatnonzero(mask), 1.0)
        else:
            system, right = held[1], held[2].copy()
            right += self._add(system, np.flatnonzero(mask & ~held[0]), 1.0)
            right += self._add(system, np.flatnonzero(held[0] & ~mask), -1.0)
        self._held = mask.copy(), system, right
        return system

    def _add(self, system: FloatArray, chosen: IndexArray, sign: float) -> FloatArray:
        """Add (or take away) columns in place; returns what that adds to the right-hand side. (n,)"""
        form, change = self._form, np.zeros(self._factor.shape[0])
        for start in range(0, chosen.size, COLUMN_CHUNK):
            part = chosen[start : start + COLUMN_CHUNK]
            columns = columns_of(self._factor, part).astype(np.float64, copy=False)
            ridge = form.ridge[part]
            change += columns @ (sign * (form.centre[part] - form.linear[part] / ridge))
            share, scaled = sign, columns
            if (ridge == ridge[0]).all():
                share /= ridge[0]
            else:
                scaled = columns / np.sqrt(ridge)
            # of the matrix in place: BLAS takes columns in order, and fills one triangle
            if by_column(scaled):
                blas.dsyrk(share, scaled, beta=1.0, c=system, overwrite_c=True)
            else:
                blas.dsyrk(share, scaled.T, beta=1.0, c=system, trans=1, overwrite_c=True)
        return change

    def _energies(self, lower: FloatArray, mask: BoolArray, weights: FloatArray, gradient: FloatArray) -> FloatArray:
        """a_j'M a_j in the factor's precision for likely exchanges, infinity for the rest. float64 (p,)

        Exchanges come from the ends of two rankings, so EXCHANGED of the kept weights are evaluated and as many
        pruned ones (at least two working sets). They are preselected by an estimate: a_j'M a_j as a common share
        of ‖a_j‖², set so that Σ a_j'M a_j/ρ_j over the kept weights has its known value n − tr M.
        """
        ridge = self._form.ridge
        half = _inverted(lower)
        narrow: npt.NDArray[Any] = np.asfortranarray(half, dtype=self._factor.dtype)
        squares = self._form.curvature_diagonal()
        carried = len(half) - float(np.einsum("ij,ij->", half, half))
        share = carried / max(float((squares / ridge)[mask].sum()), np.finfo(np.float64).tiny)
        kept = int(mask.sum())
        count = min(max(round(EXCHANGED * kept), EXCHANGED_SETS * WORKING_SET), kept)
        cost = weights**2 * ridge / np.maximum(1.0 - share * squares / ridge, LEAST_SHARE)
        cheap = top_mask(np.where(mask, -cost, -np.inf), count)
        promise = np.where(mask, -1.0, gradient**2 / (ridge + share * squares))
        useful = top_mask(promise, min(max(count, 2 * WORKING_SET), mask.size - kept))
        chosen = np.flatnonzero(cheap | useful)
        out = np.full(mask.size, np.inf)
        for start in range(0, chosen.size, COLUMN_CHUNK):
            part = chosen[start : start + COLUMN_CHUNK]
            image = _triangular_times(narrow, columns_of(self._factor, part))
            out[part] = np.einsum("ij,ij->j", image, image)
        return out


class PrimalRefit:
    """The same quantities from the k×k system of a form that holds its hessian."""

    def __init__(self, form: QuadraticForm) -> None:
        assert form.hessian is not None
        self._form = form
        self._slope = form.linear - form.product(form.centre)

    def view(self, mask: BoolArray, fresh: bool) -> RefitView:
        """Weights, gradient, drop and gain on a support. O(k²p), always fresh."""
        kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
        matrix, _ = self.reduced(np.zeros_like(mask), kept)
        lower = _cholesky(matrix)
        half_inverse = scipy.linalg.solve_triangular(lower, np.eye(kept.size), lower=True, check_finite=False)
        weights, drop, gain = np.zeros(mask.size), np.zeros(mask.size), np.zeros(mask.size)
        weights[kept] = -_solve(lower, self._slope[kept])
        gradient = np.where(mask, 0.0, self._slope + self._form.product(weights))
        drop[kept] = 0.5 * weights[kept] ** 2 / np.einsum("ij,ij->j", half_inverse, half_inverse)
        assert self._form.hessian is not None
        half = half_inverse @ self._form.hessian[np.ix_(kept, pruned)]
        schur = self._form.diagonal()[pruned] - np.einsum("ij,ij->j", half, half)
        gain[pruned] = 0.5 * gradient[pruned] ** 2 / np.maximum(schur, np.finfo(np.float64).tiny)
        return RefitView(weights, gradient, drop, gain)

    def refit(self, mask: BoolArray) -> FloatArray:
        """The refit on a support. float64 (p,)"""
        return self._form.refit(mask)

    def reduced(self, fixed: BoolArray, chosen: IndexArray) -> tuple[FloatArray, FloatArray]:
        """The form's matrix and slope at zero on `chosen`, minimised over the weights in `fixed`, all others zero."""
        hessian, ridge = self._form.hessian, self._form.ridge
        assert hessian is not None
        rest = np.flatnonzero(fixed)
        matrix = hessian[np.ix_(chosen, chosen)]
        matrix[np.diag_indices_from(matrix)] += ridge[chosen]
        if rest.size == 0:
            return matrix, self._slope[chosen]
        outer = hessian[np.ix_(rest, rest)]
        outer[np.diag_indices_from(outer)] += ridge[rest]
        lower = _cholesky(outer)
        half = scipy.linalg.solve_triangular(lower, hessian[np.ix_(rest, chosen)], lower=True, check_finite=False)
        slope = scipy.linalg.solve_triangular(lower, self._slope[rest], lower=True, check_finite=False)
        return matrix - half.T @ half, self._slope[chosen] - half.T @ slope


class RefitFactorSearch:
    """Splicing and exact working sets on a block in mode refit whose p is too large for one tableau."""

    def __init__(self, block: BlockProblem) -> None:
        self._block = block
        self._refit = DualRefit(block.form) if block.form.factor is not None else PrimalRefit(block.form)
        self._keeping = block.keeping
        self._smallest_change = MINIMUM_GAIN * abs(block.form.value(np.zeros(block.p)) - block.form.constant)

    def run(
        self, mask: BoolArray, best: Incumbent, spent: float = 0.0, most_sets: float = float("inf")
    ) -> tuple[int, float, bool, Stop]:
        """Improve `mask` in place. -> moves, swaps examined, whether proved 1-swap optimal, why it stopped.

        `best` is offered every better mask; `spent` evaluations count towards its budget; `most_sets` limits the
        working sets.
        """
        if self._block.settled:
            return 0, 0.0, True, Stop.finished("there is nothing to swap")
        if stop := best.stop(spent):
            return 0, 0.0, False, stop
        clock = _Clock(best)
        view = self._refit.view(mask, True)
        value = self._block.evaluate(view.weights, mask)
        view, value, moves, evaluations = self._splice(mask, view, value, clock, spent)
        fresh, sets = False, 0
        while not (stop := clock.stop(spent + evaluations)):
            if sets >= most_sets:
                return moves, evaluations, False, Stop.finished(f"made {sets} working sets")
            sets += 1
            trial = mask.copy()
            made, tried = self._working_set(trial, view)
            evaluations += tried
            next_view, next_value = view, value
            if made:
                next_view = self._refit.view(trial, False)
                next_value = self._block.evaluate(next_view.weights, trial)
            if next_value < value - self._smallest_change:
                mask[:], view, value, fresh = trial, next_view, next_value, False
                moves += made
                best.offer(mask, SOURCE, view.weights, value)
            elif fresh:
                return moves, evaluations, False, Stop.finished("no working set improves")
            else:
                view, fresh = self._refit.view(mask, True), True
        return moves, evaluations, False, stop

    def refit(self, mask: BoolArray) -> FloatArray:
        """The refit on a mask, cheapest on the one that `run` ended with. float64 (p,)"""
        return self._refit.refit(mask)

    def _splice(
        self, mask: BoolArray, view: RefitView, value: float, clock: "_Clock", spent: float
    ) -> tuple[RefitView, float, int, float]:
        """Exchange the cheapest kept for the most useful pruned weights; halve their number after each failure."""
        moves, evaluations = 0, 0.0
        limit = mask.size
        while not clock.stop(spent + evaluations):
            kept, pruned = self._ranked(mask, view)
            paired = min(kept.size, pruned.size)
            worthwhile = int((view.drop[kept[:paired]] < view.gain[pruned[:paired]]).sum())
            count = min(worthwhile, limit)
            if count < WORKING_SET // 2:
                break
            trial = mask.copy()
            trial[kept[:count]], trial[pruned[:count]] = False, True
            next_view = self._refit.view(trial, False)
            next_value = self._block.evaluate(next_view.weights, trial)
            evaluations += 1.0
            if next_value < value - self._smallest_change:
                mask[:], view, value = trial, next_view, next_value
                moves += count
                clock.best.offer(mask, SOURCE, view.weights, value)
            else:
                limit = count // 2
        return view, value, moves, evaluations

    def _working_set(self, mask: BoolArray, view: RefitView) -> tuple[int, float]:
        kept, pruned = self._ranked(mask, view)
        leaving = kept[:WORKING_SET]
        chosen, offsets = self._keeping.grouped(np.concatenate((leaving, pruned[:WORKING_SET])))
        fixed = mask.copy()
        fixed[leaving] = False
        matrix, slope = self._refit.reduced(fixed, chosen)
        scale = 1.0 / np.sqrt(matrix.diagonal())
        inside = mask[chosen]
        moves, tried, _, _ = refit_kernel.descend(
            matrix * scale[:, None] * scale, slope * scale, inside, offsets=offsets
        )
        mask[chosen] = inside
        return moves, tried

    def _ranked(self, mask: BoolArray, view: RefitView) -> tuple[IndexArray, IndexArray]:
        """Kept weights by rising cost and pruned ones by falling gain; with a quota, paired within groups."""
        return self._keeping.ranked(mask, view.drop, view.gain)


class _Clock:
    """The budget; also refuses a round that would take longer than the time left."""

    def __init__(self, best: Incumbent) -> None:
        self.best = best
        self._last = best.seconds

    def stop(self, evaluations: float) -> Stop | None:
        """Why to stop now, or None; call once per round."""
        now = self.best.seconds
        took, self._last = now - self._last, now
        if stop := self.best.stop(evaluations):
            return stop
        if took > self.best.remaining:
            return Stop(StopKind.TIME, f"{self.best.time_limit().text}: another round would not fit")
        return None


def _solve(lower: FloatArray, right: FloatArray) -> FloatArray:
    return np.asarray(scipy.linalg.cho_solve((lower, True), right, check_finite=False))


def _inverted(lower: FloatArray) -> FloatArray:
    """The inverse of a lower factor as `_cholesky` gives it."""
    return np.asarray(lapack.dtrtri(lower.T)[0].T, dtype=np.float64)


def _triangular_times(lower: npt.NDArray[Any], columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A lower triangular matrix, stored by column, times `columns`, which are overwritten: half of a full product."""
    product = blas.strmm if columns.dtype == np.float32 else blas.dtrmm
    if by_column(columns):
        return np.asarray(product(1.0, lower, columns, lower=1, overwrite_b=1))
    return np.asarray(product(1.0, lower, columns.T, side=1, lower=1, trans_a=1, overwrite_b=1).T)


def _cholesky(matrix: FloatArray) -> FloatArray:
    """The lower factor of a matrix of which only the upper triangle is read."""
    return np.asarray(scipy.linalg.cholesky(matrix, check_finite=False).T, dtype=np.float64)
