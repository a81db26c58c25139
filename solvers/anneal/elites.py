"""Good masks joined: what several of them agree on is fixed, and the rest is searched by itself.

The idea is that of path relinking and of kernels of common choices (Glover: Heuristics for integer programming using
surrogate constraints, Decision Sciences 8, 1977): the weights that good masks decide differently are few, a tenth or
two of the block, so that a kick of them costs a hundredth of one of the whole.
"""

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.stop import StopCheck
from prunebench.kernels.local_search.iterated import Iterated

MOST_JOINED = 5
"""Most masks that are joined at a time, at least two: more leave too much open."""
LEAST_OPEN = 6
"""With fewer weights left open, swaps have been through all of their masks."""
KICKS = 300
"""Kicks of the weights left open: 100 found as much in as much time, 1000 less."""


def joined(
    couplings: FloatArray, linear: FloatArray, masks: BoolArray, rng: np.random.Generator, stop: StopCheck
) -> tuple[BoolArray | None, float]:
    """A mask that agrees with some of the masks where these agree, as good as one of them or better.

    couplings : J, float64 (p, p), symmetric, zero diagonal;  linear : float64 (p,)
    masks : bool (r, p), distinct, of one count; some of them are drawn, each with the same probability
    Returns the mask, None if they leave too few weights open, and the swaps examined, about.
    """
    count = min(int(rng.integers(2, MOST_JOINED + 1)), masks.shape[0])
    chosen = masks[rng.choice(masks.shape[0], count, replace=False)]
    opened = np.flatnonzero(chosen.any(axis=0) & ~chosen.all(axis=0))
    seed = rng.integers(1, 2**63, dtype=np.uint64)
    if opened.size < LEAST_OPEN:
        return None, 0.0
    mask = chosen[0].copy()
    fixed = chosen.all(axis=0)
    rows = couplings[opened]
    part = Iterated(np.ascontiguousarray(rows[:, opened]), linear[opened] + rows[:, fixed].sum(axis=1), seed)
    mask[opened] = part.run(mask[opened], KICKS, stop)
    return mask, float(KICKS) * float(opened.size) ** 2
