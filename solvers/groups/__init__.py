"""Solvers that choose among groups of a layer's inputs, the kept weights refitted."""

from prunebench.solvers.groups.greedy import GroupGreedy
from prunebench.solvers.groups.osscar import Osscar
from prunebench.solvers.groups.swap import GroupSwap

__all__ = ["GroupGreedy", "GroupSwap", "Osscar"]
