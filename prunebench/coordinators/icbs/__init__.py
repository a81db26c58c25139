"""iCBS: block coordinate descent over a network."""

from prunebench.coordinators.icbs.coordinator import ICBS

__all__ = ["ICBS"]
