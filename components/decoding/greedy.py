"""Greedy decoding: always the likeliest next word, for a batch of images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from components.abilities import Captions
from components.decoding.logits import log_probabilities


@torch.no_grad()
def greedy(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
) -> list[list[int]]:
    """The ids written for each image, without `<bos>` and `<eos>`; at most `max_tokens`, `<eos>` counted.

    Raises BadLogits. The model should be in eval mode.
    """
    state, logits_BV = model.prefill(pixels_BCHW, keys_B)
    written = [log_probabilities(logits_BV).argmax(dim=-1)]
    ended_B = written[0] == eos_id
    while len(written) < max_tokens and not bool(ended_B.all()):
        state, logits_BV = model.step(state, written[-1])
        written.append(log_probabilities(logits_BV).argmax(dim=-1))
        ended_B = ended_B | (written[-1] == eos_id)
    return [until(row, eos_id) for row in torch.stack(written, dim=1).tolist()]


def until(ids: list[int], eos_id: int) -> list[int]:
    """The ids before the first `eos_id`.

    >>> until([5, 6, 9, 5], eos_id=9)
    [5, 6]
    """
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
