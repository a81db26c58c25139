"""Large networks of random weights, for benchmarks of time and memory: nothing here has learnt anything.

A Llama of 85 million prunable weights that reads the stories of `stories-llama`, and a ResNet50 with images that are
noise. What they cost is what trained networks of these shapes cost.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunebench.core.arrays import IndexArray
from prunebench.core.problem import data_directory
from prunebench.networks.classification import Classification, Part
from prunebench.networks.convolutional import prunable_weights, resnet50
from prunebench.networks.samples import checked_positions
from prunebench.networks.torchvision_build import make_importable
from prunebench.problems.stories_llama import CHECKPOINT_FOLDER, StoriesLlama

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
"""What is copied from the stories' own model: the random one knows the same 512 tokens."""

STATISTICS_IMAGES = 8
"""Images from which the random ResNet50's batch norms take mean and variance, so that its activations stay moderate."""


@dataclass(frozen=True)
class LlamaShape:
    """The shape of a random Llama. The usual one has 84,934,656 prunable weights, 340 MB in float32."""

    layers: int = 12
    hidden: int = 768
    inner: int = 2048
    heads: int = 12

    @property
    def prunable(self) -> int:
        """The weights of all linear layers but the head."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)


def random_llama(folder: Path, shape: LlamaShape | None = None, seed: int = 0) -> Path:
    """Write a random Llama with the stories' tokenizer into `folder`, as from_pretrained takes it. -> the folder."""
    make_importable()
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    shape = shape or LlamaShape()
    config = LlamaConfig(
        vocab_size=512, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(data_directory() / CHECKPOINT_FOLDER / name, folder / name)
    return folder


def stories_for(folder: Path, sequences: int, context: int = 128) -> StoriesLlama:
    """The problem of pruning the model in `folder` on `sequences` calibration sequences of `context` tokens."""
    return StoriesLlama(source=str(folder), sequences=sequences, context=context, validation_context=context)


def initialise(network: torch.nn.Module, inputs: torch.Tensor, generator: torch.Generator) -> torch.nn.Module:
    """He's initialisation of all weights, batch norms at the statistics of `inputs`; in evaluation mode, in place."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
            module.momentum = None  # statistics are the plain mean over the batches seen
    network.train()
    with torch.no_grad():
        network(inputs)
    return network.eval()


class NoiseImages:
    """Normal noise float32 (b, 3, size, size) with labels, each image made from its position when it is fetched."""

    def __init__(self, count: int, size: int, classes: int, seed: int) -> None:
        self._count, self._size, self._classes, self._seed = count, size, classes, seed

    def __len__(self) -> int:
        return self._count

    def batch(self, positions: IndexArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels int64 (b,) of the images at `positions`."""
        chosen = checked_positions(positions, self._count)
        shape = (3, self._size, self._size)
        images = [np.random.default_rng((self._seed, int(at))).standard_normal(shape, np.float32) for at in chosen]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(chosen % self._classes)


@dataclass(frozen=True, kw_only=True)
class RandomResnet50(Classification):
    """A ResNet50 of random weights (25,502,912 prunable) on noise as large as ImageNet's images."""

    name = "random-resnet50"
    summary = "ResNet50 of random weights on noise"

    images: int = 512
    """Images for calibration, and as many for validation."""

    size: int = 224
    """Height and width of an image."""

    seed: int = 0
    """Of weights and images."""

    def model(self) -> torch.nn.Module:
        """The network by He's initialisation, its batch norms at the statistics of a few images, in evaluation mode."""
        network = resnet50()
        images, _ = self.samples("train").batch(np.arange(min(STATISTICS_IMAGES, self.images)))
        return initialise(network, images, torch.Generator().manual_seed(self.seed))

    def prunable(self) -> tuple[str, ...]:
        """All convolutions and the linear layer."""
        return prunable_weights(resnet50(1))

    def samples(self, part: Part) -> NoiseImages:
        """Noise; other noise for validation."""
        return NoiseImages(self.images, self.size, 1000, 2 * self.seed + (part == "test"))
