"""Recall in lists and balanced accuracy, against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from components.metrics.matching import balanced_accuracy, list_recall
from components.metrics.metric import MetricInputError


def test_recall_counts_what_reaches_the_right_answer_both_ways() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [4.0, 2.0, 0.0], [0.0, 2.5, 1.0]])
    # Image 0: its text is best; 1 and 2: second. Text 0: image 1 is better; 1: image 2 is; 2: image 0 is.
    found = list_recall(scores, ks=(1, 2))
    assert found["image_to_text_r1"] == pytest.approx(1 / 3)
    assert found["image_to_text_r2"] == 1.0
    assert found["text_to_image_r1"] == 0.0
    assert found["text_to_image_r2"] == 1.0


def test_equal_scores_find_nothing() -> None:
    found = list_recall(torch.zeros(4, 4), ks=(1, 3, 4))
    assert found == {
        "image_to_text_r1": 0, "image_to_text_r3": 0, "image_to_text_r4": 1,
        "text_to_image_r1": 0, "text_to_image_r3": 0, "text_to_image_r4": 1,
    }  # fmt: skip


def test_accuracy_is_balanced_whatever_the_numbers_of_pairs() -> None:
    right, wrong = torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([0.6, 0.1])
    assert balanced_accuracy(right, wrong, 0.5) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert balanced_accuracy(right.repeat(5), wrong, 0.5) == balanced_accuracy(right, wrong, 0.5)
    # On the threshold is not above it.
    assert balanced_accuracy(torch.zeros(3), torch.zeros(3), 0.0) == 0.5


def test_what_has_no_answer_is_refused() -> None:
    for scores in (
        torch.zeros(1, 1),
        torch.zeros(2, 3),
        torch.tensor([[1.0, float("nan")], [0, 1]]),
    ):
        with pytest.raises(MetricInputError):
            list_recall(scores)
    with pytest.raises(MetricInputError, match="at least one of each"):
        balanced_accuracy(torch.zeros(0), torch.zeros(1), 0.5)
    with pytest.raises(MetricInputError, match="NaN"):
        balanced_accuracy(torch.tensor([float("inf")]), torch.zeros(1), 0.5)
