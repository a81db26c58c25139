"""Torch-Pruning (Fang et al.: DepGraph, 2023; MIT licence) on the same network, samples and budget: a rival."""

import copy
import importlib.util
import warnings
from typing import Any

import numpy as np
import torch

from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.networks.samples import fetched
from prunebench.networks.torchvision_build import make_importable
from prunebench.structure.cost import cost_of
from prunebench.structure.families import chosen, families
from prunebench.structure.trace import EXAMPLES, couple

HALVINGS = 12
"""Of the ratio that meets the budget: 1/4096 is less than a channel of these networks."""

MOST_OF_LAYER = 0.95
"""The largest part of a layer's channels that goes, so that each keeps one."""


def there() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("torch_pruning") is not None


def prune(problem: NetworkProblem, part: float, importance: str, positions: np.ndarray) -> torch.nn.Module:
    """The network with its channels pruned by Torch-Pruning, globally, to at most `part` of the multiply-accumulates.

    The channels that are open to it are those of prunebench's families: the same are open to both. The ratio is the
    least that meets the budget, by halving. Gradients for Taylor are of the calibration samples' own targets.

    Parameters
    ----------
    importance : "l1" or "taylor", as the library has them by default;  positions : calibration samples

    Raises
    ------
    InvalidInput   the budget cannot be met
    """
    model = problem.model().eval()
    example = problem.calibration().batch(np.arange(EXAMPLES))[0]
    coupling = couple(model, example)
    opened = {family.name for family in chosen(families(coupling)[0], ("channels", "neurons"))}
    limit = part * macs(model, example)
    low, high = 0.0, MOST_OF_LAYER
    best: torch.nn.Module | None = None
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        tried = _pruned(problem, model, example, opened, importance, middle, positions)
        if macs(tried, example) <= limit:
            best, high = tried, middle
        else:
            low = middle
    if best is None:
        raise InvalidInput(f"torch-pruning: {part:g} of the multiply-accumulates cannot be reached")
    return best


def macs(model: torch.nn.Module, example: torch.Tensor) -> float:
    """Multiply-accumulates of a sample, as prunebench counts them."""
    return cost_of(couple(model, example), (), "macs").total()


def _pruned(
    problem: NetworkProblem,
    model: torch.nn.Module,
    example: torch.Tensor,
    opened: set[str],
    importance: str,
    ratio: float,
    positions: np.ndarray,
) -> torch.nn.Module:
    make_importable()
    import torch_pruning as tp

    tried = copy.deepcopy(model)
    layers = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    closed = [module for name, module in tried.named_modules() if isinstance(module, layers) and name not in opened]
    if importance == "taylor":
        scorer: Any = tp.importance.GroupTaylorImportance()
        _fill_gradients(problem, tried, positions)
    else:
        scorer = tp.importance.GroupMagnitudeImportance(p=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            tried, example, importance=scorer, global_pruning=True, pruning_ratio=ratio,
            max_pruning_ratio=MOST_OF_LAYER, ignored_layers=closed,
        )  # fmt: skip
        pruner.step()
    return tried


def _fill_gradients(problem: NetworkProblem, model: torch.nn.Module, positions: np.ndarray, batch: int = 50) -> None:
    device = next(model.parameters()).device
    for start in range(0, positions.size, batch):
        inputs, targets = fetched(problem.calibration(), positions[start : start + batch], device)
        (problem.loss(model(inputs), targets).sum() / positions.size).backward()
