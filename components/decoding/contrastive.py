"""Contrastive search: a likely word, but not one that says again what was said (Su et al. 2022, arXiv:2202.06417)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from components.abilities import Captions
from components.decoding.candidates import Watch, Weights, search


def contrastive(
    model: Captions,
    pixels_BCHW: Tensor,
    keys_B: Tensor | None = None,
    *,
    eos_id: int,
    max_tokens: int,
    prompts: Sequence[Sequence[int]] | None = None,
    top_k: int = 5,
    alpha: float = 0.6,
    watch: Watch | None = None,
) -> list[list[int]]:
    """The ids written for each image, without `<bos>`, prompt and `<eos>`; at most `max_tokens`, `<eos>` counted.

    top_k: words looked at, at least 1. alpha: how much likeness to what was read counts, in [0, 1]; 0 is greedy.
    Each candidate is read before it is chosen, so a model must have room for one token more than `max_tokens`.
    Raises BadOption, BadLogits. The model should be in eval mode.
    """
    return search(
        model, pixels_BCHW, keys_B, Weights(top_k=top_k, alpha=alpha),
        eos_id=eos_id, max_tokens=max_tokens, prompts=prompts, watch=watch,
    )  # fmt: skip
