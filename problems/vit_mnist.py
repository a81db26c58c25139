"""A small vision transformer on MNIST: 6 blocks of width 64 over 16 patches of 7×7 pixels.

Its checkpoint (97.94 % on the test images) is that of the public repository
GauravPBhagwat/Handwritten-Digit-Recognition-Using-CNN-And-Vision-Transformer. It is not part of prunebench.
"""

from dataclasses import dataclass
from typing import Any

from prunebench.core.problem import Samples, joined, register
from prunebench.data.mnist import MNIST, image_samples, missing_files
from prunebench.networks.classification import Classification, Part
from prunebench.networks.pretrained import Checkpoint

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's pixels in [0, 1], by which the published training normalised them."""
CHECKPOINT_FILE = "checkpoints/vit_mnist_d64_l6_h8_p7.safetensors"
"""Where the published weights are looked for below the data folder."""
DEPTH = 6
"""Blocks."""
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
"""The linear layers of a block, by timm's names, which the checkpoint has."""


@register
@dataclass(frozen=True, kw_only=True)
class VitMnist(Classification):
    """A vision transformer on MNIST; prunable are the 196,608 weights of the blocks' linear layers.

    Patch embedding and head stay, as in pruning DeiT.
    """

    name = "vit-mnist"
    summary = "a vision transformer of 6 blocks on MNIST, 196,608 weights, accuracy 97.94 %"

    weights: str = "checkpoint"
    """The published checkpoint ("checkpoint"), or the path of a safetensors file."""

    def missing(self) -> str:
        """Which images or weights are not there and what to do; "" if all are. Fetches nothing."""
        return joined(missing_files(MNIST), self._checkpoint().missing())

    def model(self) -> Any:
        """A new copy of the trained network, in evaluation mode."""
        from prunebench.networks.vision_transformer import Sizes, VisionTransformer

        return self._checkpoint().fill(VisionTransformer(Sizes()))

    def prunable(self) -> tuple[str, ...]:
        """The linear layers of the blocks."""
        return tuple(f"blocks.{block}.{layer}.weight" for block in range(DEPTH) for layer in LAYERS)

    def samples(self, part: Part) -> Samples:
        """The 60,000 training images, or the 10,000 test images."""
        return image_samples(MNIST, part, mean=MEAN, std=STD)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.name, self.weights, CHECKPOINT_FILE)
