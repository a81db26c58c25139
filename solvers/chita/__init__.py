"""CHITA and its parts: hard thresholding, coordinate descent, back-solves."""

from prunebench.solvers.chita.bso import ChitaBso
from prunebench.solvers.chita.chita import Chita
from prunebench.solvers.chita.iht import Iht

__all__ = ["Chita", "ChitaBso", "Iht"]
