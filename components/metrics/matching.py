"""How well pair scores tell what belongs together: recall in short lists, and accuracy at a threshold.

For models that look at an image and a text together, so that only few pairs can be scored. Shape letters: L images and
their L texts, one list.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.metrics.metric import MetricInputError


def list_recall(scores_LL: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share of images (texts) whose own text (image) is among the k best of the list, in [0, 1], both ways.

    scores_LL: image i with text j; the right pairs are the diagonal, and all others are wrong. Ties count against the
    model. Raises MetricInputError for a list of one, NaN or infinity.

    >>> list_recall(torch.eye(3), ks=(1,))
    {'image_to_text_r1': 1.0, 'text_to_image_r1': 1.0}
    """
    if scores_LL.ndim != 2 or scores_LL.shape[0] != scores_LL.shape[1] or len(scores_LL) < 2:
        raise MetricInputError(
            f"Scores of shape {tuple(scores_LL.shape)}; a square of 2 x 2 or more is needed."
        )
    _refuse_nonsense(scores_LL)
    right_L = scores_LL.diagonal()
    ways = {
        # The right answer reaches itself, hence the 1.
        "image_to_text": (scores_LL >= right_L[:, None]).sum(1) - 1,
        "text_to_image": (scores_LL >= right_L[None, :]).sum(0) - 1,
    }
    return {
        f"{way}_r{k}": (rank_L < k).double().mean().item()
        for way, rank_L in ways.items()
        for k in ks
    }


def balanced_accuracy(right_N: Tensor, wrong_M: Tensor, threshold: float) -> float:
    """Mean of the share of right pairs above the threshold and that of wrong pairs at or below it, in [0, 1].

    Raises MetricInputError for no pairs of a kind, NaN or infinity.

    >>> balanced_accuracy(torch.tensor([0.9, 0.4]), torch.tensor([0.1]), 0.5)
    0.75
    """
    for scores_N in (right_N, wrong_M):
        if not len(scores_N):
            raise MetricInputError("Right and wrong pairs are needed, at least one of each.")
        _refuse_nonsense(scores_N)
    found = (right_N > threshold).double().mean() + (wrong_M <= threshold).double().mean()
    return found.item() / 2


def _refuse_nonsense(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise MetricInputError("Scores hold NaN or infinity; look at the model that made them.")
