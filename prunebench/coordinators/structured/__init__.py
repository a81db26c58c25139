"""Structured pruning: whole channels, neurons, heads and residual branches go."""

from prunebench.coordinators.structured.coordinator import Structured
from prunebench.coordinators.structured.options import StructuredOptions

__all__ = ["Structured", "StructuredOptions"]
