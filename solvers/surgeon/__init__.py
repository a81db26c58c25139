"""Optimal Brain Surgeon and its successors: weights are removed one by one, and the others compensate."""

from prunebench.solvers.surgeon.cbs import Cbs
from prunebench.solvers.surgeon.mfac import Mfac
from prunebench.solvers.surgeon.obc import Obc
from prunebench.solvers.surgeon.obs import Obs
from prunebench.solvers.surgeon.woodfisher import WoodFisher

__all__ = ["Cbs", "Mfac", "Obc", "Obs", "WoodFisher"]
