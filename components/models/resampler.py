"""Flamingo's Perceiver resampler: R vectors of any number of frames and positions (Alayrac et al. 2022, arXiv:2204.14198).

None of the matrices has a bias. Here besides the letters of `records.py`: F frames, P positions of a map, R latents.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.blocks import KeysValues, merge_heads, split_heads

Activation = Literal["relu2", "gelu"]


class SquaredRelu(nn.Module):
    """`max(x, 0)²` (So et al. 2021, arXiv:2109.08668): the paper's; open_flamingo has GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu2": SquaredRelu, "gelu": nn.GELU}


def matrix(inward: int, outward: int) -> nn.Linear:
    """Attention's: without bias, of variance 1 / inward, the default where the paper was written (Haiku).

    PyTorch's is a third of that: attention is then nearly even, and at tiny sizes the gates stay shut for hundreds of
    steps. The two layers behind it keep PyTorch's: squared ReLUs of Haiku's size shake a tiny model.
    """
    made = nn.Linear(inward, outward, bias=False)
    nn.init.normal_(made.weight, std=inward**-0.5)
    return made


def two_layers(width: int, activation: Activation) -> nn.Sequential:
    """LayerNorm, then two matrices with four times the width between."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        ACTIVATIONS[activation](),
        nn.Linear(4 * width, width, bias=False),
    )


class MediaAttention(nn.Module):
    """Multi-head attention over vectors of another width, whose heads are as wide as one likes."""

    def __init__(self, width: int, memory_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.query = matrix(width, inner)
        self.memory = matrix(memory_width, 2 * inner)
        self.outward = matrix(inner, width)

    def read(self, memory_BND: Tensor) -> KeysValues:
        """Keys and values of what is looked at."""
        key, value = (
            split_heads(part, self.heads) for part in self.memory(memory_BND).chunk(2, -1)
        )
        return KeysValues(key, value)

    def forward(self, x_BTD: Tensor, memory: KeysValues, sees_BTN: Tensor | None = None) -> Tensor:
        """What each token takes from the vectors it sees; exactly zero for one that sees none.

        sees_BTN: bool; without it every token sees everything.
        """
        query = split_heads(self.query(x_BTD), self.heads)
        if sees_BTN is None:
            return self.outward(merge_heads(F.scaled_dot_product_attention(query, *memory)))
        # A softmax over nothing is NaN, so who sees nothing looks at everything and then forgets it.
        some_BT1 = sees_BTN.any(dim=-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(
            query, *memory, attn_mask=(sees_BTN | ~some_BT1)[:, None]
        )
        return self.outward(merge_heads(mixed)) * some_BT1


class ResamplerLayer(nn.Module):
    """Latents look at the image and at themselves, then pass two layers."""

    def __init__(self, width: int, heads: int, head_width: int, activation: Activation) -> None:
        super().__init__()
        self.norm_image = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.attention = MediaAttention(width, width, heads, head_width)
        self.layers = two_layers(width, activation)

    def forward(self, latents_BRD: Tensor, image_BND: Tensor) -> Tensor:
        asking = self.norm_latents(latents_BRD)
        seen = torch.cat([self.norm_image(image_BND), asking], dim=1)
        latents_BRD = latents_BRD + self.attention(asking, self.attention.read(seen))
        return latents_BRD + self.layers(latents_BRD)


class Resampler(nn.Module):
    """Frames of a map, any number and size up to `frames` frames, -> R vectors."""

    def __init__(
        self,
        width: int,
        *,
        latents: int,
        layers: int,
        frames: int,
        heads: int,
        head_width: int,
        activation: Activation,
        places: int = 0,
    ) -> None:
        """places: positions of a map that each get a learned vector; 0 leaves them to the tower, as the paper does."""
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.times = nn.Parameter(torch.randn(frames, width))
        self.places = nn.Parameter(0.5 * torch.randn(places, width)) if places else None
        self.layers = nn.ModuleList(
            ResamplerLayer(width, heads, head_width, activation) for _ in range(layers)
        )
        self.norm_after = nn.LayerNorm(width)

    def forward(self, map_BFPD: Tensor) -> Tensor:
        """(B, F, P, D) -> (B, R, D). Raises ValueError for more frames than there are time embeddings."""
        frames = map_BFPD.shape[1]
        if frames > len(self.times):
            raise ValueError(
                f"{frames} frames, and the resampler has time embeddings for {len(self.times)}; "
                "raise `frames` in the family's config, or give fewer."
            )
        if self.places is not None:
            map_BFPD = map_BFPD + self.places
        image_BND = (map_BFPD + self.times[:frames, None]).flatten(1, 2)
        latents_BRD = self.latents.expand(image_BND.shape[0], -1, -1)
        for layer in self.layers:
            latents_BRD = layer(latents_BRD, image_BND)
        return self.norm_after(latents_BRD)
