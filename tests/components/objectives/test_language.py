"""Token cross entropy, the sum of two directions, and turning captions round."""

from __future__ import annotations

import math

import pytest
import torch

from components.objectives.language import (
    NothingToPredict,
    flipped,
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
