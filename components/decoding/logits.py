"""What every decoder does to logits first: turn them into log probabilities, and refuse nonsense."""

from __future__ import annotations

import torch
from torch import Tensor


class BadLogits(ValueError):
    """Logits from which no next word follows."""


def log_probabilities(logits_NV: Tensor) -> Tensor:
    """(N, V) log probabilities in nats, float32. Raises BadLogits if any is NaN: a broken model must not write."""
    log_probs_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    if bool(torch.isnan(log_probs_NV).any()):
        rows = torch.isnan(log_probs_NV).any(dim=-1).nonzero().flatten().tolist()
        raise BadLogits(
            f"Logits of rows {rows[:10]} give no probabilities (NaN, +inf, or all -inf). The checkpoint's training "
            "diverged: look at its loss, lower the plan's lr, and train again."
        )
    return log_probs_NV
