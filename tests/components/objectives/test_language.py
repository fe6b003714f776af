"""Token cross entropy, the sum of two directions, and turning captions round."""

from __future__ import annotations

import math

import pytest
import torch

from components.objectives.language import (
    NothingToPredict,
    flipped,
    mean_log_likelihood,
    predicted,
    token_cross_entropy,
    two_way,
)


def test_equal_logits_cost_the_log_of_the_vocabulary() -> None:
    assert token_cross_entropy(torch.zeros(5, 32), torch.arange(5)).item() == pytest.approx(
        math.log(32), abs=1e-5
    )


def test_loss_is_the_mean_over_tokens_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    wanted = -(math.log(0.25) + math.log(0.8)) / 2
    assert token_cross_entropy(logits, torch.tensor([1, 2])).item() == pytest.approx(
        wanted, abs=1e-6
    )


def test_no_token_at_all_is_refused_instead_of_giving_nan() -> None:
    with pytest.raises(NothingToPredict, match="max_tokens"):
        token_cross_entropy(torch.zeros(0, 8), torch.zeros(0, dtype=torch.long))


def test_two_way_is_the_sum() -> None:
    assert two_way(torch.tensor(1.25), torch.tensor(2.5)).item() == 3.75


def test_flipped_turns_the_words_and_leaves_padding_at_the_end() -> None:
    tokens = torch.tensor([[1, 5, 6, 7, 9], [1, 8, 9, 0, 0], [1, 9, 0, 0, 0]])
    lengths = torch.tensor([5, 3, 2])
    wanted = torch.tensor([[9, 7, 6, 5, 1], [9, 8, 1, 0, 0], [9, 1, 0, 0, 0]])
    assert torch.equal(flipped(tokens, lengths), wanted)
    assert torch.equal(flipped(flipped(tokens, lengths), lengths), tokens)


def test_the_likelihood_of_a_text_is_the_mean_over_its_own_tokens_by_hand() -> None:
    logits_NV = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]]))
    counted_BT = torch.tensor([[True, False, True], [False, True, False]])
    found = mean_log_likelihood(logits_NV, torch.tensor([0, 2, 1]), counted_BT)
    wanted = [(math.log(0.5) + math.log(0.8)) / 2, math.log(0.6)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_likelihoods_weighted_by_length_are_the_loss() -> None:
    torch.manual_seed(0)
    lengths_B = torch.tensor([5, 2, 4])
    counted_BT = predicted(lengths_B, torch.ones(3, dtype=torch.long), 5)
    logits_NV, labels_N = torch.randn(int(counted_BT.sum()), 7), torch.randint(7, (8,))
    found_B = mean_log_likelihood(logits_NV, labels_N, counted_BT)
    loss = token_cross_entropy(logits_NV, labels_N)
    torch.testing.assert_close(-(found_B * (lengths_B - 1)).sum() / 8, loss)


def test_a_text_without_a_token_is_refused_instead_of_giving_nan() -> None:
    counted_BT = torch.tensor([[True], [False]])
    with pytest.raises(NothingToPredict, match="no likelihood"):
        mean_log_likelihood(torch.zeros(1, 3), torch.tensor([0]), counted_BT)
