"""A language model that goes on learning: its last blocks move, the part it came from never does."""

from __future__ import annotations

import pytest
import torch

from components.abilities import LanguageModel
from components.config import ConfigError
from components.models.adapted_lm import AdaptedLm, AdaptedLmConfig
from components.models.magic import Magic, MagicConfig
from components.models.parts import Part
from components.training.building import build, random_part
from components.training.checkpoints import checkpoint
from components.training.plan import TrainingPlan
from components.training.steps.optimiser import optimiser_for

TOKENS = torch.tensor([[1, 30, 31, 32, 33]])


@pytest.fixture
def part(tiny_tokenizer) -> Part:
    return random_part("lm", tiny_tokenizer)


@torch.no_grad()
def _logits(lm: LanguageModel) -> torch.Tensor:
    return lm.logits(lm.run(lm.embed(TOKENS))[0])


def _learn(model: AdaptedLm, batch, steps: int = 5) -> None:
    optimiser = optimiser_for(model, TrainingPlan(lr=1e-2))
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        model.loss(batch).total.backward()
        optimiser.step()
    model.eval()


def test_it_begins_as_the_part_and_only_its_last_blocks_ever_differ(part: Part, batch_for) -> None:
    before = {name: value.clone() for name, value in part.module.state_dict().items()}
    as_handed = _logits(part.module)
    model = AdaptedLm(AdaptedLmConfig(learnt_blocks=1), {"lm": part})
    assert torch.equal(_logits(model), as_handed)
    _learn(model, batch_for(model.batch_spec(), 16))
    assert not torch.equal(_logits(model), as_handed)
    assert torch.equal(_logits(part.module), as_handed)
    assert all(torch.equal(before[name], now) for name, now in part.module.state_dict().items())
    last = f"{len(model.blocks) - 1}."
    for name, value in model.blocks.named_parameters():
        theirs = part.module.blocks.get_parameter(name)
        assert (value is not theirs) == name.startswith(last)
        assert value.requires_grad == name.startswith(last)


def test_a_checkpoint_holds_its_own_blocks_alone(
    part: Part, tiny_tokenizer, batch_for, tmp_path
) -> None:
    model = build("adapted_lm", AdaptedLmConfig(learnt_blocks=1), {"lm": part})
    _learn(model, batch_for(model.batch_spec(), 16))
    saved = _saved(model, "adapted_lm", tiny_tokenizer, tmp_path)
    own = sum(value.numel() * 4 for value in model.blocks[-1].state_dict().values())
    assert (saved.path / checkpoint.WEIGHTS).stat().st_size < own + 20_000
    read, _, _ = checkpoint.load_model(saved.path)
    assert torch.equal(_logits(read), _logits(model))


def test_magic_writes_with_it_and_keeps_it_whole(part: Part, tiny_tokenizer, tmp_path) -> None:
    model = build("adapted_lm", AdaptedLmConfig(learnt_blocks=1), {"lm": part}).eval()
    model.requires_grad_(False)
    adapted = Part(module=model, tokenizer=tiny_tokenizer, origin=part.origin)
    clip = random_part("clip", tiny_tokenizer)
    magic = build("magic", MagicConfig(), {"lm": adapted, "clip": clip})
    assert isinstance(magic, Magic)
    saved = _saved(magic, "magic", tiny_tokenizer, tmp_path)
    read, _, _ = checkpoint.load_model(saved.path)
    assert isinstance(read.lm, AdaptedLm)
    assert torch.equal(_logits(read.lm), _logits(model))


def test_what_does_not_fit_the_part_is_refused(part: Part) -> None:
    with pytest.raises(ConfigError, match="set learnt_blocks: 4 or less"):
        AdaptedLm(AdaptedLmConfig(learnt_blocks=5), {"lm": part})
    with pytest.raises(ConfigError, match="set max_tokens: 160 or less"):
        AdaptedLm(AdaptedLmConfig(max_tokens=161), {"lm": part})
    with pytest.raises(ConfigError, match="at least 1"):
        AdaptedLmConfig(learnt_blocks=0)
    with pytest.raises(ConfigError, match='needs a part "lm"'):
        AdaptedLm(AdaptedLmConfig())


def _saved(model, family: str, tokenizer, folder):
    origin = checkpoint.Origin(
        family=family, config=model.config.to_dict(), seed=0, shards_digest="made"
    )
    return checkpoint.save(folder, model, tokenizer=tokenizer, origin=origin, step=1)
