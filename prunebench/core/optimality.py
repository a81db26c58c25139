"""What "optimal" means, in one place: how near a proven bound has to come to the objective."""

import math

PROOF_TOLERANCE = 1e-6
"""Part of |objective| that may lie between it and its proven bound where it is called optimal.

Far below any difference that matters between masks, and above what rounding leaves of a bound on
blocks that are not ill-conditioned. Where rounding leaves more, nothing is called optimal.
"""

SMALLEST = 1e-300
"""An objective and a bound that differ by less are the same number: directed rounding of 0 goes below it."""


def is_proved(objective: float, lower_bound: float) -> bool:
    """Whether the bound proves the objective optimal: no feasible answer is better by more than PROOF_TOLERANCE."""
    return math.isfinite(objective) and objective - lower_bound <= max(PROOF_TOLERANCE * abs(objective), SMALLEST)
