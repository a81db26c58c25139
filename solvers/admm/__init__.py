"""Support search by the alternating direction method of multipliers."""

from prunebench.solvers.admm.solver import Admm

__all__ = ["Admm"]
