"""Every feasible mask, enumerated."""

from prunebench.solvers.exhaustive.solver import Exhaustive

__all__ = ["Exhaustive"]
