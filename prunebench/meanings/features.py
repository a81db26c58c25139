"""What samples look like to a network, as one row of numbers each: the features that a subset should have the mean of.

gradient : the gradient of the sample's loss by the network's last prunable matrix. Mirzasoleiman, Bilmes, Leskovec:
    Coresets for Data-efficient Training of Machine Learning Models (CRAIG), ICML 2020; Killamsetty et al.: GRAD-MATCH,
    ICML 2021.
embedding : what that matrix is multiplied with, averaged over positions.
mmd : random Fourier features of it or of the inputs, so that the distance of the means is the maximum mean discrepancy
    of a Gaussian kernel. Rahimi, Recht: Random Features for Large-Scale Kernel Machines, NeurIPS 2007; Chen, Welling,
    Smola: Super-Samples from Kernel Herding, UAI 2010.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import NetworkProblem, Samples
from prunebench.curvature.gradients import sample_gradients
from prunebench.networks.network import PrunableNetwork, evaluation_mode
from prunebench.networks.samples import at_once, counted_positions

Kind = Literal["gradient", "mmd", "embedding"]
Space = Literal["embedding", "inputs"]

AT_ONCE = 500
"""Samples that go through the network at a time where they do not say how many."""

PAIRS = 1000
"""Pairs of samples whose median distance is the kernel's length."""


