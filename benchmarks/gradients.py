"""Per-sample gradients: chunk by chunk into one array against one backward pass a sample, in the same run.

    python benchmarks/gradients.py [--samples 1000] [--repeats 3]

Random networks of the sizes of MLPNet and the garment classifier, so no data are needed. The best
of the repeats counts; the last column is how many times faster the chunks are.
"""

import argparse
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from prunebench.core.arrays import IndexArray
from prunebench.curvature.gradients import gradient_memory, sample_gradients
from prunebench.networks.classification import cross_entropy
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.samples import TensorSamples
from prunebench.networks.training import dense_network
from runner import Benchmark, Row

Rows = npt.NDArray[np.float32]
NETWORKS = {"784-40-20-10": (784, 40, 20, 10), "784-512-512-10": (784, 512, 512, 10)}


def straightforward(network: PrunableNetwork, samples: TensorSamples, positions: IndexArray) -> Rows:
    rows = []
    for position in positions:
        network.model.zero_grad()
        inputs, targets = samples.batch(np.array([position]))
        torch.nn.functional.cross_entropy(network.model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in network.parameters]
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None]).numpy())
    return np.stack(rows)


def build(sizes: tuple[int, ...], samples: int) -> tuple[PrunableNetwork, TensorSamples]:
    generator = torch.Generator().manual_seed(0)
    names = [f"fc{i + 1}" for i in range(len(sizes) - 1)]
    model = dense_network(sizes, names, bias=False).eval()
    for parameter in model.parameters():
        torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    data = TensorSamples(torch.randn((samples, sizes[0]), generator=generator), torch.arange(samples) % sizes[-1])
    return PrunableNetwork(model, [f"{name}.weight" for name in names]), data


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=1000, help="calibration samples (a tenth for the large network)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the fastest counts")


def rows(chosen: argparse.Namespace) -> Iterator[Row]:
    for name, sizes in NETWORKS.items():
        count = chosen.samples if sizes[1] < 100 else max(1, chosen.samples // 10)
        network, data = build(sizes, count)
        positions = np.arange(count)
        seconds = {"ours": float("inf"), "loop": float("inf")}
        for _ in range(chosen.repeats):
            begin = perf_counter()
            mine = sample_gradients(network, cross_entropy, data, positions)
            middle = perf_counter()
            theirs = straightforward(network, data, positions)
            seconds["ours"] = min(seconds["ours"], middle - begin)
            seconds["loop"] = min(seconds["loop"], perf_counter() - middle)
        yield Row(f"{torch.get_num_threads()} threads, float32; seconds by the clock", {
            "network": name, "weights": network.total, "samples": count,
            "MiB": gradient_memory(network, cross_entropy, data, count).total / 2**20,
            "difference": float(np.abs(mine - theirs).max() / np.abs(theirs).max()),
            "loop s": seconds["loop"], "ours s": seconds["ours"], "ratio": seconds["loop"] / seconds["ours"],
        })  # fmt: skip


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"samples": 100, "repeats": 1})

if __name__ == "__main__":
    BENCHMARK.main()
