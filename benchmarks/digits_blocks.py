"""Blocks out of an MLP 64-32-10 on scikit-learn's digits: three families, from easy to hard.

t  trained for 60 epochs, the mean gradient kept;  e  the same after two epochs;
z  the trained one without the gradient: close to a subset-sum problem, the hard family.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from prunebench import BlockProblem, QuadraticForm
from prunebench.core.arrays import FloatArray, IndexArray
from prunebench.core.block import Mode

SAMPLES = 128
FAMILIES = ("t", "e", "z")
SEED = 20240717
FIRST = 64 * 32
"""Weights of the first layer, which come before those of the second."""


@lru_cache
def _network(epochs: int) -> tuple[FloatArray, FloatArray]:
    """Weights (2368,) of both layers and their per-sample gradients (SAMPLES, 2368) after `epochs`."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, targets = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(SEED)
    train = torch.randperm(len(targets))[:1437]
    first, second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.split(train[torch.randperm(len(train))], 32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    model.double()
    matrices = [first.weight, second.weight]
    rows = []
    for sample in train[:SAMPLES]:
        loss = torch.nn.functional.cross_entropy(model(inputs[sample].double()), targets[sample])
        rows.append(np.concatenate([part.numpy().ravel() for part in torch.autograd.grad(loss, matrices)]))
    return np.concatenate([matrix.detach().numpy().ravel() for matrix in matrices]), np.array(rows)


def _problem(family: str, chosen: IndexArray, keep: int, seed: int, mode: Mode) -> BlockProblem:
    weights, gradients = _network(2 if family == "e" else 60)
    factor = gradients[:, chosen] / np.sqrt(SAMPLES)
    form = QuadraticForm(
        factor=factor,
        ridge=0.01 * float(np.mean(np.sum(factor**2, axis=0))),
        linear=None if family == "z" else gradients[:, chosen].mean(axis=0),
        centre=weights[chosen],
    )
    return BlockProblem(form, weights[chosen], keep, mode, problem=f"{family}-p{chosen.size}-k{keep}-s{seed}")


def any_layer_block(family: str, p: int, keep: int, seed: int, mode: Mode = "select") -> BlockProblem:
    """Random weights of one layer; the layers alternate with the seed.

    Only weights that a calibration sample moves: one on a pixel that is always white decides nothing.
    """
    gradients = _network(2 if family == "e" else 60)[1]
    layer = (np.arange(gradients.shape[1]) >= FIRST).astype(np.int64)
    moved = np.abs(gradients).max(axis=0) > 0.0
    rng = np.random.default_rng([SEED, p, seed])
    chosen = np.sort(rng.choice(np.flatnonzero(moved & (layer == seed % 2)), p, replace=False))
    return _problem(family, chosen, keep, seed, mode)


def first_layer_block(family: str, size: int, keep: int, seed: int) -> BlockProblem:
    """Weights of the first layer; even seeds take whole fan-ins, odd seeds random weights."""
    gradients = _network(2 if family == "e" else 60)[1][:, :FIRST]
    rng = np.random.default_rng([SEED, size, seed])
    if seed % 2 == 0:
        # a hidden unit that no sample excites makes an empty block
        curvature = np.sum(gradients**2, axis=0).reshape(-1, 64).sum(axis=1)
        starts = np.flatnonzero(curvature > 0.05 * np.median(curvature[curvature > 0.0]))
        start = 64 * int(rng.choice(starts[starts <= (FIRST - size) // 64]))
        chosen = np.arange(start, start + size)
    else:
        chosen = np.sort(rng.choice(FIRST, size, replace=False))
    return _problem(family, chosen, keep, seed, "select")


def first_layer_blocks(
    sizes: Iterable[int], families: Iterable[str] = FAMILIES, seeds: Iterable[int] = range(3)
) -> Iterator[BlockProblem]:
    """Every block of a table: keep p/5 and p/2."""
    for family in families:
        for size in sizes:
            for keep in (size // 5, size // 2):
                for seed in seeds:
                    yield first_layer_block(family, size, keep, seed)
