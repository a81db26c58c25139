"""Block problems out of a small trained network: three families, from easy to hard.

t  an MLP 64-32-10 trained on the digits, the mean gradient kept;  e  the same after two epochs;
z  the trained one without the gradient: close to a subset-sum problem, the hard family.
"""

from functools import lru_cache

import numpy as np

from prunebench import BlockProblem, QuadraticForm

SAMPLES = 128
FAMILIES = ("t", "e", "z")
SEED = 20240717


@lru_cache
def _network(epochs):
    """Weights of the first layer (32, 64) and its per-sample gradients (SAMPLES, 2048) after `epochs`."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    targets = torch.tensor(digits.target)
    torch.manual_seed(SEED)
    order = torch.randperm(len(targets))
    train = order[:1437]
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        shuffled = train[torch.randperm(len(train))]
        for batch in shuffled.split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    model.double()
    wide = inputs.double()[train[:SAMPLES]]
    hidden = (model[0](wide)).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(model[2](model[1](hidden)), targets[train[:SAMPLES]], reduction="sum")
    (slope,) = torch.autograd.grad(loss, hidden)
    gradients = (slope[:, :, None] * wide[:, None, :]).reshape(SAMPLES, -1).numpy()
    return model[0].weight.detach().numpy().ravel().copy(), gradients


def _live_units(gradients):
    """The hidden units that any of the samples excites; a dead one makes an empty block."""
    curvature = np.sum(gradients**2, axis=0).reshape(-1, 64).sum(axis=1)
    return np.flatnonzero(curvature > 0.05 * np.median(curvature[curvature > 0.0]))


def block(family, size, keep, seed):
    """One select-mode block; even seeds take whole fan-ins, odd seeds random weights of the layer."""
    weights, gradients = _network(2 if family == "e" else 60)
    rng = np.random.default_rng([SEED, size, seed])
    if seed % 2 == 0:
        starts = _live_units(gradients)
        start = 64 * int(rng.choice(starts[starts <= (weights.size - size) // 64]))
        chosen = np.arange(start, start + size)
    else:
        chosen = np.sort(rng.choice(weights.size, size, replace=False))
    factor = gradients[:, chosen] / np.sqrt(SAMPLES)
    form = QuadraticForm(
        factor=factor,
        ridge=0.01 * float(np.mean(np.sum(factor**2, axis=0))),
        linear=None if family == "z" else gradients[:, chosen].mean(axis=0),
        centre=weights[chosen],
    )
    return BlockProblem(form, weights[chosen], keep, "select", problem=f"{family}-p{size}-k{keep}-s{seed}")


def blocks(sizes=(64,), families=FAMILIES, seeds=range(3)):
    """Every block of a table: keep p/5 and p/2."""
    for family in families:
        for size in sizes:
            for keep in (size // 5, size // 2):
                for seed in seeds:
                    yield block(family, size, keep, seed)
