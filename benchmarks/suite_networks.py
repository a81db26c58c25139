"""The networks that blocks of the suite are cut out of, and the arrays that are kept of them.

All are trained here, on data that may be passed on: digits and wine (UCI, CC BY 4.0), Fashion-MNIST (MIT),
Shakespeare's text (public domain). What is kept is rounded to whole numbers of a few bits, of which the Hessian is
exact in float64, and these numbers define the instances: who trains the networks again gets others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from prunebench.core.problem import data_directory
from prunebench.data.mnist import FASHION_MNIST, load_images

SEED = 20261130
OUTPUTS = 32
"""Outputs of a layer that a group block has to meet; all, where there are fewer."""
Arrays = dict[str, Any]

ORIGINS = {
    "digits": "Networks trained here on the handwritten digits of scikit-learn (Alpaydin and Kaynak, UCI machine "
    "learning repository, CC BY 4.0).",
    "wine": "A network trained here on the wine data of scikit-learn (Aeberhard and Forina, UCI machine learning "
    "repository, CC BY 4.0).",
    "fashion": "Networks trained here on Fashion-MNIST (Zalando, MIT).",
    "text": "A character transformer trained here on Shakespeare's plays (public domain).",
    "drawn": "Drawn from a seed, without data.",
}
"""What the instances come from, with the licence of the data."""


@dataclass
class Layer:
    """A linear layer while it is watched: its inputs and, after a backward pass, what comes back to its outputs."""

    module: Any
    inputs: list[Any] = field(default_factory=list)
    back: list[Any] = field(default_factory=list)

    def watch(self) -> None:
        """Note what goes through from now on."""
        self.module.register_forward_hook(lambda _m, given, _out: self.inputs.append(given[0].detach()))
        self.module.register_full_backward_hook(lambda _m, _in, out: self.back.append(out[0].detach()))


def train(model: Any, draw: Callable[[], tuple[Any, Any]], steps: int, rate: float) -> None:
    """Adam on the cross-entropy of batches that `draw` gives."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        inputs, targets = draw()
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = torch.nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    model.eval()


def whole(values: Any, bits: int, unit: float | None = None) -> tuple[Any, float]:
    """Whole numbers of that many bits and a sign, and the power of two that they are multiples of."""
    held = np.asarray(values, dtype=np.float64)
    step = unit or 2.0 ** (np.ceil(np.log2(np.abs(held).max())) - bits)
    kind = np.int16 if bits > 8 or held.min() < 0.0 else np.uint8
    return np.clip(np.rint(held / step), -(2**bits - 1), 2**bits - 1).astype(kind), float(step)


def outer(layer: Layer, model: Any, inputs: Any, targets: Any, unit: float | None = None) -> Arrays:
    """`left` and `right` of the sample gradients of a linear layer, and its weights. unit : of inputs that are whole

    14 and 8 bits: the sums of 256 products of two gradients then have 52.
    """
    layer.watch()
    loss = torch.nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    left, left_unit = whole(layer.back[-1].numpy(), 14)
    right, right_unit = whole(layer.inputs[-1].numpy(), 8, unit)
    return {
        "left": left, "right": right, "unit": np.float64(left_unit * right_unit),
        "weights": layer.module.weight.detach().numpy().astype(np.float32),
    }  # fmt: skip


@cache
def digits(hidden: int, steps: int) -> tuple[Any, Any, Any]:
    """A multilayer perceptron 64-hidden-10, inputs (1437, 64) in whole 16ths, targets."""
    from sklearn.datasets import load_digits

    held = load_digits()
    torch.manual_seed(SEED)
    inputs = torch.tensor(held.data / 16.0, dtype=torch.float32)[:1437]
    targets = torch.tensor(held.target)[:1437]
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10))

    def draw() -> tuple[Any, Any]:
        chosen = torch.randint(len(targets), (32,))
        return inputs[chosen], targets[chosen]

    train(model, draw, steps, 5e-3)
    return model, inputs, targets


def digits_outer(hidden: int, steps: int, number: int, samples: int = 256) -> Arrays:
    """Sample gradients of layer `number` of a digits network."""
    model, inputs, targets = digits(hidden, steps)
    unit = 1.0 / 16.0 if number == 0 else None
    return outer(Layer(model[number]), model, inputs[:samples], targets[:samples], unit)


@cache
def convolutions() -> tuple[Any, Any, Any]:
    """A convolutional network on digits: 1-16-32 channels of 3 × 3, then linear; inputs, targets."""
    from sklearn.datasets import load_digits

    held = load_digits()
    torch.manual_seed(SEED)
    inputs = torch.tensor(held.images / 16.0, dtype=torch.float32)[:1437, None]
    targets = torch.tensor(held.target)[:1437]
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 10),
    )  # fmt: skip

    def draw() -> tuple[Any, Any]:
        chosen = torch.randint(len(targets), (32,))
        return inputs[chosen], targets[chosen]

    train(model, draw, 600, 3e-3)
    return model, inputs, targets


