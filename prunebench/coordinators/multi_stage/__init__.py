"""Pruning in stages of falling density."""

from prunebench.coordinators.multi_stage.coordinator import MultiStage

__all__ = ["MultiStage"]
