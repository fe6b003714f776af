"""Relative representations (Moschella et al. 2022, arXiv:2209.15430): a thing described by the few anchors it is nearest to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Relative:
    """Descriptions by anchors: for each row at most K of N coordinates, the rest are zero. Rows have length 1."""

    values_BK: Tensor
    index_BK: Tensor
    """int64: which anchors, each at most once a row."""
    anchors: int

    def dense(self, start: int = 0, end: int | None = None) -> Tensor:
        """The coordinates of anchors start..end as a plain tensor, (B, end - start)."""
        end = self.anchors if end is None else end
        inside = (self.index_BK >= start) & (self.index_BK < end)
        made = self.values_BK.new_zeros(len(self.values_BK), end - start)
        place = (self.index_BK - start).clamp(0, end - start - 1)
        return made.scatter_add_(1, place, self.values_BK * inside)


def largest(values_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns, in order of columns; of equal ones the first.

    topk breaks ties as it likes, and captions repeat: which anchors are kept would depend on the chunks.
    """
    least_B1 = values_BC.topk(k, dim=1).values[:, -1:]
    above, equal = values_BC > least_B1, values_BC == least_B1
    room_B1 = k - above.sum(dim=1, keepdim=True)
    kept = above | (equal & (equal.cumsum(dim=1) <= room_B1))
    columns_BK = kept.nonzero()[:, 1].view(-1, k)
    return values_BC.gather(1, columns_BK), columns_BK


def unit(features: Tensor) -> Tensor:
    """Each row at length 1."""
    return F.normalize(features, dim=-1)
