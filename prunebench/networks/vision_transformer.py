"""A small vision transformer with pre-norm blocks: linear patches, a class token, an MLP head.

Dosovitskiy et al.: An image is worth 16x16 words, ICLR 2021, with timm's names for what is inside a
block (`blocks.0.attn.qkv`), for square images of one channel.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """The sizes of a vision transformer."""

    image: int = 28
    patch: int = 7
    width: int = 64
    depth: int = 6
    heads: int = 8
    hidden: int = 128
    classes: int = 10


class Attention(torch.nn.Module):
    """Multi-head self-attention; queries, keys and values come from one linear layer without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(width, 3 * width, bias=False)
        self.proj = _linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(s, t, width) -> (s, t, width)."""
        count, length, width = tokens.shape
        split = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        # The published network scales by its width, not by the width of a head.
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=width**-0.5)
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, width))
        return out


class TwoLayers(torch.nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = _linear(inputs, hidden)
        self.fc2 = _linear(hidden, outputs)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        out: torch.Tensor = self.fc2(torch.nn.functional.gelu(self.fc1(tokens)))
        return out


class Block(torch.nn.Module):
    """Attention and MLP, each on the normalised tokens and added to them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(sizes.width)
        self.attn = Attention(sizes.width, sizes.heads)
        self.norm2 = torch.nn.LayerNorm(sizes.width)
        self.mlp = TwoLayers(sizes.width, sizes.hidden, sizes.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(s, t, width) -> (s, t, width)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class VisionTransformer(torch.nn.Module):
    """Patches row by row, class token first, learned positions, blocks, and the head on the class token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.patch = sizes.patch
        patches = (sizes.image // sizes.patch) ** 2
        self.patch_embed = _linear(sizes.patch**2, sizes.width)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, patches + 1, sizes.width))
        self.blocks = torch.nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.head = TwoLayers(sizes.width, sizes.hidden, sizes.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (s, h, w) or (s, 1, h, w) -> logits (s, classes)."""
        pixels = images.reshape(images.shape[0], *images.shape[-2:])
        rows = pixels.unfold(1, self.patch, self.patch).unfold(2, self.patch, self.patch)
        tokens = self.patch_embed(rows.reshape(images.shape[0], -1, self.patch**2))
        first = self.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, tokens], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        out: torch.Tensor = self.head(tokens[:, 0])
        return out


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> torch.nn.Linear:
    # skip_init: the usual constructor would draw from the global random state.
    layer: torch.nn.Linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.Linear, inputs, outputs, bias=bias
    )
    return layer
