"""What every decoder does to logits first: find the likeliest words, make them log probabilities, and refuse nonsense."""

from __future__ import annotations

import torch
from torch import Tensor


class BadLogits(ValueError):
    """Logits from which no next word follows: NaN, +inf, or all -inf. A broken model must not write."""


def log_probabilities(logits_NV: Tensor) -> Tensor:
    """(N, V) log probabilities in nats, float32. Raises BadLogits."""
    _refuse(logits_NV.amax(dim=-1))
    return torch.log_softmax(logits_NV.float(), dim=-1)


def likeliest(logits_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest words of each row, or all there are, best first: log probabilities in nats, float32, and ids.

    A search looks at these alone: sums over beams and over a real vocabulary cost as much as the model. Raises BadLogits.
    """
    likely_NK, words_NK = logits_NV.topk(min(count, logits_NV.shape[1]), dim=-1)
    _refuse(likely_NK[:, 0])
    return torch.log_softmax(logits_NV.float(), dim=-1).gather(1, words_NK), words_NK


def likeliest_one(logits_NV: Tensor) -> Tensor:
    """(N,) the likeliest word of each row. Raises BadLogits."""
    most_N, words_N = logits_NV.max(dim=-1)
    _refuse(most_N)
    return words_N


def _refuse(most_N: Tensor) -> None:
    """most_N: the greatest of each row, which NaN is, and which is not finite where no word has a probability."""
    if not bool(most_N.isfinite().all()):
        rows = (~most_N.isfinite()).nonzero().flatten().tolist()
        raise BadLogits(
            f"Logits of rows {rows[:10]} give no probabilities (NaN, +inf, or all -inf). The checkpoint's training "
            "diverged: look at its loss, lower the plan's lr, and train again."
        )
