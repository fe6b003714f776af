"""Contrastive search and MAGIC as their papers' code runs them, written anew from the papers as plain procedure.

SimCTG (arXiv:2202.06417): at every step the cache is repeated k times, all candidates are read, and the cache of the best
is kept. MAGIC (arXiv:2205.02655): the same for one image after another, and every candidate's whole text goes through the
CLIP text tower at its full context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache

Score = Callable[[int, list[list[int]]], Tensor]
"""(image, texts) -> one score a text."""


@torch.no_grad()
def contrastive(
    model: Any,
    prefix_BPD: Tensor,
    *,
    k: int,
    alpha: float,
    steps: int,
    beta: float = 0.0,
    score: Score | None = None,
) -> list[list[int]]:
    """The ids written for each row, which none ends early."""
    out = model(inputs_embeds=prefix_BPD, use_cache=True, output_hidden_states=True)
    cache, read_BTD, logits_BV = out.past_key_values, out.hidden_states[-1], out.logits[:, -1]
    rows = len(prefix_BPD)
    texts: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(steps):
        probs_BK, words_BK = logits_BV.softmax(dim=-1).topk(k, dim=-1)
        many = DynamicCache(
            [
                (layer.keys.repeat_interleave(k, 0), layer.values.repeat_interleave(k, 0))
                for layer in cache.layers
            ]
        )
        out = model(
            input_ids=words_BK.reshape(-1, 1), past_key_values=many, use_cache=True,
            output_hidden_states=True,
        )  # fmt: skip
        hidden_N1D = out.hidden_states[-1]
        hidden_BKD = hidden_N1D.view(rows, k, -1)
        cosines = F.normalize(hidden_BKD, dim=-1) @ F.normalize(read_BTD, dim=-1).mT
        total_BK = (1 - alpha) * probs_BK - alpha * cosines.amax(dim=-1)
        if score is not None:
            fits = [
                score(row, [[*texts[row], word] for word in words])
                for row, words in enumerate(words_BK.tolist())
            ]
            total_BK = total_BK + beta * torch.stack(fits).softmax(dim=-1)
        best_B = total_BK.argmax(dim=-1)
        kept_B = torch.arange(rows) * k + best_B
        cache = DynamicCache(
            [(layer.keys[kept_B], layer.values[kept_B]) for layer in out.past_key_values.layers]
        )
        logits_BV = out.logits[kept_B, -1]
        read_BTD = torch.cat([read_BTD, hidden_N1D[kept_B]], dim=1)
        for row, word in enumerate(words_BK.gather(1, best_B[:, None])[:, 0].tolist()):
            texts[row].append(word)
    return texts
