"""Simulated annealing whose moves swap one kept and one pruned weight."""

from prunebench.solvers.anneal.solver import Anneal

__all__ = ["Anneal"]
