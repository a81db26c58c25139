"""Best-first search through the compiled trees of both modes, with a proven bound."""

from prunebench.solvers.branch_and_bound.solver import BranchAndBound

__all__ = ["BranchAndBound"]
