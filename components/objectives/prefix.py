"""PrefixLM: a text is cut in two, the first part is read in both directions, the second is predicted (SimVLM).

Wang et al. 2021, arXiv:2108.10904, section 3.1. `<bos>` always belongs to the prefix, so with an image of T_i tokens and
`given` leading tokens the paper's T_p is T_i + given - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def draw_given(prompts_B: Tensor, lengths_B: Tensor) -> Tensor:
    """How many leading tokens of each text are prefix: int64 (B,), each row its own draw from torch's generator.

    Uniform from 1 (`<bos>` alone: all of the text is predicted) to length - 1 (only `<eos>` is). A text that begins
    with a prompt (a question) is cut behind it, which is how it will be asked.
    """
    u_B = torch.rand(len(lengths_B), device=lengths_B.device)
    drawn_B = 1 + (u_B * (lengths_B - 1)).long()
    return torch.where(prompts_B > 1, prompts_B, drawn_B)


@dataclass(frozen=True)
class Cut:
    """A batch of texts cut in two; every part is padded on the right."""

    prefix_BP: Tensor
    """int64: `<bos>` and the words that are given."""
    prefix_real_BP: Tensor
    """bool: False at padding."""
    inputs_BS: Tensor
    """int64: what the decoder reads: `<bos>`, and the suffix without its last token."""
    positions_BS: Tensor
    """int64: place of what is read in its text; that of `<bos>` is the prefix's last place, so they go on from there."""
    labels_BS: Tensor
    """int64: the suffix."""
    learnt_BS: Tensor
    """bool: False at padding."""


def cut(tokens_BT: Tensor, lengths_B: Tensor, given_B: Tensor, *, bos_id: int) -> Cut:
    """Cut each text behind its first `given` tokens, at least 1; a text that is given whole has nothing to learn.

    >>> halves = cut(torch.tensor([[1, 5, 6, 9]]), torch.tensor([4]), torch.tensor([2]), bos_id=1)
    >>> halves.prefix_BP.tolist(), halves.inputs_BS.tolist(), halves.labels_BS.tolist()
    ([[1, 5]], [[1, 6]], [[6, 9]])
    """
    place_P = torch.arange(int(given_B.max()), device=tokens_BT.device)
    prefix_real_BP = place_P < given_B[:, None]
    place_S = torch.arange(max(int((lengths_B - given_B).max()), 1), device=tokens_BT.device)
    at_BS = given_B[:, None] + place_S
    learnt_BS = at_BS < lengths_B[:, None]
    # Past the end of a row it reads its last token again, which nobody looks at.
    at_BS = at_BS.minimum(lengths_B[:, None] - 1)
    labels_BS = tokens_BT.gather(1, at_BS)
    inputs_BS = tokens_BT.gather(1, at_BS - 1)
    inputs_BS[:, 0] = bos_id
    return Cut(
        prefix_BP=tokens_BT[:, : len(place_P)] * prefix_real_BP,
        prefix_real_BP=prefix_real_BP,
        inputs_BS=inputs_BS,
        positions_BS=at_BS - 1,
        labels_BS=labels_BS,
        learnt_BS=learnt_BS,
    )
