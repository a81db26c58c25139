"""Optimal Brain Surgeon and its descendants: weights leave one by one, the others make up for it."""

from prunebench.solvers.surgeon.cbs import Cbs
from prunebench.solvers.surgeon.mfac import Mfac
from prunebench.solvers.surgeon.obc import Obc
from prunebench.solvers.surgeon.obs import Obs
from prunebench.solvers.surgeon.woodfisher import WoodFisher

__all__ = ["Cbs", "Mfac", "Obc", "Obs", "WoodFisher"]
