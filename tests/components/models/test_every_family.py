"""What every family owes, over the catalog: a new line there is under test before it has a test of its own."""

from __future__ import annotations

import json

import pytest
import torch

from components.abilities import Captions, Embeds, Learns
from components.catalog import FAMILIES
from components.config import Config
from components.records import Batch, BatchSpec


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def build(family, tiny_tokenizer):
    """`build(seed)`: the tiny preset for the made data's tokenizer."""

    def make(seed: int = 0):
        torch.manual_seed(seed)
        config = family.Config.tiny().to_dict() | {"vocab_size": tiny_tokenizer.vocab_size}
        return family(family.Config(**config))

    return make


@pytest.fixture
def batch(build, batch_for) -> Batch:
    return batch_for(build().batch_spec(), 16)


def _learn(model, batch: Batch, steps: int) -> list[float]:
    """Losses of steps on one batch, by plain AdamW over the model's own groups."""
    groups = [
        {"params": group["params"], "weight_decay": 0.1 if group["weight_decay"] else 0.0}
        for group in model.param_groups()
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    torch.manual_seed(1)
    model.train()
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model.loss(batch).total
        loss.backward()
        optimiser.step()
        model.after_step()
        losses.append(loss.item())
    return losses


def test_one_repeated_batch_is_learnt(build, batch: Batch) -> None:
    losses = _learn(build(), batch, steps=40)
    assert losses[-1] < 0.35 * losses[0]


def test_the_same_seed_gives_the_same_losses_and_another_does_not(build, batch: Batch) -> None:
    first, again, other = (_learn(build(seed), batch, steps=3) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_saved_state_gives_the_same_loss_in_a_model_built_from_the_saved_config(
    family, build, batch: Batch
) -> None:
    model = build()
    _learn(model, batch, steps=3)
    config = family.Config(**json.loads(json.dumps(model.config.to_dict())))
    assert config == model.config
    other = family(config)
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    with torch.no_grad():
        found = [built.eval().loss(batch).total for built in (model, other)]
    assert torch.equal(*found)


def test_param_groups_name_every_trainable_parameter_once(build) -> None:
    model = build()
    grouped = [id(param) for group in model.param_groups() for param in group["params"]]
    trainable = {id(param) for param in model.parameters() if param.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    for group in model.param_groups():
        assert set(group) == {"name", "params", "lr_scale", "weight_decay"}
        assert group["lr_scale"] > 0
        assert isinstance(group["weight_decay"], bool)


def test_every_trainable_parameter_gets_a_gradient(build, batch: Batch) -> None:
    model = build()
    # Two steps first: a gain that starts at zero hides what lies behind it.
    _learn(model, batch, steps=2)
    model.zero_grad()
    model.loss(batch).total.backward()
    silent = [
        name
        for name, param in model.named_parameters()
        if param.requires_grad and (param.grad is None or not param.grad.any())
    ]
    assert not silent


def test_the_loss_is_a_finite_scalar_with_named_parts(build, batch: Batch) -> None:
    loss = build().loss(batch)
    assert loss.total.shape == ()
    assert torch.isfinite(loss.total)
    assert loss.parts
    assert not any(part.requires_grad for part in loss.parts.values())


def test_every_family_learns_and_can_do_something_with_what_it_learnt(build) -> None:
    model = build()
    assert isinstance(model, Learns)
    assert isinstance(model, Embeds | Captions)


def test_the_batch_spec_follows_the_config(family) -> None:
    config = family.Config.tiny()
    spec = family(config).batch_spec()
    assert isinstance(spec, BatchSpec)
    assert (spec.image_px, spec.max_tokens) == (config.image_px, config.max_tokens)


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_every_preset_builds_without_memory_or_files(family, preset: str) -> None:
    config: Config = family.Config.preset(preset)
    with torch.device("meta"):
        model = family(config)
    assert all(param.is_meta for param in model.parameters())
