"""Simulated annealing by swaps of one kept and one pruned weight."""

from prunebench.solvers.anneal.solver import Anneal

__all__ = ["Anneal"]
