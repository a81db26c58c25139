"""Multi-stage pruning, with a density that falls from stage to stage."""

from prunebench.coordinators.multi_stage.coordinator import MultiStage

__all__ = ["MultiStage"]
