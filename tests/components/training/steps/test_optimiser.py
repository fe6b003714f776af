"""Groups, decay and the learning rate of each step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from components.abilities import Learns
from components.catalog import MODELS
from components.training.plan import TrainingPlan
from components.training.steps.optimiser import ParameterGroupsWrong, lr_at, optimiser_for, set_lr


class TwoGroups(nn.Module):
    """A line whose weight decays and whose bias learns ten times as fast; `groups` may be overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.groups = [
            {"name": "w", "params": [self.line.weight], "lr_scale": 1.0, "weight_decay": True},
            {"name": "b", "params": [self.line.bias], "lr_scale": 10.0, "weight_decay": False},
        ]

    def param_groups(self):
        return self.groups


def test_the_rate_rises_over_warm_up_and_reaches_its_peak():
    plan = TrainingPlan(steps=100, warmup_steps=10)
    rates = [lr_at(step, plan) for step in range(11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates)
    assert rates[9] == rates[10] == 1.0


@pytest.mark.parametrize(
    ("schedule", "half", "last"),
    [
        ("cosine", 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))),
        ("linear", 0.5, 0.01),
        ("constant", 1.0, 1.0),
    ],
)
def test_each_schedule_falls_as_it_says(schedule, half, last):
    plan = TrainingPlan(steps=100, warmup_steps=0, schedule=schedule)
    assert lr_at(50, plan) == pytest.approx(half)
    assert lr_at(99, plan) == pytest.approx(last)
    assert all(lr_at(step, plan) > 0 for step in range(100)), "no step is wasted at rate 0"


def test_a_group_learns_at_its_own_scale():
    plan = TrainingPlan(lr=0.01, warmup_steps=0, schedule="constant")
    optimiser = optimiser_for(TwoGroups(), plan)
    assert set_lr(optimiser, 0, plan) == 0.01
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.01, 0.1])


def test_only_the_groups_that_ask_for_it_decay():
    model = TwoGroups()
    optimiser = optimiser_for(model, TrainingPlan(lr=0.01, weight_decay=0.5, warmup_steps=0))
    before = model.line.weight.detach().clone(), model.line.bias.detach().clone()
    for parameter in (model.line.weight, model.line.bias):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(model.line.weight, before[0] * (1 - 0.01 * 0.5))
    torch.testing.assert_close(model.line.bias, before[1], rtol=0, atol=0)


def test_a_step_is_adamw_worked_by_hand():
    model = TwoGroups()
    plan = TrainingPlan(lr=0.01, weight_decay=0.1, betas=(0.9, 0.98), eps=1e-6, warmup_steps=0)
    optimiser = optimiser_for(model, plan)
    start = model.line.weight.detach().clone()
    gradient = torch.randn_like(start)
    model.line.weight.grad = gradient.clone()
    optimiser.step()
    # After one step both moments, freed of their bias, are the gradient and its square.
    by_hand = start * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-6)
    torch.testing.assert_close(model.line.weight.detach(), by_hand)


def test_a_trainable_parameter_left_out_is_named():
    model = TwoGroups()
    model.groups = model.groups[:1]
    with pytest.raises(ParameterGroupsWrong, match=r"line\.bias"):
        optimiser_for(model, TrainingPlan())


def test_a_parameter_named_twice_or_frozen_is_refused():
    model = TwoGroups()
    model.groups = [*model.groups, model.groups[0]]
    with pytest.raises(ParameterGroupsWrong, match=r"line\.weight"):
        optimiser_for(model, TrainingPlan())
    model.groups = model.groups[:2]
    model.groups[0]["params"] = [model.line.weight, model.frozen.weight]
    with pytest.raises(ParameterGroupsWrong, match="1 frozen"):
        optimiser_for(model, TrainingPlan())


@pytest.mark.parametrize(
    "name", sorted(name for name in MODELS if issubclass(MODELS[name], Learns))
)
def test_all_that_learns_names_each_trainable_parameter_once(name, build_tiny):
    model = build_tiny(name)
    grouped = sum(
        len(group["params"]) for group in optimiser_for(model, TrainingPlan()).param_groups
    )
    assert grouped == sum(parameter.requires_grad for parameter in model.parameters())
