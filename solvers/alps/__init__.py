"""ALPS: ADMM on whole layers."""

from prunebench.solvers.alps.solver import Alps

__all__ = ["Alps"]
