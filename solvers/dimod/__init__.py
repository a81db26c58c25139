"""Samplers of the dimod family, and the D-Wave hardware and hybrid solvers."""

from prunebench.solvers.dimod.dwave import DWave, DWaveMock
from prunebench.solvers.dimod.solver import AnySampler, Exact, Neal, PathIntegral, SteepestDescent, Tabu

__all__ = ["AnySampler", "DWave", "DWaveMock", "Exact", "Neal", "PathIntegral", "SteepestDescent", "Tabu"]
