"""Support search by the alternating direction method of multipliers (ADMM)."""

from prunebench.solvers.admm.solver import Admm

__all__ = ["Admm"]