def convolution_gradients() -> Arrays:
    """Gradients of 64 samples, of 512 weights of the second convolution drawn at random."""
    model, inputs, targets = convolutions()
    weight = model[3].weight
    rng = np.random.default_rng(SEED)
    chosen = np.sort(rng.choice(weight.numel(), 512, replace=False))
    rows = []
    for i in range(64):
        loss = torch.nn.functional.cross_entropy(model(inputs[i : i + 1]), targets[i : i + 1])
        rows.append(torch.autograd.grad(loss, weight)[0].numpy().ravel()[chosen])
    return _columns(np.array(rows), weight.detach().numpy().ravel()[chosen])


def convolution_inputs() -> Arrays:
    """256 patches that the second convolution sees, 144 numbers each; weights are the instance's own."""
    return _columns(_patches()[:256])


def convolution_row() -> Any:
    """The kernel of one output channel. (144,)"""
    return convolutions()[0][3].weight.detach().numpy()[5].ravel()


def convolution_groups() -> Arrays:
    """The second convolution over its 16 input channels."""
    model = convolutions()[0]
    return _groups(_patches(), model[3].weight.detach().numpy().reshape(32, -1).T, np.repeat(np.arange(16), 9))


@cache
def _patches() -> Any:
    model, inputs, _ = convolutions()
    with torch.no_grad():
        seen = model[:3](inputs[:512])
    rows = torch.nn.functional.unfold(seen, 3, padding=1).transpose(1, 2).reshape(-1, 144)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))[:4096]].numpy()


@cache
def fashion() -> tuple[Any, Any, Any]:
    """A multilayer perceptron 784-256-128-10 on Fashion-MNIST; inputs in whole 256ths, targets."""
    pixels, labels = load_images(FASHION_MNIST, "train")
    torch.manual_seed(SEED)
    inputs = torch.tensor(np.asarray(pixels).reshape(len(pixels), 784) / 256.0, dtype=torch.float32)
    targets = torch.tensor(np.asarray(labels, dtype=np.int64))
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )

    def draw() -> tuple[Any, Any]:
        chosen = torch.randint(len(targets), (64,))
        return inputs[chosen], targets[chosen]

    train(model, draw, 2500, 1e-3)
    return model, inputs, targets


def fashion_outer() -> Arrays:
    """Sample gradients of the first layer; 32 of its 256 units, so that the file is small."""
    model, inputs, targets = fashion()
    out = outer(Layer(model[0]), model, inputs[:256], targets[:256], 1.0 / 256.0)
    units = np.argsort(-np.square(out["left"].astype(np.float64)).sum(axis=0), kind="stable")[:32]
    return {**out, "left": out["left"][:, units], "weights": out["weights"][units]}


def fashion_inputs(number: int, samples: int = 256) -> Arrays:
    """What layer `number` sees: pixels of the first layer, activations of the others."""
    model, inputs, _ = fashion()
    with torch.no_grad():
        seen = model[:number](inputs[:samples]).numpy() if number else inputs[:samples].numpy()
    return _columns(seen) if number else _columns(seen, bits=8, unit=1.0 / 256.0)


def fashion_row(number: int, row: int) -> Any:
    """One row of a layer's weights."""
    return fashion()[0][number].weight.detach().numpy()[row]


def digits_samples() -> Arrays:
    """The hidden features (32, 1024) of digits, a column a sample."""
    model, inputs, _ = digits(32, 2700)
    with torch.no_grad():
        return _columns(model[:2](inputs[:1024]).numpy().T)


def fashion_groups(number: int, samples: int = 4096) -> Arrays:
    """A layer over its inputs, each a group of its own: the neurons before it."""
    model, inputs, _ = fashion()
    with torch.no_grad():
        seen = model[:number](inputs[:samples]).numpy()
    weights = model[number].weight.detach().numpy().T
    return _groups(seen, weights, np.arange(seen.shape[1]))


class Block(torch.nn.Module):
    """One block of a transformer: attention by 4 heads and a perceptron of 4 times the width, both after a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        """(batch, length, width) -> the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x))))


