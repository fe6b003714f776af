"""What every decoder does to logits first: turn them into log probabilities, and refuse nonsense."""

from __future__ import annotations

import torch
from torch import Tensor


class BadLogits(ValueError):
    """Logits from which no next word follows."""


def log_probabilities(logits_NV: Tensor) -> Tensor:
    """(N, V) log probabilities in nats, float32. Raises BadLogits if any is NaN: a broken model must not write."""
    log_probs_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    _refuse(log_probs_NV.isnan().any(dim=-1))
    return log_probs_NV


def likeliest(logits_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest words of each row, or all there are, best first: log probabilities in nats, float32, and ids.

    Only these are made probabilities: over a real vocabulary that spares a search most of what it does beside the model.
    Raises BadLogits as `log_probabilities`.
    """
    logits_NV = logits_NV.float()
    total_N1 = logits_NV.logsumexp(dim=-1, keepdim=True)
    _refuse(~total_N1[:, 0].isfinite())
    likely_NK, words_NK = logits_NV.topk(min(count, logits_NV.shape[1]), dim=-1)
    return likely_NK - total_N1, words_NK


def likeliest_one(logits_NV: Tensor) -> Tensor:
    """(N,) the likeliest word of each row, of equal ones the first. Raises BadLogits as `log_probabilities`."""
    _refuse(~logits_NV.float().logsumexp(dim=-1).isfinite())
    return logits_NV.argmax(dim=-1)


def _refuse(bad_N: Tensor) -> None:
    if bool(bad_N.any()):
        raise BadLogits(
            f"Logits of rows {bad_N.nonzero().flatten().tolist()[:10]} give no probabilities (NaN, +inf, or all -inf). The "
            "checkpoint's training diverged: look at its loss, lower the plan's lr, and train again."
        )
