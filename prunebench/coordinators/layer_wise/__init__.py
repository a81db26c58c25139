"""Layer by layer from the inputs on, from each layer's inputs alone."""

from prunebench.coordinators.layer_wise.coordinator import LayerWise

__all__ = ["LayerWise"]
