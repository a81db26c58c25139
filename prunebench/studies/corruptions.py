"""Five corruptions of images, each of three severities, made of the pixels alone.

After the idea of Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
ICLR 2019; the strengths are ours, since theirs are for photographs.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.problem import Samples

SEVERITIES = (1, 2, 3)
"""From mild to strong."""

NOISE = 0.15
"""Standard deviation of the noise of severity 1, where black is 0 and white is 1; it grows with the severity."""

CONTRAST = 0.7
"""What severity 1 leaves of every pixel's distance from grey; each further one leaves this part of that."""

SHIFT = 1.0 / 28.0
"""The part of the image's width by which severity 1 shifts it right and down: a pixel of MNIST's."""

OCCLUDED = 0.125
"""The part of the image's width that one severity adds to the side of a grey square."""

GREY = 0.5
"""Between black and white."""

BATCH = 500
"""Images that are corrupted at a time; the noise that an image gets depends on it."""


@dataclass(frozen=True)
class Pixels:
    """How inputs of a network are images.

    shape : of one image as (channels, height, width);  low, high : inputs of black and white by channel, (c, 1, 1)
    """

    shape: tuple[int, int, int]
    low: torch.Tensor
    high: torch.Tensor

    @staticmethod
    def of(samples: Samples, positions: IndexArray, name: str) -> "Pixels":
        """As some samples show it: the darkest and the lightest input of a channel are black and white.

        Raises
        ------
        InvalidInput   inputs are no images: other axes, or a number of values that is no square
        """
        inputs = samples.batch(positions)[0]
        shape = tuple(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) and inputs.is_floating_point() else ()
        side = math.isqrt(shape[0]) if len(shape) == 1 else 0
        if len(shape) == 1 and side * side == shape[0] and side > 1:
            shape = (1, side, side)
        elif len(shape) == 2:
            shape = (1, *shape)
        if len(shape) != 3:
            raise InvalidInput(
                f"study robustness corrupts images, and inputs of {name!r} are none (a sample has shape "
                f"{tuple(getattr(inputs, 'shape', ()))[1:]}); choose a network on images, such as mlpnet-mnist"
            )
        held = inputs.reshape(len(inputs), *shape)
        low, high = (
            getattr(held.transpose(0, 1).reshape(shape[0], -1), which)(dim=1) for which in ("amin", "amax")
        )  # fmt: skip
        return Pixels(shape, low[:, None, None], torch.maximum(high, low + 1e-12)[:, None, None])

    def images(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as images, black 0 and white 1. (s, …) -> (s, c, h, w)"""
        return (inputs.reshape(len(inputs), *self.shape) - self.low) / (self.high - self.low)

    def inputs(self, images: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Images as inputs, in the shape of `like`."""
        return (images * (self.high - self.low) + self.low).to(like.dtype).reshape(like.shape)


def noise(images: torch.Tensor, severity: int, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise on every pixel."""
    drawn = torch.randn(images.shape, generator=generator)
    return (images + NOISE * severity * drawn).clamp(0.0, 1.0)


def blur(images: torch.Tensor, severity: int, _generator: torch.Generator) -> torch.Tensor:
    """The mean of the 3 × 3 pixels about each, as often as the severity says; beyond the edge is black."""
    out = images
    for _ in range(severity):
        out = torch.nn.functional.avg_pool2d(out, 3, stride=1, padding=1)
    return out


def contrast(images: torch.Tensor, severity: int, _generator: torch.Generator) -> torch.Tensor:
    """Every pixel nearer to grey."""
    return GREY + (images - GREY) * CONTRAST**severity


def shift(images: torch.Tensor, severity: int, _generator: torch.Generator) -> torch.Tensor:
    """The image moved right and down, black where it came from; parts of a pixel by interpolation."""
    moved = -2.0 * SHIFT * severity
    move = torch.tensor([[1.0, 0.0, moved], [0.0, 1.0, moved]]).expand(len(images), 2, 3)
    grid = torch.nn.functional.affine_grid(move, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def occlusion(images: torch.Tensor, severity: int, generator: torch.Generator) -> torch.Tensor:
    """A grey square over every image, each at a place of its own."""
    height, width = images.shape[2:]
    side = max(1, round(OCCLUDED * severity * width))
    top, left = (
        torch.randint(0, most - side + 1, (len(images), 1, 1), generator=generator) for most in (height, width)
    )
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return torch.where(inside[:, None], torch.tensor(GREY), images)


CORRUPTIONS: Mapping[str, Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]] = {
    "noise": noise, "blur": blur, "contrast": contrast, "shift": shift, "occlusion": occlusion,
}  # fmt: skip
"""All corruptions by name: images with black 0 and white 1, a severity, and what is drawn from."""


class Corrupted:
    """Samples with corrupted inputs and the targets that they had, all held in memory.

    digest : SHA-256 of the corrupted images as bytes of 256 greys
    """

    def __init__(self, samples: Samples, pixels: Pixels, name: str, severity: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        held, targets, digest = [], [], hashlib.sha256()
        for start in range(0, len(samples), BATCH):
            inputs, labels = samples.batch(np.arange(start, min(start + BATCH, len(samples))))
            images = CORRUPTIONS[name](pixels.images(inputs).clamp(0.0, 1.0), severity, generator)
            digest.update((images * 255.0).round().to(torch.uint8).numpy().tobytes())
            held.append(pixels.inputs(images, inputs))
            targets.append(labels)
        self._inputs, self._targets = torch.cat(held), torch.cat(targets)
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._targets)

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrupted inputs, and targets."""
        return self._inputs[positions], self._targets[positions]
