"""The definition of "optimal": how near a proven bound must come to the objective."""

import math

PROOF_TOLERANCE = 1e-6
"""An objective is called optimal if its proven bound is within this share of |objective|.

Far below any relevant difference between masks, and above the rounding of bounds on
blocks that are not ill-conditioned. Where rounding is larger, nothing is called optimal.
"""

SMALLEST = 1e-300
"""Differences below this count as none: directed rounding takes a bound of 0 slightly below it."""


def is_proved(objective: float, lower_bound: float) -> bool:
    """Whether the bound proves that no feasible answer is better by more than PROOF_TOLERANCE."""
    return math.isfinite(objective) and objective - lower_bound <= max(PROOF_TOLERANCE * abs(objective), SMALLEST)
