"""Batch-norm statistics that follow the weights: a pruned network's are not those it was trained with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples
from prunebench.networks.network import evaluation_mode
from prunebench.networks.samples import fetched

_TINY = 1e-6
"""Variance below which a channel counts as dead: its statistics then stay as they are."""

BATCH = 250
"""Samples that statistics are averaged over at a time: enough that a batch's mean says something."""

Statistics = tuple[torch.Tensor, torch.Tensor]
"""A batch norm's running mean and variance, (channels,) each."""


class BatchNormTracker:
    """Keeps batch-norm statistics in step with changing weights.

    The statistics that came with the network belong to its training, augmentation included, and
    are not those of plain samples. So what is re-estimated is how far the statistics moved since
    the tracker was made: means are shifted and variances scaled by that, and with the weights
    unchanged the network is exactly what it was.

    Parameters
    ----------
    model : its weights now are the reference
    samples, positions : over which averages are taken
    """

    def __init__(self, model: torch.nn.Module, samples: Samples, positions: IndexArray) -> None:
        self._model, self._samples, self._positions = model, samples, positions
        self._given = _statistics(model)
        reestimate_batch_norm(model, samples, positions)
        self._reference = _statistics(model)
        self._write(self._given)

    def update(self) -> None:
        """Bring the statistics up to date with the model's weights."""
        reestimate_batch_norm(self._model, self._samples, self._positions)
        moved = []
        for given, then, now in zip(self._given, self._reference, _statistics(self._model), strict=True):
            mean = given[0] + (now[0] - then[0])
            variance = given[1] * (now[1] + _TINY) / (then[1] + _TINY)
            moved.append((mean, variance))
        self._write(moved)

    def _write(self, statistics: Sequence[Statistics]) -> None:
        with torch.no_grad():
            for norm, (mean, variance) in zip(batch_norms(self._model), statistics, strict=True):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)


def _statistics(model: torch.nn.Module) -> list[Statistics]:
    out = []
    for norm in batch_norms(model):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        out.append((norm.running_mean.clone(), norm.running_var.clone()))
    return out


def reestimate_batch_norm(
    model: torch.nn.Module, samples: Samples, positions: IndexArray, *, batch_size: int = BATCH
) -> None:
    """Replace the running statistics of every batch norm by averages over the samples, in training mode.

    The other modules stay in evaluation mode (no dropout). The average over batches weighs each the
    same, so the last, smaller batch is left out where there is another.
    """
    norms = batch_norms(model)
    if not norms:
        return
    if positions.size < 2:
        raise InvalidInput("batch-norm statistics need at least 2 samples; give more")
    device = next(model.parameters()).device
    with evaluation_mode(model), averaging(norms), torch.no_grad():
        for start in range(0, positions.size, batch_size):
            part = positions[start : start + batch_size]
            if part.size == batch_size or start == 0:
                model(fetched(samples, part, device)[0])


@contextmanager
def averaging(norms: list[torch.nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Batch norms that forget their statistics and average those of all batches that follow."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def batch_norms(model: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    """The model's batch norms that keep running statistics, in order."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module.track_running_stats]
