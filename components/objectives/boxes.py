"""Boxes as numbers: overlap, and the codec between a box and its offset from another.

A box is (left, top, right, bottom) in pixels, x right, y down. Letters: N, M boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_LOG = math.log(1000 / 16)
"""Widths and heights grow at most 62-fold, so that no early step overflows (Girshick et al., Detectron)."""


def area(boxes_N4: Tensor) -> Tensor:
    """(..., N) in square pixels; 0 for a box whose corners are crossed."""
    sides = (boxes_N4[..., 2:] - boxes_N4[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def overlap(one_N4: Tensor, other_M4: Tensor) -> Tensor:
    """Intersection over union, (..., N, M) in [0, 1]; 0 where neither has an area. Leading dimensions broadcast."""
    one, other = one_N4.unsqueeze(-2), other_M4.unsqueeze(-3)
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = area(one_N4).unsqueeze(-1) + area(other_M4).unsqueeze(-2) - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def encode(
    boxes_N4: Tensor, around_N4: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """(..., N, 4): offsets of centres over the sides of `around`, and logs of the ratios of sides, times `weights`."""
    centre, side = _centre_and_side(boxes_N4)
    middle, length = _centre_and_side(around_N4)
    offsets = torch.cat([(centre - middle) / length, (side / length).log()], dim=-1)
    return offsets * offsets.new_tensor(weights)


def decode(
    offsets_N4: Tensor, around_N4: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """(..., N, 4): the boxes that `encode` was given."""
    middle, length = _centre_and_side(around_N4)
    offsets_N4 = offsets_N4 / offsets_N4.new_tensor(weights)
    centre = middle + offsets_N4[..., :2] * length
    half = offsets_N4[..., 2:].clamp(max=LARGEST_LOG).exp() * length / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes_N4: Tensor, side_px: int) -> Tensor:
    """What of each box lies within a square image."""
    return boxes_N4.clamp(0, side_px)


def _centre_and_side(boxes_N4: Tensor) -> tuple[Tensor, Tensor]:
    # A box of no width or height would have no logarithm.
    side = (boxes_N4[..., 2:] - boxes_N4[..., :2]).clamp(min=1e-3)
    return (boxes_N4[..., 2:] + boxes_N4[..., :2]) / 2, side
