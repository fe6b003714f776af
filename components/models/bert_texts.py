"""How VisualBERT's texts are put together: a question with a mask for its answer, two captions as one text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PAD_ID = 0
"""What fills rows up; nobody reads it."""


def append_mask(tokens_BT: Tensor, lengths_B: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Each text with a mask before its `<eos>`, which makes the mask's place `length - 2`; and the new lengths.

    >>> append_mask(torch.tensor([[1, 7, 9, 0]]), torch.tensor([3]), mask_id=2)[0].tolist()
    [[1, 7, 2, 9, 0]]
    """
    rows_B = torch.arange(len(tokens_BT), device=tokens_BT.device)
    longer_BT = F.pad(tokens_BT, (0, 1), value=PAD_ID)
    longer_BT[rows_B, lengths_B] = tokens_BT[rows_B, lengths_B - 1]
    longer_BT[rows_B, lengths_B - 1] = mask_id
    return longer_BT, lengths_B + 1


def two_captions(
    first_BT: Tensor, first_lengths_B: Tensor, second_BT: Tensor, second_lengths_B: Tensor, *, sep_id: int
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`<bos> A <sep> B <eos>` of two captions, the segments 0 and 1 (0 up to `<sep>`), and the lengths."""
    lengths_B = first_lengths_B + second_lengths_B - 1
    shape = len(lengths_B), int(lengths_B.max())
    tokens_BT, segments_BT = (
        torch.full(shape, fill, device=first_BT.device) for fill in (PAD_ID, 0)
    )
    for row, (first, second) in enumerate(
        zip(first_lengths_B.tolist(), second_lengths_B.tolist(), strict=True)
    ):
        tokens_BT[row, : first - 1] = first_BT[row, : first - 1]
        tokens_BT[row, first - 1] = sep_id
        tokens_BT[row, first : first + second - 1] = second_BT[row, 1:second]
        segments_BT[row, first : first + second - 1] = 1
    return tokens_BT, segments_BT, lengths_B
