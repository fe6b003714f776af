"""Greedy decoding: always the likeliest next word, for a batch of images at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.abilities import Captions
from components.decoding.logits import likeliest_one


@torch.no_grad()
def greedy(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """The ids written for each image, without `<bos>`, prompt and `<eos>`; at most `max_tokens`, `<eos>` counted.

    prompts: the ids after `<bos>` that each image's text begins with.
    Raises BadLogits. The model should be in eval mode.
    """
    state, logits_BV, _ = model.prefill(pixels_BCHW, keys_B, prompts)
    written = [likeliest_one(logits_BV)]
    ended_B = written[0] == eos_id
    while len(written) < max_tokens and not bool(ended_B.all()):
        state, hidden_BD = model.step(state, written[-1])
        written.append(likeliest_one(model.logits(hidden_BD)))
        ended_B = ended_B | (written[-1] == eos_id)
    return [until(row, eos_id) for row in torch.stack(written, dim=1).tolist()]


def until(ids: list[int], eos_id: int) -> list[int]:
    """The ids before the first `eos_id`.

    >>> until([5, 6, 9, 5], eos_id=9)
    [5, 6]
    """
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
