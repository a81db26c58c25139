"""What iCBS costs on Mistral-7B on one 80 GB GPU: passes, tokens, memory, seconds a block; the model checked small.

    python benchmarks/mistral_cost.py [--context 4096] [--samples 128] [--block-size 512] [--blocks 3000]

The first table is a calculation from the architecture. The second one runs the same code on a small
random Mistral on the CPU and shows that time grows linearly with samples and with blocks, and what
of it is per pass and what per block. Sources: Rosenberg et al., arXiv 2411.17796 (settings).
"""

import argparse
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from prunebench.coordinators.icbs.host_memory import icbs_host_bytes
from prunebench.coordinators.icbs.options import ICBSOptions
from prunebench.curvature.landscape import NetworkLandscape
from prunebench.data.language_samples import TokenSamples
from prunebench.networks.language import sequence_loss
from prunebench.networks.network import PrunableNetwork
from prunebench.networks.torchvision_build import make_importable

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


def calculation(sizes: Decoder, context: int, samples: int, block: int, blocks: int, flops: float) -> None:
    """Print passes, tokens, operations, memory and seconds."""
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
    print(f"prunable weights            {sizes.prunable:,} in {per_pass} layers; {sizes.total:,} in all")
    print(f"blocks a pass               {per_pass} (one in every layer), {block} weights each")
    print(f"passes for {blocks} blocks      {passes}, {samples} sequences of {context} tokens each")
    print(f"tokens                      {tokens:,} ({16 * context * blocks / tokens:.1f} times fewer than one block a "
          "pass of 16 sequences)")  # fmt: skip
    print(f"operations a token          {operations / 1e9:.1f} G (forward, recomputation, backward without weights)")
    print(f"seconds a pass              {seconds / passes:.0f} at {flops / 1e12:.0f} TFLOP/s, gathering "
          f"{gathers / 1e9:.0f} G products beside it")  # fmt: skip
    print(f"seconds a block             {seconds / passes / per_pass:.2f}; all blocks {seconds / 60:.0f} minutes")
    for title, parts in (("GPU", device), ("host", host)):
        print(f"{title} memory, GiB            {sum(parts.values()) / GIB:.1f}")
        for name, size in parts.items():
            print(f"    {name:<48} {size / GIB:8.2f}")
    print(
        f"bytes a weight on the host  {sum(held.values()) / sizes.prunable:.1f}, the network and the factor not counted"
    )


def reduced(contexts: tuple[int, ...], samples: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    """Time looks of a small random Mistral, and fit seconds = a + b·samples + c·samples·blocks."""
    make_importable()
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=128, intermediate_size=448, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=max(contexts), sliding_window=None,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    names = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    rng = np.random.default_rng(0)
    print(f"{'context':>8} {'samples':>8} {'blocks':>7} {'seconds':>9} {'fit':>9}")
    for context in contexts:
        most = max(samples)
        data = TokenSamples([rng.integers(0, 512, context) for _ in range(most)], batch_size=8)
        network = PrunableNetwork(model, names)
        landscape = NetworkLandscape(_Problem(data), network)
        rows, seconds = [], []
        for count in samples:
            for many in blocks:
                chosen = _blocks(network, many, 64, rng)
                best = min(_look(landscape, count, chosen) for _ in range(3))
                rows.append((1.0, count, count * many))
                seconds.append(best)
        fit, *_ = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)
        for row, measured in zip(rows, seconds, strict=True):
            print(f"{context:>8} {row[1]:>8} {row[2] // row[1]:>7} {measured:>9.3f} {np.dot(fit, row):>9.3f}")
        held = 1.0 - np.var(np.array(seconds) - np.array(rows) @ fit) / np.var(seconds)
        print(f"context {context}: {1e3 * fit[1]:.2f} ms a sample, {1e3 * fit[2]:.3f} more a block, R² {held:.4f}")


class _Problem:
    """What a landscape needs of a problem."""

    def __init__(self, data: TokenSamples) -> None:
        self._data = data

    def calibration(self) -> TokenSamples:
        return self._data

    def loss(self, outputs, targets):
        return sequence_loss(outputs, targets)


def _blocks(network: PrunableNetwork, count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    layers = [network.layers[place % len(network.layers)] for place in range(count)]
    parts = [layer.stop - layer.start for layer in layers]
    return [layer.start + rng.choice(part, size, replace=False) for layer, part in zip(layers, parts, strict=True)]


def _look(landscape: NetworkLandscape, samples: int, blocks: list[np.ndarray]) -> float:
    clock = perf_counter()
    view = landscape.look(np.arange(samples))
    view.factors(blocks)
    return perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=3000)
    parser.add_argument("--tflops", type=float, default=300.0, help="sustained, 16 bit, of the GPU")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 128])
    arguments = parser.parse_args()
    print("Mistral-7B, calculated")
    calculation(MISTRAL, arguments.context, arguments.samples, arguments.block_size, arguments.blocks,
                arguments.tflops * 1e12)  # fmt: skip
    print(f"\nA small random Mistral, measured ({torch.get_num_threads()} threads, float32)")
    reduced(tuple(arguments.contexts), (8, 16, 32), (1, 7, 14, 28))


if __name__ == "__main__":
    main()
