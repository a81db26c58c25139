"""Host memory of the iCBS coordinator beside the network itself, in bytes per weight.

For float32 (or shorter) networks, one block per layer, picked by gradient, up to 32,768 steps:

    dense and current weights      4 + 4      float32, as in the network
    mask, fixed weights            1 + 1      bool
    step of the last visit         2          the shortest integer type that counts the steps
    ====================================
    together                      12

plus temporary arrays while a layer is ranked, at most LAYER_BYTES (QUOTA_LAYER_BYTES with a quota) per
weight of the largest layer, and the mean gradient of the layers that blocks are drawn from (of the whole network
where a block takes weights of all). The best state so far is the current one if acceptance is by true loss or the
loss is not measured; otherwise it takes a second mask and second weights. With float64 and int64 arrays and a
copy for every loss that is tried, the peak was 62 bytes per weight.
"""

import numpy as np

from prunebench.coordinators.icbs.options import BY_GRADIENT, ICBSOptions

LAYER_BYTES = 50
"""Bytes per weight of the largest layer: positions, scores and a partition of them."""

QUOTA_LAYER_BYTES = 90
"""The same if weights are ranked within groups."""


def icbs_host_bytes(weights: int, largest_layer: int, options: ICBSOptions, *, precision: int = 4) -> dict[str, int]:
    """Peak bytes of the iCBS coordinator on the host, by purpose, without the network.

    Parameters
    ----------
    weights : prunable weights;  largest_layer : how many of them the largest layer has
    options : of the coordinator;  precision : bytes per weight in the landscape, 4 or 8
    """
    whole = options.block_scope == "network" or (options.init_scope == "network" and not options.quota_kind.grouped)
    ranked = weights if whole else largest_layer
    visits = np.min_scalar_type(-max(1, options.steps)).itemsize
    drawn = weights if options.block_scope == "network" else min(weights, options.blocks_per_step * largest_layer)
    by_gradient = weights if options.init == "gradient" else drawn if options.select in BY_GRADIENT else 0
    return {
        "dense and current weights": 2 * precision * weights,
        "mask, fixed weights": 2 * weights,
        "last visits": visits * weights,
        "best state, where it is not the current one": 0
        if options.accept == "true-loss" or not options.needs_loss
        else (1 + precision) * weights,
        "mean gradient, while blocks are picked by it": precision * by_gradient,
        "ranking the largest layer": (QUOTA_LAYER_BYTES if options.quota_kind.grouped else LAYER_BYTES) * ranked,
    }
