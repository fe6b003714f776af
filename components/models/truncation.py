"""Captions cut short at random, so that a tower that scores texts learns what half-written ones mean.

MAGIC asks CLIP about every beginning of a caption; one trained on whole captions alone misjudges them.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUT_SHARE = 0.5
"""Rows that lose their end; the others stay whole, since whole captions are what CLIP is measured on."""


def cut_short(
    tokens_BT: Tensor, lengths_B: Tensor, groups_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """About half of the rows as `<bos> first words <eos>`, with at least one word, by torch's random numbers.

    groups_B: rows whose texts have become equal share a number, which is then negative; it depends on the text alone,
        so that workers agree.
    """
    words_B = lengths_B - 2
    kept_B = 1 + (torch.rand(len(words_B), device=tokens_BT.device) * words_B).long()
    is_cut_B = torch.rand(len(words_B), device=tokens_BT.device) < CUT_SHARE
    kept_B = torch.where(is_cut_B & (words_B > 0), kept_B, words_B)
    eos_B1 = tokens_BT.gather(1, lengths_B[:, None] - 1)
    place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    end_B1 = kept_B[:, None] + 1
    cut_BT = torch.where(place_T < end_B1, tokens_BT, 0)
    cut_BT = torch.where(place_T == end_B1, eos_B1, cut_BT)
    groups_B = torch.where(kept_B < words_B, -1 - _fingerprint(cut_BT).abs(), groups_B)
    return cut_BT, kept_B + 2, groups_B


def _fingerprint(tokens_BT: Tensor) -> Tensor:
    """(B,) int64, equal for equal texts whatever their padding (id 0)."""
    total_B = torch.zeros(len(tokens_BT), dtype=torch.int64, device=tokens_BT.device)
    for column_B in tokens_BT.unbind(dim=1):
        total_B = torch.where(column_B > 0, total_B * 1_000_003 + column_B, total_B)
    return total_B >> 2
