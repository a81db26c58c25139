"""Samplers of the dimod family, OpenJij and simulated bifurcation among them, and D-Wave's hardware and hybrids."""

from prunebench.solvers.dimod.bifurcation import Bifurcation
from prunebench.solvers.dimod.dwave import DWave, DWaveMock
from prunebench.solvers.dimod.openjij import OpenJij, OpenJijSqa
from prunebench.solvers.dimod.solver import AnySampler, Exact, Neal, PathIntegral, SteepestDescent, Tabu

__all__ = [
    "AnySampler",
    "Bifurcation",
    "DWave",
    "DWaveMock",
    "Exact",
    "Neal",
    "OpenJij",
    "OpenJijSqa",
    "PathIntegral",
    "SteepestDescent",
    "Tabu",
]
