"""Masks by scores that are learned: the weights of the largest scores are kept, and the scores follow the loss.

Zhang et al.: Advancing Model Pruning via Bi-level Optimization (BiP), NeurIPS 2022. Below, the kept weights θ of a mask
m minimise the loss with a ridge, ℓ(m⊙θ) + γ/2·‖θ‖²; above, the mask follows the gradient of ℓ(m⊙θ(m)), in which
dθ/dm is taken for −∇ℓ/γ, so that it is θ⊙∇ℓ − (∇ℓ)²/γ: one gradient ∇ℓ at m⊙θ serves both. Each score is moved by the
gradient of its entry of the mask. A penalty Σ s(1 − s) drives scores to 0 or 1, as the consensus sub-networks of
arXiv:2302.10798 have it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunebench.core.arrays import BoolArray, FloatArray
from prunebench.core.errors import PrunebenchError
from prunebench.core.keeping import Quota
from prunebench.core.masks import top_mask
from prunebench.core.problem import NetworkProblem

if TYPE_CHECKING:
    from prunebench.networks.network import PrunableNetwork

MOMENTUM = 0.9
"""Of the steps of weights and scores, as in BiP's release."""


@dataclass(frozen=True, kw_only=True)
class ScoreSteps:
    """How scores are learned.

    steps : of weights and scores, one batch each;  batch_size : samples of a batch
    rate : by how much a step moves scores, which are 0 to 1, in root mean square, before momentum; smaller once
        gradients are smaller than the largest so far;  weight_rate : the weights' learning rate
    ridge : γ;  polarise : factor of the penalty Σ s(1 − s)
    """

    steps: int
    batch_size: int
    rate: float
    weight_rate: float
    ridge: float
    polarise: float


@dataclass(frozen=True)
class Choice:
    """Which weights can be kept, and how many of which.

    allowed : bool (p,);  keep : how many in all;  quota : how many in every layer, None where that is open
    """

    allowed: BoolArray
    keep: int
    quota: Quota | None

    def mask(self, scores: FloatArray) -> BoolArray:
        """The mask of the largest scores; of equal ones the first. bool (p,)"""
        worth = np.where(self.allowed, scores, -np.inf)
        return top_mask(worth, self.keep) if self.quota is None else self.quota.top_mask(worth)


def learned(
    problem: NetworkProblem, network: "PrunableNetwork", choice: Choice, how: ScoreSteps, rng: np.random.Generator
) -> tuple[BoolArray, FloatArray, list[float]]:
    """Learn scores from the network's present weights, whose sizes are the first scores.

    Parameters that are not prunable stay, and batch norms use their running statistics.

    Returns
    -------
    bool (p,), the mask;  float64 (p,), the weights, zero off it;  the mean loss of every step's batch

    Raises
    ------
    PrunebenchError   the loss is no longer finite
    """
    import torch

    from prunebench.networks.network import evaluation_mode

    samples, weights = problem.calibration(), network.weights()
    scores = np.abs(weights) / (float(np.abs(weights).max(initial=0.0)) or 1.0)
    speed, pull, largest = np.zeros_like(weights), np.zeros_like(weights), 0.0
    device = next(network.model.parameters()).device
    size, losses = min(how.batch_size, len(samples)), []
    order, place = rng.permutation(len(samples)), 0
    with evaluation_mode(network.model), torch.enable_grad():
        for _ in range(how.steps):
            if place + size > order.size:
                order, place = rng.permutation(len(samples)), 0
            positions, place = order[place : place + size], place + size
            mask = choice.mask(scores)
            network.assign(np.where(mask, weights, 0.0))
            inputs, targets = samples.batch(positions)
            loss = problem.loss(network.model(inputs.to(device)), targets.to(device)).mean()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise PrunebenchError(
                    f"the loss stopped being finite while scores were learned; use a weight_rate below "
                    f"{how.weight_rate:g}"
                )
            gradient = _gradient(network, loss)
            of_mask = gradient * weights - gradient**2 / how.ridge + how.polarise * (1.0 - 2.0 * scores)
            speed = MOMENTUM * speed + np.where(mask, gradient + how.ridge * weights, 0.0)
            weights = weights - how.weight_rate * speed
            pull = MOMENTUM * pull + of_mask
            # one scale for all: entries keep their sizes, so that scores without effect stay where they are
            largest = max(largest, float(np.sqrt(np.mean(of_mask**2))))
            scores = np.clip(scores - how.rate * pull / (largest or 1.0), 0.0, 1.0)
    mask = choice.mask(scores)
    return mask, np.where(mask, weights, 0.0), losses


def _gradient(network: "PrunableNetwork", loss: object) -> FloatArray:
    """The gradient of a loss by all prunable weights, at the values that the model has. float64 (p,)"""
    import torch

    parameters = [network.model.get_parameter(layer.name) for layer in network.layers]
    assert isinstance(loss, torch.Tensor)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [
        np.zeros(held.numel()) if part is None else part.double().reshape(-1).cpu().numpy()
        for held, part in zip(parameters, found, strict=True)
    ]
    return np.concatenate(parts)
