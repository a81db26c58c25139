"""Layer-wise pruning, from the inputs of each layer."""

from prunebench.coordinators.layer_wise.coordinator import LayerWise

__all__ = ["LayerWise"]
