"""LAMB's steps against the paper's algorithm, parameter by parameter in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from components.training.steps.lamb import Lamb

LR, BETAS, EPS, DECAY = 0.01, (0.9, 0.98), 1e-6, 0.1


def by_hand(weights: list[float], gradients: list[list[float]], decay: float) -> list[float]:
    """Algorithm 2 of arXiv:1904.00962, one number after the other; without decay the ratio is 1."""
    m, v, x = [0.0] * len(weights), [0.0] * len(weights), list(weights)
    for step, gradient in enumerate(gradients, start=1):
        m = [BETAS[0] * a + (1 - BETAS[0]) * g for a, g in zip(m, gradient, strict=True)]
        v = [BETAS[1] * a + (1 - BETAS[1]) * g * g for a, g in zip(v, gradient, strict=True)]
        moved = [
            (a / (1 - BETAS[0] ** step)) / (math.sqrt(b / (1 - BETAS[1] ** step)) + EPS) + decay * w
            for a, b, w in zip(m, v, x, strict=True)
        ]
        lengths = [math.sqrt(sum(each**2 for each in row)) for row in (x, moved)]
        ratio = lengths[0] / lengths[1] if decay and all(lengths) else 1.0
        x = [w - LR * ratio * each for w, each in zip(x, moved, strict=True)]
    return x


@pytest.mark.parametrize("decay", [DECAY, 0.0])
@pytest.mark.parametrize("size", [0.1, 30.0])
def test_five_steps_are_those_of_the_paper(decay, size):
    torch.manual_seed(0)
    weights = [nn.Parameter(size * torch.randn(2, 3)), nn.Parameter(size * torch.randn(4))]
    start = [value.flatten().tolist() for value in weights]
    optimiser = Lamb([{"params": weights, "weight_decay": decay}], lr=LR, betas=BETAS, eps=EPS)
    gradients = [[torch.randn_like(value) for value in weights] for _ in range(5)]
    for row in gradients:
        for value, gradient in zip(weights, row, strict=True):
            value.grad = gradient
        optimiser.step()
    for number, value in enumerate(weights):
        rows = [row[number].flatten().tolist() for row in gradients]
        expected = torch.tensor(by_hand(start[number], rows, decay)).view_as(value)
        torch.testing.assert_close(value.detach(), expected, rtol=2e-5, atol=1e-6)


def test_a_step_is_as_long_as_the_parameter_whatever_the_gradient():
    for scale in (1e-3, 1e3):
        weight = nn.Parameter(torch.full((3,), 2.0))
        before = weight.detach().clone()
        optimiser = Lamb([{"params": [weight], "weight_decay": DECAY}], lr=LR, betas=BETAS, eps=0.0)
        weight.grad = scale * torch.tensor([1.0, -2.0, 3.0])
        optimiser.step()
        assert (weight - before).norm().item() == pytest.approx(LR * before.norm().item(), rel=1e-5)


def test_what_is_zero_moves_at_adams_length_and_what_has_no_gradient_stays():
    zero, still = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimiser = Lamb([{"params": [zero, still], "weight_decay": 0.1}], lr=LR, betas=BETAS, eps=0.0)
    zero.grad = torch.tensor([1.0, -1.0, 5.0])
    optimiser.step()
    torch.testing.assert_close(zero.detach(), -LR * zero.grad.sign())
    assert torch.equal(still.detach(), torch.ones(3))
    assert still not in optimiser.state
