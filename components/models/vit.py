"""CLIP's Vision Transformer (Dosovitskiy et al. 2020; Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.models.blocks import PreNormBlock, initialise_block


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm blocks, with one more LayerNorm before the first block."""

    def __init__(
        self, image_px: int, *, patch_px: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.map_width = self.pooled_width = width
        self.patch_px = patch_px
        self.patches = nn.Conv2d(3, width, patch_px, patch_px, bias=False)
        self.class_token = nn.Parameter(torch.randn(width) * width**-0.5)
        positions = self.map_tokens(image_px) + 1
        self.positions = nn.Parameter(torch.randn(positions, width) * width**-0.5)
        self.norm_before = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(PreNormBlock(width, heads) for _ in range(layers))
        self.norm_after = nn.LayerNorm(width)
        for block in self.blocks:
            initialise_block(block, width=width, layers=layers)

    def map_tokens(self, image_px: int) -> int:
        """How many patches an image has."""
        side = image_px // self.patch_px
        return side * side

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(map_BND, pooled_BD)."""
        x_BND = self._before_last(x_BCHW)
        x_BND = self.blocks[-1](x_BND)
        return x_BND[:, 1:], self.norm_after(x_BND[:, 0])

    def pool(self, x_BCHW: Tensor) -> Tensor:
        """The pooled vector alone: of the last block only the class token is computed."""
        class_B = torch.zeros(x_BCHW.shape[0], dtype=torch.int64, device=x_BCHW.device)
        return self.norm_after(self.blocks[-1](self._before_last(x_BCHW), at_B=class_B))

    def _before_last(self, x_BCHW: Tensor) -> Tensor:
        patches_BND = self.patches(x_BCHW).flatten(2).transpose(1, 2)
        class_B1D = self.class_token.expand(x_BCHW.shape[0], 1, -1)
        x_BND = self.norm_before(torch.cat([class_B1D, patches_BND], dim=1) + self.positions)
        *firsts, _ = self.blocks
        for block in firsts:
            x_BND = block(x_BND)
        return x_BND
