"""What the frozen teacher says of regions: ViLD's offline stage, done when an image is first met and then remembered.

A region's embedding is norm(norm V(crop) + norm V(crop 1.5 times as wide)). How crops are cut decides what the teacher
sees, and is this file's to say: a square window around the box, as wide as its longer side times the scale, so nothing
is stretched; beyond the image its edge goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.abilities import Embeds
from components.models.backbones import CHUNK
from components.models.detection.roi_align import roi_align


def embed_width(teacher: Any, side_px: int) -> int:
    """Width of the teacher's space, by asking it."""
    device = next(teacher.parameters()).device
    blank = torch.zeros(1, 3, side_px, side_px, dtype=torch.uint8, device=device)
    with torch.no_grad():
        return int(teacher.embed_images(blank).shape[-1])


def window(boxes_M4: Tensor, scale: float) -> Tensor:
    """(M, 4): squares of the same centres, their side the longer side of each box times `scale`."""
    centre = (boxes_M4[:, :2] + boxes_M4[:, 2:]) / 2
    half = (boxes_M4[:, 2:] - boxes_M4[:, :2]).amax(dim=1, keepdim=True) * (scale / 2)
    return torch.cat([centre - half, centre + half], dim=1)


def crops(
    pixels_CHW: Tensor, boxes_M4: Tensor, *, scales: Sequence[float], side_px: int, fill: float
) -> list[Tensor]:
    """For each scale (M, 3, side_px, side_px) uint8, what the teacher is shown of each box.

    fill: share of the side that the crop takes; the rest is the median colour around the widest crop. A teacher that
    saw only small objects is shown them small.
    """
    inner_px = max(round(side_px * fill), 1)
    cut = [
        roi_align(
            pixels_CHW.float().unsqueeze(0), window(boxes_M4, scale).unsqueeze(0), 1,
            bins=inner_px, samples=2,
        )[0]
        for scale in scales
    ]  # fmt: skip
    before = (side_px - inner_px) // 2
    after = side_px - inner_px - before
    shown = []
    for each in cut:
        canvas = _around(cut[-1]).expand(-1, -1, side_px, side_px).clone()
        canvas[:, :, before : side_px - after, before : side_px - after] = each
        shown.append(canvas.round().clamp(0, 255).to(torch.uint8))
    return shown


def embed_regions(
    teacher: Embeds,
    pixels_BCHW: Tensor,
    boxes_BM4: Tensor,
    *,
    scales: Sequence[float],
    side_px: int,
    fill: float,
) -> Tensor:
    """(B, M, D), rows of length 1: the teacher's normalised mean over crops, each normalised first."""
    shown = [
        torch.stack(crops(pixels_CHW, boxes_M4, scales=scales, side_px=side_px, fill=fill))
        for pixels_CHW, boxes_M4 in zip(pixels_BCHW, boxes_BM4, strict=True)
    ]
    embedded = torch.stack([_in_chunks(teacher, each) for each in torch.stack(shown, 1)])
    return F.normalize(F.normalize(embedded, dim=-1).sum(dim=0), dim=-1)


def _in_chunks(teacher: Embeds, crops_BMCSS: Tensor) -> Tensor:
    # Always as many at once, so that what is said of a crop does not depend on who else was in the batch: kernels are
    # chosen by batch size and round differently.
    parts = []
    for chunk in crops_BMCSS.flatten(0, 1).split(CHUNK):
        full = F.pad(chunk, (0, 0, 0, 0, 0, 0, 0, CHUNK - len(chunk)))
        parts.append(teacher.embed_images(full)[: len(chunk)])
    return torch.cat(parts).unflatten(0, crops_BMCSS.shape[:2])


def _around(crops_MCSS: Tensor) -> Tensor:
    edge = torch.cat(
        [
            crops_MCSS[:, :, 0], crops_MCSS[:, :, -1],
            crops_MCSS[:, :, :, 0], crops_MCSS[:, :, :, -1],
        ],
        dim=-1,
    )  # fmt: skip
    return edge.median(dim=-1).values[..., None, None]
