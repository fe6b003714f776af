"""The divergence from soft targets: by hand, at its smallest, and where it pulls."""

from __future__ import annotations

import math

import pytest
import torch

from components.objectives.answers import answer_divergence


def test_two_answers_by_hand() -> None:
    """Logits ln 3 and 0 are 3/4 and 1/4; of the targets 1 and 0.6 each costs t (ln t - ln p)."""
    logits_BA = torch.tensor([[math.log(3), 0.0]])
    found = answer_divergence(logits_BA, torch.tensor([[1.0, 0.6]])).item()
    wanted = -math.log(3 / 4) + 0.6 * (math.log(0.6) - math.log(1 / 4))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_rows_are_averaged_and_answers_summed() -> None:
    torch.manual_seed(0)
    logits_BA, targets_BA = torch.randn(3, 5), torch.rand(3, 5)
    rows = [
        answer_divergence(logits_BA[row : row + 1], targets_BA[row : row + 1]) for row in range(3)
    ]
    torch.testing.assert_close(answer_divergence(logits_BA, targets_BA), torch.stack(rows).mean())


def test_it_is_0_where_scores_are_the_targets_and_more_elsewhere() -> None:
    targets_BA = torch.tensor([[0.5, 0.3, 0.2]])
    assert answer_divergence(targets_BA.log(), targets_BA).item() == pytest.approx(0, abs=1e-6)
    off_BA = (targets_BA + torch.tensor([[0.1, -0.1, 0.0]])).log()
    assert answer_divergence(off_BA, targets_BA).item() > 1e-3


def test_an_answer_nobody_gave_costs_nothing_itself_and_is_pushed_down() -> None:
    logits_BA = torch.zeros(1, 3, requires_grad=True)
    answer_divergence(logits_BA, torch.tensor([[1.0, 0.0, 0.0]])).backward()
    assert logits_BA.grad.tolist()[0] == pytest.approx([1 / 3 - 1, 1 / 3, 1 / 3], abs=1e-6)


def test_half_right_answers_pull_by_their_share_of_all_that_is_right() -> None:
    """Gradient of rows that sum to s: s softmax - t; its zero is at t / s."""
    targets_BA = torch.tensor([[1.0, 0.6, 0.3]])
    logits_BA = (targets_BA / targets_BA.sum()).log().requires_grad_()
    answer_divergence(logits_BA, targets_BA).backward()
    torch.testing.assert_close(logits_BA.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_a_row_without_any_right_answer_teaches_nothing() -> None:
    logits_BA = torch.randn(2, 4, requires_grad=True)
    answer_divergence(logits_BA, torch.zeros(2, 4)).backward()
    assert torch.equal(logits_BA.grad, torch.zeros(2, 4))


def test_half_precision_is_read_in_full() -> None:
    logits_BA = torch.tensor([[8.0, -8.0, 3.0]])
    targets_BA = torch.tensor([[0.9, 0.3, 0.0]])
    half = answer_divergence(logits_BA.bfloat16(), targets_BA)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, answer_divergence(logits_BA, targets_BA))
