"""Swap descent for either mode and any size: the search of solver "swap" and the polish of every solver.

After the local search of Combinatorial Brain Surgeon (Yu, Serra, Ramalingam, Zhe, ICML 2022), but with the
best of all swaps instead of a window of candidates, with pruned weights of either sign as candidates, with
the ridge included and no absolute acceptance threshold, and in mode refit with the exact change of the
refitted objective.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, IndexArray
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.solution import Budget
from prunebench.core.stop import Stop
from prunebench.core.warm import EVALUATIONS, miniature

if TYPE_CHECKING:
    from prunebench.kernels.local_search.refit_kernel import RefitDescent

DENSE_SELECT_SIZE = 1024
"""Up to this p the couplings are formed; above it, working sets on the factor are faster and prove as much."""
DENSE_REFIT_SIZE = 1024
"""Up to this p the descent is on the dense curvature, O(kp) a move; above, working sets on the factor come first."""
TABLEAU_SIZE = 2048
"""Up to this p a descent on the dense curvature (16p² bytes) completes what working sets began."""
SEARCH_SIZE = 1024
"""Up to this p a block in mode refit is small enough for a tabu search by default."""
_Run = Callable[[BoolArray, Incumbent, float], tuple[int, float, bool, Stop]]


@dataclass(frozen=True)
class DescentResult:
    """The end of a descent.

    mask : bool (p,)           as many ones as the start, or in budget; never worse than it
    moves : int                exchanged weights
    locally_optimal : bool     proved: no single swap, drop or addition improves the objective beyond rounding
    evaluations : float        swaps examined (a splice with its refit counts as one)
    stop : Stop                why it ended
    """

    mask: BoolArray
    moves: int
    locally_optimal: bool
    evaluations: float
    stop: Stop


class SwapDescent:
    """Swap descent on one block; results shared by restarts are computed once.

    Select: dense couplings up to p = 1024 or if the form holds its hessian, else the factor.
    Refit: dense curvature up to p = 1024; above, splicing and exact working sets, completed by it up to p = 2048.
    """

    def __init__(self, block: BlockProblem, size: int | None = None) -> None:
        """`size` : use the code path for a block of this size; by default the block's own."""
        self.block = block
        self._run: _Run = _path(block, block.p if size is None else size)

    def run(self, mask: BoolArray, best: Incumbent, spent: float = 0.0) -> DescentResult:
        """Descend from `mask`, which is not changed, until no swap improves or the budget runs out.

        Parameters
        ----------
        mask : bool (p,)        feasible; the groups of a quota keep their counts, a budget is kept
        best : Incumbent        of this block: its budget is respected; on large blocks it is offered intermediate masks
        spent : float           evaluations made before, counted towards the budget
        """
        out = np.array(mask, dtype=np.bool_)
        moves, evaluations, optimal, stop = self._run(out, best, spent)
        return DescentResult(out, moves, optimal, evaluations, stop)


def searchable(block: BlockProblem) -> bool:
    """Whether `search` takes the block: mode refit, a count or quota, and at most SEARCH_SIZE weights."""
    return block.mode == "refit" and block.budget is None and not block.settled and block.p <= SEARCH_SIZE


def search(
    block: BlockProblem,
    mask: BoolArray,
    best: Incumbent,
    rng: np.random.Generator,
    spent: float = 0.0,
    share: float = 1.0,
) -> Iterator[DescentResult]:
    """Tabu search on a block in mode refit with a count or quota: the lowest local optimum of each walk.

    The first walk begins at `mask`. Some .9 s at p = 64 to 1024 where local optima abound, else less; at most a `share`
    of that. `best` and `spent` are as of `SwapDescent.run`; the masks are not offered. For example

        for end in search(block, best.mask, best, rng):
            best.offer(end.mask, "search")
    """
    from prunebench.kernels.local_search import refit_search

    descent, order = _refit_descent(block)

    def drawn() -> BoolArray:
        out = block.top_mask(rng.random(block.p))
        return out if order is None else out[order]

    first = mask if order is None else mask[order]
    left = best.budget.evaluations - spent
    for end in refit_search.walks(descent, first, drawn, rng, best.stop_after(spent), left, share):
        spent += end.evaluations
        # a walk's lowest point need not be a local optimum, as some swaps are tabu there
        moves, tried, optimal, stop = descent.run(end.mask, best.stop_after(spent), best.budget.evaluations - spent)
        spent += tried
        out = end.mask
        if order is not None:
            out = np.empty_like(end.mask)
            out[order] = end.mask
        yield DescentResult(out, end.moves + moves, optimal, end.evaluations + tried, stop)


