"""A fixed number of exact exchange rounds on a large block in mode refit: a search's finish at a known cost."""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.block import BlockProblem
from prunebench.core.solution import Budget, Recorder
from prunebench.kernels.local_search.refit_factor import RefitFactorSearch


def improve(block: BlockProblem, mask: BoolArray, rounds: int, recorder: Recorder) -> tuple[BoolArray, FloatArray]:
    """At most `rounds` working sets on `mask`, which stays as it is. -> mask (p,), never worse, and its weights (p,).

    Splicing (many exchanges at once) comes first where it helps, as in solver swap.
    """
    out = np.array(mask, dtype=np.bool_)
    limit = Budget(seconds=recorder.remaining, evaluations=rounds * ROUND_EVALUATIONS)
    # with a quota a working set looks at so few swaps that their number says nothing about its cost
    most = float("inf") if block.keeping.one_count else rounds
    search = RefitFactorSearch(block)
    search.run(out, Recorder(limit), most_sets=most)
    return out, search.refit(out)


ROUND_EVALUATIONS = 256.0 * 256.0
"""Swaps that one scan of a working set looks at."""
