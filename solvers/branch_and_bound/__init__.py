"""Best-first branch and bound in both modes, with a proven bound."""

from prunebench.solvers.branch_and_bound.solver import BranchAndBound

__all__ = ["BranchAndBound"]