def swap_descent(block: BlockProblem, mask: BoolArray, best: Incumbent) -> DescentResult:
    """The descent from one mask, as any solver's final polish.

    The result's objective is at most the start's, up to rounding. For several starts on one block
    make one SwapDescent.
    """
    return SwapDescent(block).run(mask, best)


def warm_up(block: BlockProblem) -> None:
    """Load and compile the descent for the block's mode and size, on a miniature of it."""
    small = miniature(block)
    if not small.settled:
        SwapDescent(small, block.p).run(small.incumbent, Incumbent(small, Budget(evaluations=EVALUATIONS)))


def _path(block: BlockProblem, size: int) -> _Run:
    """The search for the block's mode and size; numba is first imported here."""
    if block.settled:
        return lambda *_: (0, 0.0, True, Stop.finished("there is nothing to swap"))
    if block.budget is not None:
        from prunebench.kernels.local_search import budget_descent

        within = budget_descent.select_descent if block.mode == "select" else budget_descent.refit_descent
        return within(block, block.budget)
    if block.mode == "select":
        if size <= DENSE_SELECT_SIZE or block.form.factor is None:
            return _dense_select(block)
        from prunebench.kernels.local_search.select_factor import SelectFactorSearch

        return SelectFactorSearch(block).run
    if size <= DENSE_REFIT_SIZE or (size <= TABLEAU_SIZE and block.form.factor is None):
        return _dense_refit(block)
    from prunebench.kernels.local_search.refit_factor import RefitFactorSearch

    in_sets = RefitFactorSearch(block).run
    return in_sets if size > TABLEAU_SIZE else _one_after_the_other(in_sets, _dense_refit(block))


def _dense_select(block: BlockProblem) -> _Run:
    from prunebench.kernels.local_search import select_kernel

    qubo = block.to_qubo()
    couplings, linear = qubo.couplings, np.array(qubo.linear)
    size = np.abs(linear) + np.abs(couplings).sum(axis=1)
    tolerance = 16.0 * float(np.finfo(np.float64).eps) * size
    order, offsets = block.keeping.ranges
    if order is not None:
        couplings, linear, tolerance = couplings[np.ix_(order, order)], linear[order], tolerance[order]

    def run(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        left = best.budget.evaluations - spent
        return select_kernel.descend(couplings, linear, tolerance, mask, best.stop_after(spent), left, offsets)

    return run if order is None else _in_order(run, order)


def _dense_refit(block: BlockProblem) -> _Run:
    descent, order = _refit_descent(block)

    def run(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        return descent.run(mask, best.stop_after(spent), best.budget.evaluations - spent)

    return run if order is None else _in_order(run, order)


def _refit_descent(block: BlockProblem) -> "tuple[RefitDescent, IndexArray | None]":
    """The dense descent, and the order of the weights in it if there is a quota."""
    from prunebench.kernels.local_search.refit_kernel import RefitDescent

    form = block.form
    matrix = form.gram(np.arange(block.p))
    scale = 1.0 / np.sqrt(matrix.diagonal())
    matrix *= scale[:, None] * scale
    slope = scale * (form.linear - form.product(form.centre))
    order, offsets = block.keeping.ranges
    if order is not None:
        matrix, slope = matrix[np.ix_(order, order)], slope[order]
    return RefitDescent(matrix, slope, offsets), order


def _in_order(run: _Run, order: IndexArray) -> _Run:
    """`run` with the weights permuted so that every group of a quota is one range."""

    def ordered(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        inner = mask[order]
        try:
            return run(inner, best, spent)
        finally:
            mask[order] = inner

    return ordered


def _one_after_the_other(first: _Run, second: _Run) -> _Run:
    def run(mask: BoolArray, best: Incumbent, spent: float) -> tuple[int, float, bool, Stop]:
        moves, evaluations, _, _ = first(mask, best, spent)
        more, tried, optimal, stop = second(mask, best, spent + evaluations)
        return moves + more, evaluations + tried, optimal, stop

    return run
