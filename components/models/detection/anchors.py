"""Anchors: the boxes a region proposal network starts from, on a grid over the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchors(
    side: int, stride_px: int, sizes_px: Sequence[float], ratios: Sequence[float]
) -> Tensor:
    """(side * side * sizes * ratios, 4) in pixels: row by row, and in each cell ratios within sizes.

    side: cells of the square map. sizes_px: square roots of the areas. ratios: height over width.
    """
    shapes = [
        (size * ratio**-0.5 / 2, size * ratio**0.5 / 2) for size in sizes_px for ratio in ratios
    ]
    half_A2 = torch.tensor(shapes)
    around_A4 = torch.cat([-half_A2, half_A2], dim=1)
    middle = (torch.arange(side) + 0.5) * stride_px
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (centres + around_A4).view(-1, 4)