class Transformer(torch.nn.Module):
    """Two blocks of width 128 over characters."""

    def __init__(self, letters: int, width: int = 128, length: int = 64) -> None:
        super().__init__()
        self.embed, self.place = torch.nn.Embedding(letters, width), torch.nn.Embedding(length, width)
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = torch.nn.LayerNorm(width), torch.nn.Linear(width, letters)

    def forward(self, tokens: Any) -> Any:
        """(batch, length) -> (batch, length, letters)."""
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@cache
def text() -> tuple[Any, Any]:
    """The transformer, and 128 sequences (128, 64) of characters it was not trained on."""
    words = (data_directory() / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    letters = sorted(set(words))
    tokens = torch.tensor([letters.index(letter) for letter in words])
    torch.manual_seed(SEED)
    model = Transformer(len(letters))
    last = len(tokens) - 10_000

    def draw() -> tuple[Any, Any]:
        begins = torch.randint(last - 65, (16,))
        rows = torch.stack([tokens[i : i + 65] for i in begins])
        return rows[:, :-1], rows[:, 1:]

    train(model, draw, 700, 2e-3)
    return model, torch.stack([tokens[last + 70 * i : last + 70 * i + 64] for i in range(128)])


@cache
def _text_seen(name: str) -> Any:
    model, sequences = text()
    layer = Layer(getattr(model.blocks[1], name))
    layer.watch()
    with torch.no_grad():
        model(sequences)
    return layer.inputs[-1].reshape(-1, layer.inputs[-1].shape[-1]).numpy()


def text_inputs(name: str, samples: int = 256) -> Arrays:
    """What a layer of the second block sees at places drawn at random."""
    seen = _text_seen(name)
    chosen = np.random.default_rng(SEED).choice(len(seen), samples, replace=False)
    return _columns(seen[chosen])


def text_row(name: str, row: int) -> Any:
    """One row of a layer of the second block."""
    return getattr(text()[0].blocks[1], name).weight.detach().numpy()[row]


def text_groups(name: str, per: int) -> Arrays:
    """A layer of the second block over groups of `per` neighbouring inputs: heads, or parts of them."""
    seen = _text_seen(name)
    weights = getattr(text()[0].blocks[1], name).weight.detach().numpy().T
    return _groups(seen, weights, np.arange(seen.shape[1]) // per)


def wine() -> Arrays:
    """Sample gradients of the first layer of a perceptron 13-16-3 on the wine data."""
    from sklearn.datasets import load_wine

    held = load_wine()
    torch.manual_seed(SEED)
    scaled = (held.data - held.data.mean(axis=0)) / held.data.std(axis=0)
    inputs, targets = torch.tensor(scaled, dtype=torch.float32), torch.tensor(held.target)
    model = torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def draw() -> tuple[Any, Any]:
        chosen = torch.randint(len(targets), (32,))
        return inputs[chosen], targets[chosen]

    train(model, draw, 150, 1e-2)
    chosen = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SEED))[:64]
    return outer(Layer(model[0]), model, inputs[chosen], targets[chosen])


def _columns(seen: Any, weights: Any = None, bits: int = 12, unit: float | None = None) -> Arrays:
    columns, step = whole(seen, bits, unit)
    out: Arrays = {"columns": columns, "unit": np.float64(step)}
    return out if weights is None else {**out, "weights": np.asarray(weights).astype(np.float32)}


def _groups(seen: Any, weights: Any, group: Any) -> Arrays:
    """A group block's arrays in float32. seen (n, p), weights (p, q)

    The first OUTPUTS outputs: those of one head's queries, or a part of a projection.
    """
    inputs = np.asarray(seen, dtype=np.float64)
    gram = (inputs.T @ inputs / len(inputs)).astype(np.float32).astype(np.float64)
    ridge = 0.01 * float(np.mean(np.diag(gram)))
    dense = np.asarray(weights, dtype=np.float64)[:, :OUTPUTS]
    cross = ((gram + ridge * np.eye(len(gram))) @ dense).astype(np.float32)
    # the value with nothing kept, of the rounded arrays
    held = cross.astype(np.float64)
    constant = 0.5 * float(np.einsum("ij,ij->", held, np.linalg.solve(gram + ridge * np.eye(len(gram)), held)))
    return {
        "gram": gram.astype(np.float32), "cross": cross, "group": np.asarray(group, dtype=np.uint16), "ridge": ridge,
        "constant": constant,
    }  # fmt: skip


DATA: Mapping[str, Callable[[], Arrays]] = {
    "digits-first": lambda: digits_outer(32, 2700, 0),
    "digits-second": lambda: digits_outer(32, 2700, 2),
    "digits-early": lambda: digits_outer(32, 90, 0),
    "digits-wide": lambda: digits_outer(64, 2700, 0),
    "digits-convolution": convolution_gradients,
    "digits-patches": convolution_inputs,
    "digits-channels": convolution_groups,
    "digits-samples": digits_samples,
    "wine-first": wine,
    "fashion-first": fashion_outer,
    "fashion-pixels": lambda: fashion_inputs(0),
    "fashion-hidden": lambda: fashion_inputs(2),
    "fashion-last": lambda: fashion_inputs(4),
    "fashion-neurons": lambda: fashion_groups(4),
    "text-attention": lambda: text_inputs("qkv"),
    "text-down": lambda: text_inputs("down"),
    "text-heads": lambda: text_groups("out", 4),
    "text-inputs": lambda: text_groups("qkv", 2),
}
"""The files of the suite, by name, and how their arrays are made."""
