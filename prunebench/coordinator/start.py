"""A finished run's mask and weights: what a further run begins from, or what is exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import InvalidInput
from prunebench.log.run_directory import RunDirectory

if TYPE_CHECKING:
    from prunebench.curvature.network import PrunableNetwork

MASK_FILE = "mask.safetensors"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Start:
    """Where a coordinator begins. mask : bool (p,); weights : float64 (p,), zero where the mask is false."""

    mask: BoolArray
    weights: FloatArray


def finished(path: Path) -> RunDirectory:
    """The directory of a finished run of a network.

    Raises
    ------
    InvalidInput   no run directory, or the run is not finished or was none of a network
    """
    held = RunDirectory.open(path)
    if held.result() is None or not (path / MASK_FILE).is_file():
        raise InvalidInput(f"{path} is not a finished run of a network; finish it: prunebench resume {path}")
    return held


def load_start(path: Path, network: "PrunableNetwork") -> Start:
    """Put a finished run's network into `network`, in place (batch-norm statistics too), and return mask and weights.

    Raises
    ------
    InvalidInput   not a finished run, another network, or files of the run that do not match
    """
    from prunebench.curvature.checkpoints import read_state

    finished(path)
    network.load(path / WEIGHTS_FILE)
    masks = read_state(path / MASK_FILE)
    if missing := [name for name in network.names if name not in masks]:
        raise InvalidInput(f"{path}: {MASK_FILE} has no mask of {missing[0]!r}; it is of other prunable parameters")
    mask = np.concatenate([masks[name].numpy().reshape(-1) for name in network.names])
    weights = network.weights()
    if mask.shape != weights.shape or (weights[~mask] != 0.0).any():
        raise InvalidInput(f"{path}: {WEIGHTS_FILE} is not zero where {MASK_FILE} is false; the files do not match")
    return Start(mask, weights)
