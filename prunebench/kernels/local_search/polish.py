"""The one local search that any solver can end with, reported apart so that nobody wins by a hidden one."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from prunebench.core.arrays import BoolArray, frozen
from prunebench.core.block import BlockProblem
from prunebench.core.quadratic import QuadraticForm
from prunebench.core.solution import Budget, Recorder, Solution
from prunebench.kernels.local_search.descent import SwapDescent


def polish(block: BlockProblem, solution: Solution, recorder: Recorder) -> Solution:
    """Swap descent from the solution's mask, from the block's incumbent, and from each of the alternatives.

    Parameters
    ----------
    block : BlockProblem     the block that the solution is of
    solution : Solution      any feasible solution
    recorder : Recorder      of the solve; what is left of its budget bounds the polish

    Returns
    -------
    Solution   the best mask reached, the other local optima as its alternatives, never worse than
    `solution`; `details["objective_before_polish"]` and `timings["polish"]` say what the step did.
    """
    before = recorder.seconds
    starts = [solution.mask, block.incumbent, *(() if solution.alternatives is None else solution.alternatives)]
    held: dict[bytes, tuple[float, BoolArray]] = {solution.mask.tobytes(): (solution.objective, solution.mask)}
    moves = 0
    descent = SwapDescent(block) if not recorder.expired() else None
    for start in starts:
        mask = start
        if descent is not None and not recorder.expired():
            result = descent.run(start, recorder)
            mask, moves = result.mask, moves + result.moves
        key = mask.tobytes()
        if key not in held:
            held[key] = (block.evaluate(mask), mask)
    ranked = sorted(held.values(), key=lambda pair: pair[0])
    objective, best = ranked[0]
    recorder.record(objective)
    weights = block.weights_of(best)
    others = [mask for _, mask in ranked[1:]]
    return replace(
        solution,
        mask=frozen(np.array(best)),
        weights=frozen(weights),
        objective=objective,
        trace=frozen(recorder.table(objective, solution.lower_bound)),
        timings={**solution.timings, "polish": recorder.seconds - before},
        details={**solution.details, "objective_before_polish": solution.objective, "polish_moves": moves},
        alternatives=np.array(others) if others else None,
    )


@lru_cache(maxsize=1)
def warm() -> None:
    """Compile the select descents, or load them from numba's cache, on a block of three weights."""
    from prunebench.kernels.local_search.select_factor import SelectFactorSearch

    form = QuadraticForm(factor=np.ones((1, 3)), ridge=0.1, centre=np.ones(3))
    block = BlockProblem(form, np.array([1.0, 2.0, 3.0]), 1, "select")
    start = np.array([True, False, False])
    SwapDescent(block).run(start, Recorder(Budget()))
    SelectFactorSearch(block).run(start, Recorder(Budget()), 0.0)
