"""Accuracy of choosing one of C classes by score; zero-shot classification is this on image-text similarities."""

from __future__ import annotations

import torch
from torch import Tensor

from components.metrics.metric import MetricInputError


def top_k_accuracy(scores_NC: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """Share of rows whose own class is among the k highest, in [0, 1].

    A tie counts against the model: scores that are all the same are never right (with more than k classes).
    labels_N: class numbers, int64. Raises MetricInputError for NaN, no rows, or labels out of range.
    """
    return hits(scores_NC, labels_N, k).double().mean().item()


def mean_class_accuracy(scores_NC: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """Accuracy of each class that occurs, averaged over these classes, in [0, 1]: rare classes count as much.

    Ties and refusals as in `top_k_accuracy`.
    """
    right_N = hits(scores_NC, labels_N, k).double()
    classes = scores_NC.shape[1]
    right_C = torch.bincount(labels_N, weights=right_N, minlength=classes)
    total_C = torch.bincount(labels_N, minlength=classes)
    return (right_C / total_C)[total_C > 0].mean().item()


def hits(scores_NC: Tensor, labels_N: Tensor, k: int = 1) -> Tensor:
    """Whether fewer than k other classes score as high as a row's own or higher: (N,) bool."""
    _refuse(scores_NC, labels_N, k)
    own_N1 = scores_NC.gather(1, labels_N[:, None])
    # The own class is among those that score at least as high, hence k + 1 and not k.
    return (scores_NC >= own_N1).sum(dim=1) < k + 1


def _refuse(scores_NC: Tensor, labels_N: Tensor, k: int) -> None:
    if scores_NC.ndim != 2 or not scores_NC.numel() or labels_N.shape != scores_NC.shape[:1]:
        raise MetricInputError(
            f"Scores of shape {tuple(scores_NC.shape)} and labels of shape {tuple(labels_N.shape)}; "
            "give (N, C) and (N,), with N and C at least 1."
        )
    if torch.isnan(scores_NC).any():
        raise MetricInputError("scores_NC holds NaN; look at the model that made it.")
    if labels_N.dtype != torch.int64 or labels_N.min() < 0 or labels_N.max() >= scores_NC.shape[1]:
        raise MetricInputError(
            f"labels_N ({labels_N.dtype}) must be int64 between 0 and {scores_NC.shape[1] - 1}."
        )
    if k < 1:
        raise MetricInputError(f"k={k}; give 1 or more.")
