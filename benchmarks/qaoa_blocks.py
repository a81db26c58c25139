"""Small block problems out of the digits MLP 64-32-10, with their optimum by enumeration.

Families: t trained for 60 epochs and e for 2, with the mean gradient; z trained, without it. The weights
of a block are drawn at random from one layer (the layers alternate with the seed), among those that at
least one calibration sample moves: a weight on a pixel that is always white decides nothing.
"""

from functools import lru_cache

import numpy as np

from prunebench import BlockProblem, QuadraticForm

SAMPLES = 128
FAMILIES = ("t", "e", "z")
SEED = 20240717


@lru_cache
def _network(epochs):
    """Weights (2368,) and per-sample gradients (SAMPLES, 2368) of both layers, and which layer each is in."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, targets = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(SEED)
    train = torch.randperm(len(targets))[:1437]
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    model.double()
    rows = []
    for sample in train[:SAMPLES]:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[sample].double()), targets[sample]).backward()
        rows.append(np.concatenate([model[i].weight.grad.numpy().ravel() for i in (0, 2)]))
    weights = np.concatenate([model[i].weight.detach().numpy().ravel() for i in (0, 2)])
    return weights, np.array(rows), np.repeat([0, 1], [2048, 320])


def block(family, p, keep, seed, mode="select"):
    """One block problem; equal arguments give equal blocks."""
    weights, gradients, layer = _network(2 if family == "e" else 60)
    rng = np.random.default_rng([SEED, p, seed])
    moved = np.abs(gradients).max(axis=0) > 0.0
    chosen = np.sort(rng.choice(np.flatnonzero(moved & (layer == seed % 2)), p, replace=False))
    factor = gradients[:, chosen] / np.sqrt(SAMPLES)
    form = QuadraticForm(
        factor=factor,
        ridge=0.01 * float(np.mean(np.sum(factor**2, axis=0))),
        linear=None if family == "z" else gradients[:, chosen].mean(axis=0),
        centre=weights[chosen],
    )
    return BlockProblem(form, weights[chosen], keep, mode, problem=f"{family}-p{p}-k{keep}-s{seed}")
