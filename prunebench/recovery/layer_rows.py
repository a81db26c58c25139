"""Rows of a layer's least-squares problem: what it takes at one place of one sample, and what it is to give there."""

import math
from collections.abc import Iterator

import torch
from torch.fx import Node

from prunebench.structure.walk import bound, name_of

ROWS_PER_INPUT = 100
"""Most rows for each input of a layer. On ResNet20 (1,000 images, half of its multiply-accumulates) the loss on
test images is .006 above that of all rows, of which the first layers have 7,000 an input, for a third of the time; with
25 it is .02 above."""

CHUNK_NUMBERS = 1 << 22
"""Numbers of a chunk of rows: 16 MB of float32, above which chunks only cost memory."""


def layer_rows(
    node: Node, operand: torch.Tensor, goal: torch.Tensor, seed: int, rows: int = ROWS_PER_INPUT
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Rows of inputs and targets of a linear layer or ungrouped convolution, some at a time.

    Parameters
    ----------
    node : the layer's product;  operand : what it takes;  goal : what is to come out, of the shape of its output
    seed : of the places that are drawn, as many of every sample, where there are more rows an input
    rows : at most, for each input

    Yields
    ------
    (r, p), (r, q)   inputs, of a convolution the window's, channel by channel; targets
    """
    if name_of(node) in ("linear", "addmm"):
        x, y = operand.reshape(len(operand), -1, operand.shape[-1]), goal.reshape(len(goal), -1, goal.shape[-1])
        for samples, places in _drawn(len(x), x.shape[1], x.shape[2], seed, rows):
            yield x[samples, places], y[samples, places]
        return
    a = bound(node)
    flat = len(a["stride"]) == 1
    one = (1,) if flat else ()
    window = (*one, *(int(size) for size in a["weight"].meta["val"].shape[2:]))
    (pad_h, pad_w), stride = ((0,) if flat else ()) + tuple(a["padding"]), (*one, *a["stride"])
    dilation = (*one, *a["dilation"])
    if flat:
        operand, goal = operand.unsqueeze(2), goal.unsqueeze(2)
    # channels last: a window's numbers are then gathered in runs as long as there are channels
    windows = torch.nn.functional.pad(operand.permute(0, 2, 3, 1), (0, 0, pad_w, pad_w, pad_h, pad_h))
    for k in (0, 1):
        windows = windows.unfold(1 + k, dilation[k] * (window[k] - 1) + 1, stride[k])
    windows = windows[..., :: dilation[0], :: dilation[1]].permute(0, 1, 2, 4, 5, 3)
    y = goal.permute(0, 2, 3, 1)
    height, width = y.shape[1:3]
    for samples, places in _drawn(len(y), height * width, windows[0, 0, 0].numel(), seed, rows):
        at = samples, places // width, places % width
        yield windows[at].flatten(1, 2).transpose(1, 2).flatten(1), y[at]


def _drawn(samples: int, places: int, inputs: int, seed: int, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Numbers of samples and of places in them, as many of every sample, some at a time. int64 (r,), (r,)"""
    many = min(places, math.ceil(rows * inputs / samples))
    generator = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK_NUMBERS // (inputs * many))
    for start in range(0, samples, step):
        numbers = torch.arange(start, min(samples, start + step))
        if many < places:
            chosen = torch.rand(len(numbers), places, generator=generator).argsort(dim=1)[:, :many]
        else:
            chosen = torch.arange(places).expand(len(numbers), -1)
        yield numbers.repeat_interleave(many), chosen.reshape(-1)
