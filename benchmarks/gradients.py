"""Per-sample gradients: chunk by chunk into one array against one backward pass a sample, in the same run.

    python benchmarks/gradients.py [--samples 1000] [--repeats 3]

Random networks of the sizes of MLPNet and the garment classifier, so no data are needed. The best
of the repeats counts; the last column is how many times faster the chunks are.
"""

import argparse
from time import perf_counter

import numpy as np
import torch

from prunebench.curvature.gradients import gradient_memory, sample_gradients
from prunebench.networks.classification import cross_entropy
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.networks.training import dense_network

NETWORKS = {"784-40-20-10": (784, 40, 20, 10), "784-512-512-10": (784, 512, 512, 10)}


def straightforward(network, samples, positions):
    rows = []
    for position in positions:
        network.model.zero_grad()
        inputs, targets = samples.batch(np.array([position]))
        torch.nn.functional.cross_entropy(network.model(inputs), targets).backward()
        parts = [network.model.get_parameter(name).grad.reshape(-1) for name in network.names]
        rows.append(torch.cat(parts).numpy())
    return np.stack(rows)


def build(sizes, samples):
    generator = torch.Generator().manual_seed(0)
    names = [f"fc{i + 1}" for i in range(len(sizes) - 1)]
    model = dense_network(sizes, names, bias=False).eval()
    for parameter in model.parameters():
        torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    data = TensorSamples(torch.randn((samples, sizes[0]), generator=generator), torch.arange(samples) % sizes[-1])
    return PrunableNetwork(model, [f"{name}.weight" for name in names]), data


def best_of(repeats, work):
    seconds, result = float("inf"), None
    for _ in range(repeats):
        result = None
        start = perf_counter()
        result = work()
        seconds = min(seconds, perf_counter() - start)
    return seconds, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000, help="calibration samples (a tenth for the large network)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the fastest counts")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print(
        f"{'network':<16}{'weights':>9}{'samples':>9}{'MiB':>7}{'difference':>12}{'loop s':>9}{'ours s':>9}{'ratio':>7}"
    )
    for name, sizes in NETWORKS.items():
        count = arguments.samples if sizes[1] < 100 else max(1, arguments.samples // 10)
        network, data = build(sizes, count)
        positions = np.arange(count)
        ours, mine = best_of(
            arguments.repeats, lambda n=network, d=data, p=positions: sample_gradients(n, cross_entropy, d, p)
        )
        loop, theirs = best_of(arguments.repeats, lambda n=network, d=data, p=positions: straightforward(n, d, p))
        memory = gradient_memory(network, cross_entropy, data, count).total / 2**20
        difference = np.abs(mine - theirs).max() / np.abs(theirs).max()
        print(
            f"{name:<16}{network.total:>9,}{count:>9,}{memory:>7.0f}{difference:>12.1e}"
            f"{loop:>9.3f}{ours:>9.3f}{loop / ours:>7.1f}"
        )


if __name__ == "__main__":
    main()
