"""SparseGPT: whole layers, pruned column by column."""

from prunebench.solvers.sparsegpt.solver import SparseGPT

__all__ = ["SparseGPT"]
