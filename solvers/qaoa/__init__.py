"""QAOA on simulators and devices, and in the subspace of feasible masks."""

from prunebench.solvers.qaoa.solver import Qaoa
from prunebench.solvers.qaoa.subspace import QaoaSubspace

__all__ = ["Qaoa", "QaoaSubspace"]
