"""Rounds of structured pruning and training: whole groups go step by step."""

from prunebench.coordinators.structured_rounds.coordinator import StructuredRounds
from prunebench.coordinators.structured_rounds.options import StructuredRoundsOptions

__all__ = ["StructuredRounds", "StructuredRoundsOptions"]
