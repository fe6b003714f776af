"""Word-by-word losses: token cross entropy, and VirTex's two directions (Desai & Johnson 2021, arXiv:2006.06666)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class NothingToPredict(ValueError):
    """A batch without a single token to predict."""


def token_cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Mean over tokens of minus log probability, in nats, at least 0.

    logits_NV: one row for each token that counts; padding is left out before, so that no logits are made for it.
    labels_N: int64, the tokens that came. Raises NothingToPredict if there is none: the mean would be NaN.

    >>> round(token_cross_entropy(torch.zeros(3, 8), torch.tensor([0, 1, 2])).exp().item(), 4)
    8.0
    """
    if not len(labels_N):
        raise NothingToPredict(
            "No token to predict: every caption of the batch is empty. Captions come from the source; "
            "`max_tokens` of the family's config must be at least 2."
        )
    return F.cross_entropy(logits_NV, labels_N)


def mean_log_likelihood(logits_NV: Tensor, labels_N: Tensor, counted_BT: Tensor) -> Tensor:
    """(B,) mean log p of each text's tokens that count, in nats, at most 0: how well a text fits what was read before.

    counted_BT: bool, which places count; logits_NV and labels_N are of these alone, row after row. Raises
    NothingToPredict for a row in which none counts.

    >>> mean_log_likelihood(torch.zeros(3, 8), torch.tensor([0, 1, 2]), torch.tensor([[1, 1], [1, 0]]) > 0).exp()
    tensor([0.1250, 0.1250])
    """
    counts_B = counted_BT.sum(dim=1)
    if not bool(counts_B.all()):
        raise NothingToPredict("A text without a token has no likelihood; give it at least <eos>.")
    log_p_BT = torch.zeros(counted_BT.shape, device=logits_NV.device)
    log_p_BT[counted_BT] = -F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    return log_p_BT.sum(dim=1) / counts_B


def predicted(lengths_B: Tensor, prompts_B: Tensor, length: int) -> Tensor:
    """(B, length - 1) bool: which tokens after the first are learnt, neither given nor padding.

    lengths_B: tokens of each row. prompts_B: how many leading ones are given, `<bos>` counted.

    >>> predicted(torch.tensor([4, 2]), torch.tensor([2, 1]), 4).tolist()
    [[False, True, True], [True, False, False]]
    """
    place_T = torch.arange(1, length, device=lengths_B.device)
    return (place_T >= prompts_B[:, None]) & (place_T < lengths_B[:, None])


def two_way(forward: Tensor, backward: Tensor) -> Tensor:
    """VirTex's objective: the sum of both directions' mean losses, in nats (section 3.1 of the paper)."""
    return forward + backward


def flipped(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Each row read from its last token to its first, with the padding still at the end.

    tokens_BT: int64, `lengths_B` tokens a row and padding after them, which stays as it is. Its own inverse.

    >>> flipped(torch.tensor([[1, 5, 9, 0]]), torch.tensor([3])).tolist()
    [[9, 5, 1, 0]]
    """
    place_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    mirrored_BT = lengths_B[:, None] - 1 - place_T
    return tokens_BT.gather(1, torch.where(mirrored_BT >= 0, mirrored_BT, place_T))
