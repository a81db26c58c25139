"""A finished run's mask and weights: what a further run begins from, or what is exported."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.coordinator import Start
from prunebench.core.errors import InvalidInput
from prunebench.log import checks
from prunebench.log.run_directory import RunDirectory, resume_line

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

MASK_FILE = "mask.safetensors"
"""Where a run directory has its masks, by parameter."""
WEIGHTS_FILE = "weights.safetensors"
"""Where a run directory has the pruned network's state."""
LEVELS_FILE = "levels.safetensors"
"""Where a run that rounds its weights has their levels and scales, by parameter (`prunebench.core.levels`)."""


def finished(path: Path) -> RunDirectory:
    """The directory of a finished run of a network, its mask and weights those that the run wrote.

    Raises
    ------
    InvalidInput   no run directory, or the run is not finished, lost blocks or was none of a network; or files that
                   the run did not write
    """
    held = RunDirectory.open(path)
    checks.require(held.request, checks.REQUEST, checks.REQUEST_NEEDS, path / "run.json")
    if not held.finished or not (path / MASK_FILE).is_file():
        result = held.result() or {}
        why = f" (it {'lost blocks' if result.get('unsolved') else 'failed'})" if "outcome" in result else ""
        raise InvalidInput(f"{path} is not a finished run of a network{why}; finish it: {resume_line(path)}")
    return held


def load_start(path: Path, network: "PrunableNetwork") -> Start:
    """Put a finished run's network into `network`, in place (batch-norm statistics too), and return mask and weights.

    Raises
    ------
    InvalidInput   not a finished run, another network, or files of the run that do not match
    """
    from prunebench.networks.checkpoints import read_state

    held = finished(path)
    for name in (MASK_FILE, WEIGHTS_FILE):
        held.require_own(name)
    network.load(path / WEIGHTS_FILE)
    masks = read_state(path / MASK_FILE)
    parts = []
    for layer in network.layers:
        if layer.name not in masks:
            raise InvalidInput(f"{path}: {MASK_FILE} has no mask of {layer.name!r}; it is of other prunable parameters")
        part = masks[layer.name]
        if str(part.dtype) != "torch.bool" or tuple(part.shape) != layer.shape:
            raise InvalidInput(
                f"{path}: {MASK_FILE} has {part.dtype} {tuple(part.shape)} for {layer.name!r}; a mask is bool "
                f"{layer.shape}"
            )
        parts.append(part.numpy().reshape(-1))
    mask, weights = np.concatenate(parts), network.weights()
    kept = (held.result() or {}).get("kept")
    if (weights[~mask] != 0.0).any() or kept not in (None, int(mask.sum())):
        raise InvalidInput(
            f"{path}: the files do not match: {WEIGHTS_FILE} is not zero where {MASK_FILE} is false, or that keeps "
            "another number than result.json says"
        )
    return Start(mask, weights)
