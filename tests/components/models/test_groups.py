"""Which parameters decay: by their shape, each once, and nothing that is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.models.groups import by_shape
from components.training.plan import TrainingPlan
from components.training.steps.optimiser import optimiser_for


class Mixed(nn.Module):
    """One parameter of each kind a family has, an embedding shared by two layers, and a frozen tower."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.words.weight
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.places = nn.Parameter(torch.zeros(6, 4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.tower = nn.Linear(4, 4).requires_grad_(False)

    def param_groups(self):
        return by_shape(self)


def _names(model: nn.Module, name: str) -> set[str]:
    (group,) = [each for each in by_shape(model) if each["name"] == name]
    wanted = {id(param) for param in group["params"]}
    return {key for key, param in model.named_parameters() if id(param) in wanted}


def test_matrices_decay_and_gains_biases_and_scalars_do_not() -> None:
    model = Mixed()
    assert _names(model, "matrices") == {"words.weight", "conv.weight", "places"}
    assert _names(model, "rest") == {
        "head.bias", "conv.bias", "norm.weight", "norm.bias", "log_scale",
    }  # fmt: skip
    assert {each["name"]: each["weight_decay"] for each in by_shape(model)} == {
        "matrices": True,
        "rest": False,
    }
    assert [each["lr_scale"] for each in by_shape(model)] == [1.0, 1.0]


def test_a_shared_matrix_is_named_once_and_a_frozen_one_never() -> None:
    model = Mixed()
    grouped = [id(param) for group in by_shape(model) for param in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert grouped.count(id(model.words.weight)) == 1
    assert not {id(param) for param in model.tower.parameters()} & set(grouped)


def test_one_step_without_gradients_shrinks_the_matrices_alone() -> None:
    model = Mixed()
    for param in model.parameters():
        nn.init.ones_(param)
        if param.requires_grad:
            param.grad = torch.zeros_like(param)
    plan = TrainingPlan(lr=0.1, weight_decay=0.5, warmup_steps=0)
    optimiser_for(model, plan).step()
    for name, param in model.named_parameters():
        shrunk = name in {"words.weight", "conv.weight", "places"}
        assert param.flatten()[0].item() == pytest.approx(0.95 if shrunk else 1.0), name
