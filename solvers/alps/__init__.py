"""ALPS: whole layers by the alternating direction method of multipliers."""

from prunebench.solvers.alps.solver import Alps

__all__ = ["Alps"]