def features(
    problem: NetworkProblem, network: PrunableNetwork, kind: Kind, *, of: Space, dimensions: int, width: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """The features of all calibration samples. float32 (n, d), d at most `dimensions`.

    Parameters
    ----------
    network : at the values where samples are looked at; left as it is
    of : for mmd, whose distances count
    dimensions : features beyond so many are projected to that many by a Gaussian matrix
    width : for mmd, the kernel's length as a part of the median distance of two samples

    Raises
    ------
    InvalidInput   inputs that are no numbers with distances, or a matrix whose inputs cannot be seen
    """
    if kind == "gradient":
        return _gradients(problem, network, dimensions, rng)
    samples = problem.calibration()
    parts = _inputs(samples) if kind == "mmd" and of == "inputs" else _embeddings(samples, network)
    rows = np.concatenate(list(parts))
    if kind == "embedding":
        return _projected(rows, dimensions, rng)
    return fourier(rows, dimensions, width, rng)


def embeddings(problem: NetworkProblem, network: PrunableNetwork) -> npt.NDArray[np.float32]:
    """What the last prunable matrix is multiplied with, for every calibration sample. float32 (n, d)"""
    return np.concatenate(list(_embeddings(problem.calibration(), network)))


def fourier(
    rows: npt.NDArray[np.float32], dimensions: int, width: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Random Fourier features of a Gaussian kernel: their products are the kernel's values in expectation.

    rows : (n, d);  dimensions : even, or one fewer is made;  width : part of the median distance. -> float32 (n, D)
    """
    first, second = rng.integers(len(rows), size=(2, PAIRS))
    apart = np.linalg.norm(rows[first].astype(np.float64) - rows[second], axis=1)
    length = width * float(np.median(apart[apart > 0.0])) if (apart > 0.0).any() else 1.0
    half = max(1, dimensions // 2)
    directions = (rng.standard_normal((rows.shape[1], half)) / length).astype(np.float32)
    angles = rows @ directions
    out = np.empty((len(rows), 2 * half), dtype=np.float32)
    np.cos(angles, out=out[:, :half])
    np.sin(angles, out=out[:, half:])
    out /= np.float32(np.sqrt(half))
    return out


def labels_of(samples: Samples) -> IndexArray:
    """The class of every sample. int64 (n,)

    Raises
    ------
    InvalidInput   targets that are no classes
    """
    parts = []
    for positions in _steps(samples):
        targets = samples.batch(positions)[1]
        if not isinstance(targets, torch.Tensor) or targets.ndim != 1 or targets.is_floating_point():
            raise InvalidInput("targets are no classes, one whole number a sample; leave per_class out")
        parts.append(targets.cpu().numpy().astype(np.int64))
    return np.concatenate(parts)


def outputs_of(problem: NetworkProblem, model: torch.nn.Module) -> Iterator[tuple[torch.Tensor, Any]]:
    """What a model gives for all calibration samples, and their targets, some at a time."""
    samples, device = problem.calibration(), next(model.parameters()).device
    with evaluation_mode(model), torch.no_grad():
        for positions in _steps(samples):
            inputs, targets = samples.batch(positions)
            yield model(inputs.to(device)).cpu(), targets


def _steps(samples: Samples) -> Iterator[IndexArray]:
    step = at_once(samples, AT_ONCE)
    for start in range(0, len(samples), step):
        yield np.arange(start, min(start + step, len(samples)), dtype=np.int64)


def _gradients(
    problem: NetworkProblem, network: PrunableNetwork, dimensions: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    last, samples = PrunableNetwork(network.model, network.names[-1:]), problem.calibration()
    project = _projection(last.total, dimensions, rng)
    parts = []
    # whole steps of the gradients' own chunks, so that not all rows are there before they are projected
    for start in range(0, len(samples), 8 * AT_ONCE):
        positions = np.arange(start, min(start + 8 * AT_ONCE, len(samples)), dtype=np.int64)
        rows = sample_gradients(last, problem.loss, samples, positions)
        parts.append(rows if project is None else rows @ project)
    return np.concatenate(parts)


def _projection(size: int, dimensions: int, rng: np.random.Generator) -> npt.NDArray[np.float32] | None:
    """A Gaussian matrix (size, dimensions) that keeps lengths in expectation; None where there are no more."""
    if size <= dimensions:
        return None
    matrix: npt.NDArray[np.float32] = (rng.standard_normal((size, dimensions)) / np.sqrt(dimensions)).astype(np.float32)
    return matrix


def _projected(rows: npt.NDArray[np.float32], dimensions: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    project = _projection(rows.shape[1], dimensions, rng)
    return rows if project is None else rows @ project


def _inputs(samples: Samples) -> Iterator[npt.NDArray[np.float32]]:
    for positions in _steps(samples):
        inputs = samples.batch(positions)[0]
        if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
            raise InvalidInput("the inputs are no numbers with distances, such as pixels; choose of=embedding")
        yield inputs.flatten(1).cpu().numpy().astype(np.float32)


def _embeddings(samples: Samples, network: PrunableNetwork) -> Iterator[npt.NDArray[np.float32]]:
    name = network.names[-1]
    module = network.model.get_submodule(name.rpartition(".")[0])
    seen: list[torch.Tensor] = []

    def note(_module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        seen[:] = [value for value in given if isinstance(value, torch.Tensor)][:1]

    convolution = isinstance(module, torch.nn.modules.conv._ConvNd)
    device = next(network.model.parameters()).device
    hook = module.register_forward_pre_hook(note)
    try:
        with evaluation_mode(network.model), torch.no_grad():
            for positions in _steps(samples):
                seen.clear()
                inputs, targets = samples.batch(positions)
                network.model(inputs.to(device))
                if not seen or len(seen[0]) != positions.size:
                    raise InvalidInput(
                        f"what {name} is multiplied with cannot be seen, sample by sample; choose other features, or "
                        "prune other matrices last (--option exclude=PATTERN)"
                    )
                yield _averaged(seen[0], counted_positions(samples, targets), convolution)
    finally:
        hook.remove()


def _averaged(values: torch.Tensor, counted: torch.Tensor | None, convolution: bool) -> npt.NDArray[np.float32]:
    """The mean over positions: of an image, or of a sequence's that are no padding. -> float32 (s, d)"""
    values = values.float().cpu()
    if convolution:
        return np.asarray(values.flatten(2).mean(dim=2).numpy())
    if values.ndim == 2:
        return np.asarray(values.numpy())
    if counted is None or counted.shape != values.shape[:2] or values.ndim != 3:
        return np.asarray(values.flatten(1, -2).mean(dim=1).numpy())
    held = counted.to(values.dtype).unsqueeze(2)
    return np.asarray(((values * held).sum(dim=1) / held.sum(dim=1).clamp(min=1.0)).numpy())
