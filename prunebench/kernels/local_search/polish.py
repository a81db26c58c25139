"""The local search that any solver can end with; reported separately, so that its gain is visible."""

from functools import lru_cache

import numpy as np

from prunebench.core.arrays import BoolArray
from prunebench.core.block import BlockProblem
from prunebench.core.incumbent import Incumbent
from prunebench.core.quadratic import QuadraticForm
from prunebench.kernels.local_search.descent import SwapDescent


def polish(best: Incumbent) -> None:
    """Swap descent from the best mask, from the block's incumbent, and from each of the alternatives.

    Uses the rest of the budget. The other local optima become the alternatives;
    `details["objective_before_polish"]` and `timings["polish"]` report its effect.
    """
    block, before, earlier = best.block, best.seconds, best.objective
    best.timings.setdefault("solve", before)
    starts = [best.mask, block.incumbent, *(() if best.alternatives is None else best.alternatives)]
    held: dict[bytes, tuple[float, BoolArray]] = {best.mask.tobytes(): (best.objective, best.mask)}
    moves = 0
    descent = SwapDescent(block) if not best.stop() else None
    for start in starts:
        mask = start
        if descent is not None and not best.stop():
            result = descent.run(start, best)
            mask, moves = result.mask, moves + result.moves
        key = mask.tobytes()
        if key not in held:
            best.offer(mask, "polish")
            held[key] = best.objectives["polish"], mask
    others = [
        mask for _, mask in sorted(held.values(), key=lambda pair: pair[0]) if not np.array_equal(mask, best.mask)
    ]
    best.alternatives = np.array(others) if others else None
    best.timings["polish"] = best.seconds - before
    best.details |= {"objective_before_polish": earlier, "polish_moves": moves}


@lru_cache(maxsize=2)
def warm(on_factor: bool) -> None:
    """Compile one of the select descents, or load it from numba's cache, on a block of three weights."""
    from prunebench.kernels.local_search.select_factor import SelectFactorSearch

    form = QuadraticForm(factor=np.ones((1, 3)), ridge=0.1, centre=np.ones(3))
    block = BlockProblem(form, np.array([1.0, 2.0, 3.0]), 1, "select")
    start, best = np.array([True, False, False]), Incumbent(block)
    if on_factor:
        SelectFactorSearch(block).run(start, best, 0.0)
    else:
        SwapDescent(block).run(start, best)
