"""Scores over a fixed list of answers, taught with soft targets (Li et al. 2019, arXiv:1908.03557, section 4.1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def answer_divergence(logits_BA: Tensor, targets_BA: Tensor) -> Tensor:
    """Kullback-Leibler divergence from soft targets, summed over answers and averaged over rows, in nats.

    targets_BA: how right each answer is, in [0, 1]; rows need not sum to 1, as VQA's `min(0.3 count, 1)` do not.

    >>> round(answer_divergence(torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]])).exp().item(), 4)
    4.0
    """
    return F.kl_div(F.log_softmax(logits_BA.float(), dim=-1), targets_BA, reduction="batchmean")
