"""Support search by the alternating direction method of multipliers, on a whole network at once.

minimise f(w) subject to w = d, ‖d‖₀ ≤ k, in scaled form with penalty ρ and multipliers v:

    w ← argmin f(w) + v'(w − d) + ρ/2 ‖w − d‖²    (one solve with the spectrum: two passes over A)
    w ← α w + (1 − α) d                           (over-relaxation)
    d ← the k largest entries of w + v/ρ (with a quota, those of every group)
    v ← v + ρ (w − d)

Meng, Behdin, Wang, Mazumder: ALPS, NeurIPS 2024, §3.2, for the Gram matrix of one layer; here also
in the n×n dual, so that H is never formed if n < p. The penalty rises while the support changes, faster
for larger changes, and the search ends when the support no longer changes. With over-relaxation (Boyd et
al.: Distributed optimization and statistical learning via ADMM, 2011, §3.4.3) a search that starts at a
higher penalty, and so ends sooner, finds as good a support.
"""

from dataclasses import dataclass

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray, RealArray
from prunebench.core.block import BlockProblem
from prunebench.core.stop import StopCheck
from prunebench.solvers.admm.spectrum import Spectrum

RELAXATION = 1.6
"""α of the over-relaxation; 1.5 to 1.8 are usual."""
STEPS_PER_PENALTY = 3
"""Steps between two updates of the penalty, as in ALPS."""
LARGE_CHANGE, SMALL_CHANGE = 0.1, 0.005
"""Changes of the support in one step, as shares of it, above which the penalty rises fast or moderately."""
LOWERING, LOWERINGS = 5.0, 6
"""While the support equals the start, the penalty is divided by LOWERING, at most LOWERINGS times (as in ALPS)."""
TRACE_SHARE = 1e-3
"""A smaller ridge counts as this share of the curvature's mean diagonal when penalties are scaled."""


@dataclass(frozen=True)
class Growth:
    """Factors of the penalty after a large, a moderate and a small change of the support."""

    large: float
    moderate: float
    small: float


SLOW = Growth(1.05, 1.02, 1.01)
"""Growth in the first half of the steps: slower than in ALPS, which gives better supports."""
FAST = Growth(1.3, 1.2, 1.1)
"""Growth in the second half, as in ALPS, which ends the search."""


def search(
    block: BlockProblem,
    spectrum: Spectrum,
    start: BoolArray,
    penalty: float,
    max_steps: int,
    stop: StopCheck,
    residual: FloatArray | None = None,
) -> tuple[BoolArray, int, bool]:
    """A support from `start`. -> mask with `keep` ones, steps made, whether the support stopped changing.

    Parameters
    ----------
    block : treated as one in mode refit
    spectrum : of the block's form
    start : bool (p,)       the support of the first d
    penalty : the initial ρ, in units of the ridge (see TRACE_SHARE)
    max_steps : most steps
    stop : given the steps so far, why to stop now, or None
    residual : (n,)         f has ½‖residual + A (w − centre)‖² in place of ½‖A (w − centre)‖²
    """
    dtype = spectrum.vectors.dtype.type
    scale = np.ones(1) if spectrum.scale is None else spectrum.scale
    centre: RealArray = (block.form.centre * scale).astype(dtype)
    linear: RealArray = (block.form.linear / scale).astype(dtype)
    rest = None if residual is None else residual.astype(dtype)
    rho = penalty * max(spectrum.ridge, TRACE_SHARE * spectrum.mean_diagonal)
    support, moved, lowered = start, False, 0
    split = _masked((block.dense_weights * scale).astype(dtype), support)
    multipliers = np.zeros(block.p, dtype=dtype)
    for step in range(max_steps):
        if stop(step):
            return support, step, False
        right = dtype(rho) * (split - centre) - multipliers - linear
        weights = centre + spectrum.solve(right, spectrum.ridge + rho, rest)
        weights = dtype(RELAXATION) * weights + dtype(1.0 - RELAXATION) * split
        pulled = weights + multipliers / dtype(rho)
        before, support = support, block.top_mask(np.abs(pulled))
        split = _masked(pulled, support)
        multipliers += dtype(rho) * (weights - split)
        if step % STEPS_PER_PENALTY == STEPS_PER_PENALTY - 1:
            moved = moved or not np.array_equal(support, start)
            changed = int((support & ~before).sum())
            if changed == 0 and not moved and lowered < LOWERINGS:
                # with too high a penalty the support cannot change, which says nothing about the start
                rho, lowered = rho / LOWERING, lowered + 1
                continue
            if changed == 0:
                return support, step + 1, True
            growth = SLOW if 2 * step < max_steps else FAST
            rho *= _factor(growth, changed / block.keep)
    return support, max_steps, False


def _masked(values: RealArray, mask: BoolArray) -> RealArray:
    """`values` where the mask is True, else zero, in their own precision."""
    return np.where(mask, values, values.dtype.type(0))


def _factor(growth: Growth, share: float) -> float:
    if share > LARGE_CHANGE:
        return growth.large
    return growth.moderate if share > SMALL_CHANGE else growth.small
