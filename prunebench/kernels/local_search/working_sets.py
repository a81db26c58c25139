"""A fixed number of exact exchange rounds on a large block in mode refit: a final improvement at known cost."""

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.incumbent import Incumbent
from prunebench.core.solution import Budget
from prunebench.kernels.local_search.refit_factor import RefitFactorSearch


def improve(best: Incumbent, rounds: int) -> tuple[BoolArray, FloatArray]:
    """At most `rounds` working sets on the best mask. -> mask (p,), never worse, and its weights (p,).

    Splicing (many exchanges at once) comes first where it helps, as in solver swap.
    """
    block, out = best.block, best.mask.copy()
    limit = Budget(seconds=best.remaining, evaluations=rounds * ROUND_EVALUATIONS)
    # with a quota a working set examines so few swaps that their number does not measure its cost
    most = float("inf") if block.keeping.one_count else rounds
    search = RefitFactorSearch(block)
    search.run(out, Incumbent(block, limit), most_sets=most)
    return out, search.refit(out)


ROUND_EVALUATIONS = 256.0 * 256.0
"""Swaps examined in one scan of a working set."""
