"""What a frozen tower said of an image, kept in memory so that it is asked once.

Not part of a checkpoint: it can be computed again from the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT_BYTES = 2**31
"""Past this much memory new images are computed and not kept."""

Features = tuple[Tensor, Tensor]
"""A map and a pooled vector."""
Encode = Callable[[Tensor], Features]


class FeatureCache:
    """Features by key, a pair of tensors for each image.

    A key is believed only together with its pixels' fingerprint: the same model may meet two sets of shards, whose
    row numbers mean other images.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._weights: Hashable = None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._kept: dict[tuple[int, int], Features] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def valid_for(self, weights: Hashable) -> None:
        """Forget everything unless `weights` is what it was at the last call."""
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def through(self, encode: Encode, pixels_BCHW: Tensor, keys_B: Tensor) -> Features:
        """What `encode` gives for these images, calling it once for those not seen before."""
        names = list(zip(keys_B.tolist(), fingerprint(pixels_BCHW).tolist(), strict=True))
        known = {name: self._kept[name] for name in names if name in self._kept}
        new = {name: at for at, name in enumerate(names) if name not in known}
        if new:
            picked = torch.tensor(list(new.values()), device=pixels_BCHW.device)
            computed = zip(*encode(pixels_BCHW[picked]), strict=True)
            for name, features in zip(new, computed, strict=True):
                known[name] = features
                self._keep(name, features)
        maps, pooled = zip(*(known[name] for name in names), strict=True)
        return torch.stack(maps), torch.stack(pooled)

    def _keep(self, name: tuple[int, int], features: Features) -> None:
        size = sum(part.nbytes for part in features)
        if self._bytes + size <= self._limit_bytes:
            # A copy: a row of the batch would keep the whole batch alive.
            self._kept[name] = (features[0].clone(), features[1].clone())
            self._bytes += size


def fingerprint(pixels_BCHW: Tensor) -> Tensor:
    """(B,) int64 that differ for images that differ, by sums that wrap; a tenth of a millisecond for 64 of 96 px."""
    flat = pixels_BCHW.reshape(len(pixels_BCHW), -1)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8))
    words = flat.contiguous().view(torch.int64)
    place = torch.arange(words.shape[1], device=words.device)
    # An odd multiplier for each place (Knuth's 64-bit constant), so that order counts and no bit is lost.
    weights = (place * 6364136223846793005 + 1442695040888963407) | 1
    mixed = (words ^ (words >> 29)) * weights
    return (mixed ^ (mixed >> 32)).sum(dim=1)
