"""What a classifier makes of its inputs before its last layer: features, their similarity, their angle to a class.

Kornblith et al.: Similarity of Neural Network Representations Revisited, ICML 2019 (linear CKA).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import FloatArray
from prunebench.networks.network import evaluation_mode


@dataclass(frozen=True)
class Features:
    """Inputs of the last dense layer for some samples, and that layer's row of each class.

    values : float64 (s, d);  directions : float64 (classes, d)
    """

    values: FloatArray
    directions: FloatArray


def last_layer(model: torch.nn.Module, classes: int) -> torch.nn.Linear | None:
    """The last dense layer with an output a class; None where there is none."""
    found = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == classes]
    return found[-1] if found else None


def features_of(model: torch.nn.Module, layer: torch.nn.Linear, inputs: Any) -> Features:
    """Features of a batch."""
    with torch.no_grad(), evaluation_mode(model), _watched(layer) as seen:
        model(inputs)
    held = seen[-1].reshape(-1, layer.in_features)
    return Features(held.double().cpu().numpy(), layer.weight.detach().double().cpu().numpy())


@contextmanager
def _watched(layer: torch.nn.Linear) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []

    def keep(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].detach())

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def cka(one: FloatArray, other: FloatArray) -> float | None:
    """Linear CKA of two representations of the same samples, 0 to 1; None where one of them is constant.

    1 for representations that differ by a rotation, a shift and a scale. Float (s, d), (s, e)
    """
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    own = np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)
    return float(np.linalg.norm(other.T @ one) ** 2 / own) if own > 0.0 else None


def geometry(found: Features, labels: FloatArray) -> tuple[float | None, float]:
    """The mean angle, in degrees, between features and the direction of their class; and the mean norm of features.

    Samples whose features are all zero have no angle; None where all are so.
    """
    norms = np.linalg.norm(found.values, axis=1)
    towards = found.directions[labels.astype(np.int64)]
    sizes = norms * np.linalg.norm(towards, axis=1)
    known = sizes > 0.0
    if not known.any():
        return None, float(norms.mean())
    cosines = (found.values * towards).sum(axis=1)[known] / sizes[known]
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).mean()), float(norms.mean())
