"""Texts read in parts of like length come out as each read alone, and less padding is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from components.models.clip import Clip, ClipConfig
from components.models.lengths import by_length

EOS = 39


def _texts(rows: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    lengths_B = torch.randint(3, 24, (rows,), generator=made)
    tokens_BT = torch.randint(2, EOS, (rows, 24), generator=made)
    tokens_BT[torch.arange(rows), lengths_B - 1] = EOS
    return tokens_BT.masked_fill(torch.arange(24) >= lengths_B[:, None], 0), lengths_B


def test_a_text_is_embedded_as_it_is_alone_whatever_it_is_read_with() -> None:
    torch.manual_seed(0)
    model = Clip(ClipConfig(vision_widths=(8, 16, 16), image_px=32, vocab_size=EOS + 1)).eval()
    tokens_BT, lengths_B = _texts(70)
    together = model.embed_texts(tokens_BT, lengths_B)
    for row in range(0, 70, 7):
        text = tokens_BT[row, : lengths_B[row]][None]
        alone = model.embed_texts(text, lengths_B[row, None])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_each_part_is_cut_to_its_own_longest_text_and_few_texts_are_not_parted() -> None:
    seen: list[tuple[int, int]] = []

    def encode(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        assert tokens_BT.shape[1] == lengths_B.max()
        seen.append(tuple(tokens_BT.shape))
        return tokens_BT[:, :1]

    for rows in (70, 20):
        tokens_BT, lengths_B = _texts(rows)
        assert torch.equal(by_length(encode, tokens_BT, lengths_B), tokens_BT[:, :1])
    *many, few = seen
    assert len(many) == 4 and few[0] == 20
    assert sum(rows * length for rows, length in many) < 0.75 * 70 * 23
