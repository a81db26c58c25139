"""Enumeration of all feasible masks."""

from prunebench.solvers.exhaustive.solver import Exhaustive

__all__ = ["Exhaustive"]
