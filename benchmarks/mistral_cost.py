"""What iCBS costs on Mistral-7B on one 80 GB GPU: passes, tokens, memory, seconds a block; the model checked small.

    python benchmarks/mistral_cost.py [--context 4096] [--samples 128] [--block-size 512] [--blocks 3000]

The first table is a calculation from the architecture. The second one runs the same code on a small
random Mistral on the CPU and shows that time grows linearly with samples and with blocks, and what
of it is per pass and what per block. Sources: Rosenberg et al., arXiv 2411.17796 (settings).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from prunebench.coordinators.icbs.host_memory import icbs_host_bytes
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.core.arrays import IndexArray
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.data.language_samples import TokenSamples
from prunebench.networks.language import sequence_loss
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.torchvision_build import make_importable
from runner import Benchmark, Note, Row

GIB = 2**30


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder-only transformer with gated MLPs and grouped-query attention."""

    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Shapes of a layer's linear weights."""
        h, i, k = self.hidden, self.inner, self.keys
        return [(h, h), (k, h), (k, h), (h, h), (i, h), (i, h), (h, i)]

    @property
    def prunable(self) -> int:
        return self.layers * sum(o * i for o, i in self.matrices)

    @property
    def total(self) -> int:
        return self.prunable + 2 * self.vocabulary * self.hidden + (2 * self.layers + 1) * self.hidden


MISTRAL = Decoder(layers=32, hidden=4096, inner=14336, keys=1024, vocabulary=32000)


def calculation(sizes: Decoder, context: int, samples: int, block: int, blocks: int, flops: float) -> Iterator[Row]:
    """Passes, tokens, operations, memory and seconds."""
    per_pass = 7 * sizes.layers
    passes = -(-blocks // per_pass)
    tokens = passes * samples * context
    head = sizes.vocabulary * sizes.hidden
    attention = 2 * 2 * sizes.layers * sizes.hidden * context / 2  # causal: half of the square
    forward = 2 * (sizes.prunable + head) + attention
    # Weights are not differentiated: backward costs one forward, and recomputing another.
    operations = 3 * forward
    seconds = passes * samples * context * operations / flops
    gathers = per_pass * block * samples * context * 3
    kept = 2 * context * sizes.hidden * sizes.layers
    inside = 2 * 2 * context * (6 * sizes.hidden + 2 * sizes.keys + 4 * sizes.inner)
    logits = 4 * 4 * context * sizes.vocabulary
    device = {
        "weights, 16 bit": 2 * sizes.total,
        "layer inputs, recomputed inside": kept,
        "one layer's activations": inside,
        "logits in float32 and their gradients": logits,
        "rows of a batch": 2 * 4 * per_pass * block,
    }
    largest = max(o * i for o, i in sizes.matrices)
    held = icbs_host_bytes(sizes.prunable, largest, ICBSOptions(steps=passes, block_size=block))
    host = {"factor of a pass": 4 * samples * per_pass * block, **held}
    facts = {
        "prunable weights": sizes.prunable,
        "weights in all": sizes.total,
        "blocks a pass, one in every layer": per_pass,
        "weights a block": block,
        "blocks in all": blocks,
        "passes": passes,
        "sequences a pass": samples,
        "tokens a sequence": context,
        "tokens": tokens,
        "times fewer than with one block a pass of 16 sequences": 16 * context * blocks / tokens,
        "G operations a token (forward, recomputation, backward without weights)": operations / 1e9,
        "TFLOP/s": flops / 1e12,
        "seconds a pass": seconds / passes,
        "G products gathered beside it": gathers / 1e9,
        "seconds a block": seconds / passes / per_pass,
        "minutes for all blocks": seconds / 60,
        "bytes a weight on the host, without network and factor": sum(held.values()) / sizes.prunable,
    }
    for name, value in facts.items():
        yield Row("Mistral-7B, calculated", {"value": value, "what": name})
    for title, parts in (("GPU", device), ("host", host)):
        for name, size in {**parts, "together": sum(parts.values())}.items():
            yield Row(f"{title} memory, calculated", {"GiB": size / GIB, "what": name})


def reduced(contexts: tuple[int, ...], samples: tuple[int, ...], blocks: tuple[int, ...]) -> Iterator[Row | Note]:
    """Time looks of a small random Mistral, and fit seconds = a + b·samples + c·samples·blocks."""
    make_importable()
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=128, intermediate_size=448, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=max(contexts), sliding_window=None,
    )  # fmt: skip
    model: torch.nn.Module = MistralForCausalLM(config)
    model.eval()
    names = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    rng = np.random.default_rng(0)
    title = f"a small random Mistral, measured ({torch.get_num_threads()} threads, float32)"
    for context in contexts:
        data = TokenSamples([rng.integers(0, 512, context) for _ in range(max(samples))], batch_size=8)
        network = PrunableNetwork(model, names)
        landscape = NetworkLandscape(_Problem(data), network)  # type: ignore[arg-type]  # all that a landscape asks for
        terms, seconds = [], []
        for count in samples:
            for many in blocks:
                chosen = _blocks(network, many, 64, rng)
                terms.append((1.0, count, count * many))
                seconds.append(min(_look(landscape, count, chosen) for _ in range(3)))
        fit, *_ = np.linalg.lstsq(np.array(terms), np.array(seconds), rcond=None)
        for term, measured in zip(terms, seconds, strict=True):
            row = {"context": context, "samples": term[1], "blocks": term[2] // term[1], "seconds": measured}
            yield Row(title, {**row, "fit": float(np.dot(fit, term))})
        held = 1.0 - np.var(np.array(seconds) - np.array(terms) @ fit) / np.var(seconds)
        yield Note(f"context {context}: {1e3 * fit[1]:.2f} ms a sample, {1e3 * fit[2]:.3f} more a block, R² {held:.4f}")


class _Problem:
    """What a landscape needs of a problem."""

    def __init__(self, data: TokenSamples) -> None:
        self._data = data

    def calibration(self) -> TokenSamples:
        return self._data

    def loss(self, outputs: Any, targets: Any) -> Any:
        return sequence_loss(outputs, targets)


def _blocks(network: PrunableNetwork, count: int, size: int, rng: np.random.Generator) -> list[IndexArray]:
    layers = [network.layers[place % len(network.layers)] for place in range(count)]
    parts = [layer.stop - layer.start for layer in layers]
    return [layer.start + rng.choice(part, size, replace=False) for layer, part in zip(layers, parts, strict=True)]


def _look(landscape: NetworkLandscape, samples: int, blocks: list[IndexArray]) -> float:
    clock = perf_counter()
    view = landscape.look(np.arange(samples))
    view.factors(blocks)
    return perf_counter() - clock


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=3000)
    parser.add_argument("--tflops", type=float, default=300.0, help="sustained, 16 bit, of the GPU")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 128])


def rows(chosen: argparse.Namespace) -> Iterator[Row | Note]:
    flops = chosen.tflops * 1e12
    yield from calculation(MISTRAL, chosen.context, chosen.samples, chosen.block_size, chosen.blocks, flops)
    yield from reduced(tuple(chosen.contexts), (8, 16, 32), (1, 7, 14, 28))


BENCHMARK = Benchmark(__file__, __doc__, rows, arguments, {"contexts": [64]})

if __name__ == "__main__":
    BENCHMARK.main()
