"""Accuracy of the highest scores, by hand; ties never help."""

from __future__ import annotations

import pytest
import torch

from components.metrics.classification import hits, mean_class_accuracy, top_k_accuracy
from components.metrics.metric import MetricInputError

SCORES = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.7, 0.2, 0.1], [0.0, 0.1, 0.9]])
LABELS = torch.tensor([0, 1, 0, 0])


def test_top_k_by_hand():
    assert top_k_accuracy(SCORES, LABELS, k=1) == 0.5
    assert top_k_accuracy(SCORES, LABELS, k=2) == 0.75
    assert top_k_accuracy(SCORES, LABELS, k=3) == 1.0


def test_rare_classes_count_as_much():
    # Class 0: 2 of 3. Class 1: 0 of 1. Class 2 does not occur.
    assert mean_class_accuracy(SCORES, LABELS) == pytest.approx((2 / 3 + 0) / 2)


def test_top_k_equals_topk_without_ties():
    scores = torch.rand(50, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 9
    for k in (1, 3, 9):
        expected = (scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
        assert torch.equal(hits(scores, labels, k), expected)


def test_scores_that_are_all_the_same_are_never_right():
    assert top_k_accuracy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), k=2) == 0.0
    assert mean_class_accuracy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 0.0


@pytest.mark.parametrize(
    ("scores", "labels", "k", "says"),
    [
        (torch.tensor([[float("nan"), 1.0]]), torch.tensor([1]), 1, "NaN"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 1, "at least 1"),
        (torch.zeros(2, 2), torch.tensor([0]), 1, "give"),
        (torch.zeros(1, 2), torch.tensor([2]), 1, "between 0 and 1"),
        (torch.zeros(1, 2), torch.tensor([-1]), 1, "between 0 and 1"),
        (torch.zeros(1, 2), torch.tensor([0.0]), 1, "int64"),
        (torch.zeros(1, 2), torch.tensor([0]), 0, "k=0"),
    ],
)
def test_input_it_is_not_defined_for_is_refused(scores, labels, k, says):
    with pytest.raises(MetricInputError, match=says):
        mean_class_accuracy(scores, labels, k)
