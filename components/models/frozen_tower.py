"""What a frozen tower said of an image, kept in memory so that it is asked once.

Not part of a checkpoint: it can be computed again from the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT_BYTES = 2**31
"""Past this much memory new images are computed and not kept."""

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


class FeatureCache:
    """Features by key, kept as rows of tensors that double when full.

    A key is believed only together with its pixels' fingerprint: the same model may meet two sets of shards, whose
    row numbers mean other images.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._weights: Hashable = None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._rows: dict[tuple[int, int], int] = {}
        self._kept: tuple[Tensor, Tensor] | None = None

    def valid_for(self, weights: Hashable) -> None:
        """Forget everything unless `weights` is what it was at the last call."""
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def __len__(self) -> int:
        return len(self._rows)

    def through(self, encode: Encode, pixels_BCHW: Tensor, keys_B: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode` gives for these images, calling it for those not seen before."""
        names = list(zip(keys_B.tolist(), fingerprint(pixels_BCHW).tolist(), strict=True))
        new = {name: at for at, name in enumerate(names) if name not in self._rows}
        if new:
            picked = torch.tensor(list(new.values()), device=pixels_BCHW.device)
            features = encode(pixels_BCHW[picked])
            if not self._keep(list(new), features):
                return encode(pixels_BCHW)
        assert self._kept is not None
        rows = torch.tensor([self._rows[name] for name in names], device=pixels_BCHW.device)
        return self._kept[0][rows], self._kept[1][rows]

    def _keep(self, names: list[tuple[int, int]], features: tuple[Tensor, Tensor]) -> bool:
        used, needed = len(self._rows), len(self._rows) + len(names)
        if self._kept is None or needed > len(self._kept[0]):
            row_bytes = sum(part[0].nbytes for part in features)
            if needed * row_bytes > self._limit_bytes:
                return False
            room = min(max(2 * needed, 256), self._limit_bytes // row_bytes)
            self._kept = tuple(self._grown(at, part, room) for at, part in enumerate(features))  # type: ignore[assignment]
        assert self._kept is not None
        for kept, part in zip(self._kept, features, strict=True):
            kept[used:needed] = part
        self._rows.update((name, used + at) for at, name in enumerate(names))
        return True

    def _grown(self, at: int, part: Tensor, room: int) -> Tensor:
        grown = part.new_empty((room, *part.shape[1:]))
        if self._kept is not None:
            grown[: len(self._rows)] = self._kept[at][: len(self._rows)]
        return grown


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
