"""What sites tell each other while a network is pruned: statistics of batch norms, and their largest gradients.

Qiu et al.: FedTiny, ICDCS 2023 (arXiv 2212.01977): candidates with batch norms re-estimated at the sites, of which the
one of lowest loss is taken; and weights that come back where the gradients of all sites together are largest. Its
schedule of rounds, and the training in between, are not taken over: `coordinators.rounds` has its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prunebench.coordinators.rounds.regrowth import exchanged
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once
from prunebench.recovery.batch_norm import BATCH, batch_norms, reestimate_batch_norm

Statistics = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""A batch norm's running mean and variance, (channels,) each."""


@dataclass(frozen=True, eq=False)
class NormStatistics:
    """Means and variances of all batch norms of a masked network over one site's samples, in the model's order.

    samples : over so many
    """

    norms: tuple[Statistics, ...]
    samples: int


@dataclass(frozen=True)
class SiteLoss:
    """The summed loss of a masked network over one site's held-out samples, and how many they are."""

    total: float
    samples: int


@dataclass(frozen=True, eq=False)
class TopGradients:
    """Pruned weights with the largest gradients at one site.

    indices : int64 (k,);  sums : float64 (k,), gradients summed over the site's samples;  samples : how many
    """

    indices: IndexArray
    sums: FloatArray
    samples: int


def norms_at_site(
    problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, positions: IndexArray
) -> NormStatistics:
    """What the batch norms of a candidate see at one site. The network is left as it was.

    mask : bool (p,), of the network's present weights;  positions : of calibration samples, int64 (s,)

    Raises
    ------
    InvalidInput   fewer than two samples
    """
    before = network.state()
    try:
        network.assign(np.where(mask, network.weights(), 0.0))
        reestimate_batch_norm(network.model, problem.calibration(), positions)
        found = tuple((_array(norm.running_mean), _array(norm.running_var)) for norm in batch_norms(network.model))
    finally:
        network.load_state(before)
    # whole batches are what statistics are averaged over
    counted = positions.size if positions.size < BATCH else positions.size // BATCH * BATCH
    return NormStatistics(found, counted)


def summed_norms(sites: Sequence[NormStatistics]) -> NormStatistics:
    """Those of all sites, each counting by its samples.

    Raises
    ------
    InvalidInput   no site, or sites with different networks
    """
    if not sites or len({len(site.norms) for site in sites}) > 1:
        raise InvalidInput("statistics of batch norms are of different networks, or of no site; give those of one")
    total = sum(site.samples for site in sites)
    norms = tuple(
        tuple(np.sum([site.samples * site.norms[number][part] for site in sites], axis=0) / total for part in range(2))
        for number in range(len(sites[0].norms))
    )
    return NormStatistics(tuple((mean, variance) for mean, variance in norms), total)


def loss_at_site(
    problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, norms: NormStatistics, positions: IndexArray
) -> SiteLoss:
    """The loss of a candidate with these statistics, over one site's held-out samples. The network is left as it was.

    Raises
    ------
    InvalidInput   no samples, or statistics of another network
    """
    held = batch_norms(network.model)
    if not positions.size or len(held) != len(norms.norms):
        raise InvalidInput("a site without held-out samples, or statistics of another network, gives no loss")
    before, samples, total = network.state(), problem.calibration(), 0.0
    try:
        network.assign(np.where(mask, network.weights(), 0.0))
        with torch.no_grad(), evaluation_mode(network.model):
            for norm, (mean, variance) in zip(held, norms.norms, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(torch.from_numpy(mean))
                norm.running_var.copy_(torch.from_numpy(variance))
            step = at_once(samples, BATCH)
            for start in range(0, positions.size, step):
                inputs, targets = samples.batch(positions[start : start + step])
                total += float(problem.loss(network.model(inputs), targets).sum(dtype=torch.float64))
    finally:
        network.load_state(before)
    return SiteLoss(total, int(positions.size))


def best_candidate(losses: Sequence[Sequence[SiteLoss]]) -> tuple[int, FloatArray]:
    """The candidate of lowest mean loss over all sites, and the mean loss of each, float64 (candidates,).

    losses : of every candidate, at all sites

    Raises
    ------
    InvalidInput   no candidate, or candidates that were not judged by the same samples
    """
    counts = {tuple(site.samples for site in candidate) for candidate in losses}
    if len(counts) != 1 or not next(iter(counts)):
        raise InvalidInput("candidates are compared by the same held-out samples of all sites; judge all of them alike")
    means = np.array([sum(site.total for site in candidate) for candidate in losses]) / sum(next(iter(counts)))
    return int(np.argmin(means)), means


def top_gradients(
    problem: NetworkProblem, network: PrunableNetwork, mask: BoolArray, positions: IndexArray, part: float
) -> TopGradients:
    """The pruned weights of each layer with the largest gradients over one site's samples, at the present weights.

    part : of each layer's pruned weights that is handed on, above 0 and at most 1

    Raises
    ------
    InvalidInput   no samples, or a part that is none
    """
    from prunebench.curvature.gradients import sample_gradients

    if not 0.0 < part <= 1.0 or not positions.size:
        raise InvalidInput(
            f"part is {part} of {positions.size} samples; choose a part above 0 and at most 1, and samples"
        )
    mean = sample_gradients(network, problem.loss, problem.calibration(), positions, batch_size=int(positions.size))[
        0
    ].astype(np.float64)
    chosen = []
    for layer in network.layers:
        free = layer.start + np.flatnonzero(~mask[layer.start : layer.stop])
        count = int(np.ceil(part * free.size))
        chosen.append(free[np.argsort(-np.abs(mean[free]), kind="stable")[:count]])
    indices = np.sort(np.concatenate(chosen))
    return TopGradients(indices, mean[indices] * positions.size, int(positions.size))


def regrown(
    mask: BoolArray, weights: FloatArray, layers: Sequence[Any], sites: Sequence[TopGradients], part: float
) -> BoolArray:
    """The mask with `part` of every layer's kept weights exchanged for those of the largest summed gradients. (p,)

    A gradient that a site did not hand on counts 0 there. The order of sites makes no difference.

    Raises
    ------
    InvalidInput   no site
    """
    if not sites:
        raise InvalidInput("there are no sites' gradients to sum; give those of one at least")
    ordered = sorted(sites, key=lambda site: (site.samples, site.indices.tobytes(), site.sums.tobytes()))
    total = np.zeros(mask.size)
    for site in ordered:
        total[site.indices] += site.sums
    return exchanged(mask, weights, np.abs(total), layers, part)


def _array(value: torch.Tensor | None) -> npt.NDArray[Any]:
    assert value is not None
    return np.array(value.detach().cpu().numpy())
