"""Exchanges at known cost at the end of another search in mode refit."""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.incumbent import Incumbent
from prunebench.core.solution import Budget
from prunebench.kernels.local_search.descent import TABLEAU_SIZE, search, searchable, swap_descent
from prunebench.kernels.local_search.refit_factor import SOURCE, RefitFactorSearch

ROUND_EVALUATIONS = 256.0 * 256.0
"""Swaps examined in one scan of a working set."""
WALK_EVALUATIONS, WALK_SCANS = 6e4, 64
"""Swaps that `finish` examines on a block small enough for walks: at least so many, and so many scans of all swaps.
That takes milliseconds; those who want the last per mille have solver swap."""


def improve(best: Incumbent, rounds: int) -> tuple[BoolArray, FloatArray]:
    """At most `rounds` working sets on the best mask. -> mask (p,), never worse, and its weights (p,).

    Splicing (many exchanges at once) comes first where it helps, as in solver swap.
    """
    block, out = best.block, best.mask.copy()
    limit = Budget(seconds=best.remaining, evaluations=rounds * ROUND_EVALUATIONS, cpu=best.budget.cpu)
    # with a quota a working set examines so few swaps that their number does not measure its cost
    most = float("inf") if block.keeping.one_count else rounds
    search = RefitFactorSearch(block)
    search.run(out, Incumbent(block, limit), most_sets=most)
    return out, search.refit(out)


def finish(best: Incumbent, rounds: int) -> None:
    """Offer what exchanges make of the best mask: walks, a descent, or `rounds` working sets.

    Short walks, drawn from a seed of their own, where the block is `searchable`; else up to 2,048 weights swaps until
    none improves, and above `improve`.
    """
    block = best.block
    if searchable(block):
        enough = max(WALK_EVALUATIONS, float(WALK_SCANS * block.keep * (block.p - block.keep)))
        limited = Incumbent(block, Budget(seconds=best.remaining, evaluations=enough, cpu=best.budget.cpu))
        for end in search(block, best.mask, limited, np.random.default_rng(0)):
            best.offer(end.mask, SOURCE)
    elif block.p <= TABLEAU_SIZE:
        best.offer(swap_descent(block, best.mask, best).mask, SOURCE)
    else:
        mask, weights = improve(best, rounds)
        if not np.array_equal(mask, best.mask):
            best.offer(mask, SOURCE, weights)
