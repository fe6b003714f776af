"""The pairs that an ASIF keeps, as rows of tensors: what names them, their order, and which of them stand for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from components.records import Row


class AnchorsRefused(ValueError):
    """Pairs that cannot be added, or anchors that are not there to be removed or asked."""


ANCHOR_BUFFERS = ("image_anchors", "text_anchors", "ids", "pictures", "captions")
"""A row an anchor: features as the encoders gave them, the sample's id, its pixels' digest, its first caption."""


def anchor_id(sample_id: str) -> int:
    """The number a sample is known by among anchors: 63 bits of its id's sha256, the same in any set of shards."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big") >> 1


def picture_of(row: Row) -> bytes:
    """A digest of an image's pixels, 32 bytes."""
    return hashlib.sha256(row.pixels_sha256.encode()).digest()


def in_order(anchors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same rows by id; AnchorsRefused for one that comes twice."""
    # So that the order in which pairs came is forgotten: sums round alike, and a removal undoes an addition.
    ids, order = anchors["ids"].sort()
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise AnchorsRefused(
            f"{len(twice)} samples would be anchors twice; remove() the ones that are there first."
        )
    return {name: value[order] for name, value in anchors.items()}


def rows_of(anchors: Mapping[str, Tensor], rows_K: Tensor) -> dict[str, Tensor]:
    """Some of the rows, each once, in the order they were in."""
    if len(rows_K) == len(anchors["ids"]):
        return dict(anchors)  # no second copy of a million
    ordered_K = rows_K.sort().values.to(anchors["ids"].device)
    return {name: value[ordered_K] for name, value in anchors.items()}


def nearest_to_all(near_NN: Tensor, count: int) -> Tensor:
    """(count,) columns, chosen one by one, whose largest value in each row is large in sum."""
    covered_N1 = torch.zeros_like(near_NN[:, :1])
    chosen: list[int] = []
    for _ in range(count):
        gain_N = (near_NN - covered_N1).clamp(min=0).sum(dim=0)
        gain_N[chosen] = -1
        chosen.append(int(gain_N.argmax()))
        covered_N1 = torch.maximum(covered_N1, near_NN[:, chosen[-1:]])
    return torch.tensor(chosen)
