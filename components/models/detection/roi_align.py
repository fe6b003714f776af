"""RoIAlign (He et al. 2017, arXiv:1703.06870): a small square map of a region, by bilinear reading at exact places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(
    map_BCHW: Tensor, boxes_BR4: Tensor, stride_px: int, *, bins: int, samples: int = 1
) -> Tensor:
    """(B, R, C, bins, bins): each bin is the mean of `samples` x `samples` evenly spaced readings of the map.

    boxes_BR4: in pixels of the image that map_BCHW was made of with that stride. The value of a cell stands at its
    centre; beyond the outermost centres the map goes on as it ends.
    """
    points = bins * samples
    steps = (torch.arange(points, device=map_BCHW.device) + 0.5) / points
    sides = torch.tensor([map_BCHW.shape[3], map_BCHW.shape[2]], device=map_BCHW.device)
    # grid_sample counts from -1 at the map's left edge to 1 at its right.
    low, high = (boxes_BR4.unflatten(-1, (2, 2)) / (stride_px * sides) * 2 - 1).unbind(-2)
    x_BRP, y_BRP = (low.unsqueeze(-1) + (high - low).unsqueeze(-1) * steps).unbind(-2)
    grid = torch.stack(
        [
            x_BRP.unsqueeze(2).expand(-1, -1, points, -1),
            y_BRP.unsqueeze(3).expand(-1, -1, -1, points),
        ],
        dim=-1,
    )
    read = F.grid_sample(
        map_BCHW, grid.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False
    )
    regions = read.unflatten(2, (-1, points)).transpose(1, 2)
    return (
        regions
        if samples == 1
        else F.avg_pool2d(regions.flatten(0, 1), samples).unflatten(0, regions.shape[:2])
    )


def roi_align_pyramid(
    maps: dict[int, Tensor], boxes_BR4: Tensor, *, bins: int, samples: int = 1
) -> Tensor:
    """`roi_align` on the level that fits each box: 224 px are read at level 4, half of that one level lower.

    maps: level -> map of stride 2**level (Lin et al. 2017, arXiv:1612.03144, equation 1).
    """
    if len(maps) == 1:
        ((level, only),) = maps.items()
        return roi_align(only, boxes_BR4, 2**level, bins=bins, samples=samples)
    sides = (boxes_BR4[..., 2:] - boxes_BR4[..., :2]).clamp(min=1e-3)
    wanted_BR = (4 + (sides.prod(dim=-1).sqrt() / 224).log2()).floor().clamp(min(maps), max(maps))
    # Every box is read on every level and one reading is kept: simple, and a few per cent of a backbone's work.
    parts = [
        roi_align(maps[level], boxes_BR4, 2**level, bins=bins, samples=samples)
        * (wanted_BR == level)[..., None, None, None]
        for level in maps
    ]
    return torch.stack(parts).sum(dim=0)
