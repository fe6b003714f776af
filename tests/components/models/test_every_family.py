"""What every family and stage owes, over the catalog: a new line there is under test before it has a test of its own."""

from __future__ import annotations

import json

import pytest
import torch

from components.abilities import Answers, Captions, Detects, Embeds, Learns, Matches
from components.catalog import FAMILIES, MODELS
from components.config import Config
from components.records import Batch, BatchSpec
from components.training.building import build as build_model
from components.training.building import random_part, slots
from components.training.checkpoints import checkpoint

LEARNING = sorted(name for name, family in MODELS.items() if issubclass(family, Learns))
NOTHING_DRAWN = {"adapted_lm"}
"""Begin as what they were handed: a seed decides their batches alone."""
BUILT = sorted(set(MODELS) - set(LEARNING))


@pytest.fixture(params=LEARNING)
def name(request):
    return request.param


@pytest.fixture
def build(name, build_tiny):
    """`build(seed)`: the tiny preset for the made data, with stand-ins in its slots."""
    return lambda seed=0: build_tiny(name, seed)


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


def test_the_same_seed_gives_the_same_losses_and_another_does_not(
    name, build, batch: Batch
) -> None:
    first, again, other = (_learn(build(seed), batch, steps=3) for seed in (0, 0, 1))
    assert first == again
    assert (first != other) == (name not in NOTHING_DRAWN)


def test_a_checkpoint_read_back_is_the_same_model_bit_for_bit(
    name, build, batch: Batch, tiny_tokenizer, tmp_path
) -> None:
    model = build()
    _learn(model, batch, steps=3)
    config = model.config.to_dict()
    assert type(model.config)(**json.loads(json.dumps(config))) == model.config
    saved = checkpoint.save(
        tmp_path,
        model,
        tokenizer=tiny_tokenizer,
        origin=checkpoint.Origin(family=name, config=config, seed=0, shards_digest="made"),
        step=3,
    )
    other, _, _ = checkpoint.load_model(saved.path)
    losses = []
    for each in (model.eval(), other.eval()):
        torch.manual_seed(7)
        with torch.no_grad():
            losses.append(each.loss(batch).total)
    assert torch.equal(*losses)


def test_bf16_autocast_gives_a_finite_loss_and_finite_gradients(build, batch: Batch) -> None:
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(batch).total
    loss.backward()
    gradients = [param.grad for param in model.parameters() if param.grad is not None]
    assert torch.isfinite(loss)
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


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


def test_what_learns_has_all_that_the_loop_calls(build) -> None:
    assert isinstance(build(), Learns)


def test_every_family_can_do_something_with_what_it_learnt() -> None:
    useful = Embeds | Captions | Matches | Answers | Detects
    assert [name for name, family in FAMILIES.items() if not issubclass(family, useful)] == []


@pytest.mark.parametrize("built", BUILT)
def test_what_is_not_trained_has_nothing_to_train(built: str, build_tiny) -> None:
    model = build_tiny(built)
    assert not hasattr(model, "loss")
    assert not [key for key, param in model.named_parameters() if param.requires_grad]


@pytest.mark.parametrize("each", sorted(MODELS))
def test_the_batch_spec_follows_the_config(each: str, build_tiny) -> None:
    model = build_tiny(each)
    spec = model.batch_spec()
    assert isinstance(spec, BatchSpec)
    assert spec.image_px == getattr(model.config, "image_px", 0)
    assert spec.max_tokens == model.config.max_tokens


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
@pytest.mark.parametrize("each", sorted(name for name in MODELS if not slots(MODELS[name])))
def test_every_preset_builds_without_memory_or_files(each: str, preset: str) -> None:
    config: Config = MODELS[each].Config.preset(preset)
    with torch.device("meta"):
        model = build_model(each, config)
    assert all(param.is_meta for param in model.parameters())


@pytest.mark.parametrize("each", sorted(name for name in MODELS if slots(MODELS[name])))
def test_every_preset_of_a_family_with_slots_says_what_it_is_made_of(each: str) -> None:
    for preset in ("tiny", "small", "paper"):
        config = MODELS[each].Config.preset(preset)
        assert MODELS[each].Config(**json.loads(json.dumps(config.to_dict()))) == config


def test_a_stand_in_is_the_same_whenever_it_is_made(tiny_tokenizer) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = random_part("clip", tiny_tokenizer).module.state_dict()
        torch.manual_seed(2)
        other = random_part("clip", tiny_tokenizer).module.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
