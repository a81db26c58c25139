"""Solvers that choose among groups of a layer's inputs, the kept weights refitted."""

from prunebench.solvers.groups.exact import GroupExact
from prunebench.solvers.groups.greedy import GroupGreedy
from prunebench.solvers.groups.osscar import Osscar
from prunebench.solvers.groups.swap import GroupSwap

__all__ = ["GroupExact", "GroupGreedy", "GroupSwap", "Osscar"]
