"""Blocks that are computed again or compiled give the gradients they gave, under the names they had."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from components.abilities import Learns
from components.catalog import MODELS
from components.training.plan import TrainingPlan
from components.training.steps.gradients import LossOf
from components.training.steps.repeated import prepared, repeated_blocks

LEARNING = sorted(name for name, family in MODELS.items() if issubclass(family, Learns))
AGAIN = TrainingPlan(activation_checkpointing=True)


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.train()
    torch.manual_seed(1)
    model.loss(batch).total.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def kept_bytes(model, batch) -> int:
    """Memory that a forward pass keeps for its backward, each storage once, parameters left out."""
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    seen: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model.loss(batch)
    return sum(seen.values())


@pytest.mark.parametrize("name", LEARNING)
def test_blocks_computed_again_give_equal_gradients_and_statistics(name, build_tiny, batch_for):
    plain, again = build_tiny(name), build_tiny(name)
    batch = batch_for(plain.batch_spec(), 8)
    names = list(again.state_dict())
    prepared(LossOf(again), AGAIN)
    assert list(again.state_dict()) == names
    expected, found = gradients(plain, batch), gradients(again, batch)
    assert found.keys() == expected.keys()
    for each, value in expected.items():
        assert torch.equal(found[each], value), each
    for (each, one), other in zip(
        plain.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), each


@pytest.mark.parametrize("name", ["lm", "mlm_text", "visualgpt"])
def test_less_is_kept_for_the_backward_pass(name, build_tiny, batch_for):
    plain, again = build_tiny(name), build_tiny(name)
    batch = batch_for(plain.batch_spec(), 8)
    prepared(LossOf(again), AGAIN)
    assert repeated_blocks(again)
    assert kept_bytes(again, batch) < 0.85 * kept_bytes(plain, batch)


class Tower(nn.Module):
    """Two blocks of two layers, a list of plain layers, and a list of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.mixed = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)), nn.ModuleList([nn.Tanh()])])

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x_BD = block(x_BD)
        return x_BD.square().mean()


def test_blocks_are_members_of_one_kind_with_layers_of_their_own():
    tower = Tower()
    assert repeated_blocks(tower) == list(tower.blocks)
    assert repeated_blocks(nn.ModuleList([tower, Tower()]))[0] is tower, "the outermost"


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_compiled_blocks_give_the_same_gradients_under_the_same_names(again):
    torch.manual_seed(0)
    plain, compiled = Tower(), Tower()
    compiled.load_state_dict(plain.state_dict())
    names = list(compiled.state_dict())
    prepared(compiled, replace(AGAIN, activation_checkpointing=again, compile=True))
    x_BD = torch.randn(3, 4)
    for model in (plain, compiled):
        model(x_BD).backward()
    assert list(compiled.state_dict()) == names
    for one, other in zip(plain.blocks.parameters(), compiled.blocks.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
