"""The gap: one formula for blocks, tables, curves and reports."""

import math

import numpy as np
import numpy.typing as npt

from prunebench.core.arrays import FloatArray


def gap(objective: npt.ArrayLike, reference: float, random_mean: float) -> FloatArray:
    """(objective − reference)/(random mean − reference): 0 at or below the reference, 1 for a random mask.

    inf if the reference is not finite or a random mask is no worse than it. float (…) -> float64 (…)
    """
    values = np.asarray(objective, dtype=np.float64)
    if not math.isfinite(reference):
        return np.full(values.shape, np.inf)
    excess, scale = values - reference, random_mean - reference
    if scale <= 0.0:
        return np.where(excess <= 0.0, 0.0, np.inf)
    return np.asarray(np.maximum(excess, 0.0) / scale)
