"""Masked language modelling: which words are hidden and what they are predicted from (Devlin et al. 2019, arXiv:1810.04805)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""The label of a token that is not predicted, as transformers has it."""


def hide_words(
    tokens_BT: Tensor, words_BT: Tensor, *, mask_id: int, word_ids: range, share: float = 0.15
) -> tuple[Tensor, Tensor]:
    """(what is read, labels), both int64 (B, T): of the chosen tokens 80 % become `mask_id`, 10 % a random word, 10 % stay.

    words_BT: bool, True for tokens that may be chosen: no specials and no padding.
    word_ids: what a random word is drawn from.
    share: probability that a token is chosen, in [0, 1].
    Labels are the tokens themselves where they were chosen and IGNORED elsewhere. Draws from torch's generator.

    >>> read, labels = hide_words(torch.tensor([[1, 7]]), torch.tensor([[False, True]]), mask_id=2,
    ...                           word_ids=range(6, 9), share=1.0)
    >>> labels.tolist()
    [[-100, 7]]
    """
    chosen_BT, fate_BT = (torch.rand(tokens_BT.shape, device=tokens_BT.device) for _ in range(2))
    hidden_BT = words_BT & (chosen_BT < share)
    random_BT = torch.randint(
        word_ids.start, word_ids.stop, tokens_BT.shape, device=tokens_BT.device
    )
    read_BT = tokens_BT.masked_fill(hidden_BT & (fate_BT < 0.8), mask_id)
    read_BT = torch.where(hidden_BT & (fate_BT >= 0.9), random_BT, read_BT)
    return read_BT, tokens_BT.masked_fill(~hidden_BT, IGNORED)


def masked_cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Mean of minus log probability of the hidden words, in nats; 0 where chance hid none of a small batch.

    logits_NV: one row for each hidden word alone, so that no logits are made for the others.
    """
    return F.cross_entropy(logits_NV, labels_N, reduction="sum") / max(len(labels_N), 1)
