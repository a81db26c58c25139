"""Rounds of pruning and training: lottery tickets, gradual pruning, regrowth, and training from scratch."""

from prunebench.coordinators.rounds.coordinator import Rounds
from prunebench.coordinators.rounds.options import RoundsOptions

__all__ = ["Rounds", "RoundsOptions"]
