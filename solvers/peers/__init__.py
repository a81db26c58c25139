"""Well-known programs of others, to stand beside: SCIP, Gurobi, CP-SAT. The extra `peers` brings their packages.

Their claims are theirs: a bound is told as `claimed_bound` and an optimum as `claims`, neither as proved here, since no
proof comes with them and their tolerances are as large as the differences between good masks.
"""

from prunebench.solvers.peers.cpsat import CpSat
from prunebench.solvers.peers.gurobi import Gurobi
from prunebench.solvers.peers.scip import Scip

__all__ = ["CpSat", "Gurobi", "Scip"]
