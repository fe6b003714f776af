"""What a model is held against: itself without the image, and copying the nearest training image."""

from __future__ import annotations

import torch
from torch.nn.functional import adaptive_avg_pool2d

from components.data.batches import SplitImages

SIDE_PX = 16
BLOCK = 512


def shuffled(count: int, seed: int) -> list[int]:
    """A seeded cycle through all of `count` indices: nobody keeps an own image (for two or more).

    Sattolo's algorithm: every result is one single cycle, so none maps to itself.
    """
    generator = torch.Generator().manual_seed(seed)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(torch.randint(last, (1,), generator=generator))
        order[last], order[other] = order[other], order[last]
    return order


def nearest_pixels(images: SplitImages, train: SplitImages) -> list[int]:
    """For each image the index of the training image whose pixels are nearest (Euclidean, at 16 px)."""
    train_MD = _thumbnails(train)
    found: list[int] = []
    for block_ND in _thumbnails(images).split(BLOCK):
        found += torch.cdist(block_ND, train_MD).argmin(dim=1).tolist()
    return found


def _thumbnails(images: SplitImages) -> torch.Tensor:
    blocks = [
        adaptive_avg_pool2d(block.float(), SIDE_PX).flatten(1)
        for block in images.pixels_NCHW.split(BLOCK)
    ]
    return torch.cat(blocks)
