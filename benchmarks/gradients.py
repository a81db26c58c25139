"""Per-sample gradients against one batch's forward and backward pass, and against writing as large an array.

    python benchmarks/gradients.py [--samples 1000 200 200] [--repeats 5]

Random networks of the shapes of MLPNet, the garment classifier and ResNet20, so no data are needed. CPU seconds, the
median of the repeats, both sides in turn: all rows into a new array; the mean gradient of the same samples, which is
one number a weight and not one a weight and sample; and filling a new array of the rows' size with a number, which no
way of computing them can beat. The difference is that to one backward pass a sample, for ten samples.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.curvature.gradients import gradient_memory, sample_gradients
from prunebench.networks.classification import cross_entropy
from prunebench.networks.convolutional import cifar_resnet, prunable_weights
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.networks.training import dense_network
from random_networks import initialise
from runner import Benchmark, Row

Rows = npt.NDArray[np.float32]
CHECKED = 10
"""Samples whose gradients are also computed one at a time."""


def chain(*sizes: int) -> tuple[torch.nn.Module, tuple[int, ...]]:
    names = [f"fc{number + 1}" for number in range(len(sizes) - 1)]
    return dense_network(sizes, names, bias=False), (sizes[0],)


NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, tuple[int, ...]]]] = {
    "784-40-20-10": lambda: chain(784, 40, 20, 10),
    "784-512-512-10": lambda: chain(784, 512, 512, 10),
    "ResNet20": lambda: (cifar_resnet(3, "pad", "fc"), (3, 32, 32)),
}


def one_by_one(network: PrunableNetwork, samples: TensorSamples, positions: IndexArray) -> Rows:
    rows = []
    for position in positions:
        mean_gradient(network, samples, np.array([position]))
        gradients = [parameter.grad for parameter in network.parameters]
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None]).numpy())
    return np.stack(rows)


def mean_gradient(network: PrunableNetwork, samples: TensorSamples, positions: IndexArray) -> None:
    """One forward and backward pass of a batch, as in training."""
    for parameter in network.model.parameters():
        parameter.grad = None
    inputs, targets = samples.batch(positions)
    torch.nn.functional.cross_entropy(network.model(inputs), targets).backward()  # type: ignore[no-untyped-call]  # torch


def build(name: str, samples: int) -> tuple[PrunableNetwork, TensorSamples]:
    generator = torch.Generator().manual_seed(0)
    model, shape = NETWORKS[name]()
    data = TensorSamples(torch.randn((samples, *shape), generator=generator), torch.arange(samples) % 10)
    initialise(model, data.inputs[: min(samples, 64)], generator)
    return PrunableNetwork(model, prunable_weights(model)), data


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, nargs=3, default=[1000, 200, 200], help="rows of each network")
    parser.add_argument("--repeats", type=int, default=5)


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    for name, count in zip(NETWORKS, chosen.samples, strict=True):
        network, data = build(name, count)
        positions = np.arange(count)
        first = positions[:CHECKED]
        mine, theirs = sample_gradients(network, cross_entropy, data, first), one_by_one(network, data, first)
        difference = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
        seconds: dict[str, list[float]] = {"rows": [], "batch": [], "write": []}
        for _ in range(chosen.repeats):
            for what, run in (
                ("rows", lambda: sample_gradients(network, cross_entropy, data, positions)),  # noqa: B023  # called at once
                ("batch", lambda: mean_gradient(network, data, positions)),  # noqa: B023  # called at once
                ("write", lambda: np.empty((count, network.total), dtype=np.float32).fill(1.0)),  # noqa: B023  # called at once
            ):
                begin = time.process_time()
                run()
                seconds[what].append(time.process_time() - begin)
        ours, batch, write = (statistics.median(seconds[what]) for what in ("rows", "batch", "write"))
        yield Row(f"{torch.get_num_threads()} threads, float32; CPU s", {
            "network": name, "weights": network.total, "samples": count,
            "MiB": gradient_memory(network, cross_entropy, data, count).total / 2**20, "difference": difference,
            "rows s": ours, "batch s": batch, "times batch": ours / batch, "write s": write,
            "times write": ours / write,
        })  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"samples": [100, 20, 20], "repeats": 3})

if __name__ == "__main__":
    BENCHMARK.main()
