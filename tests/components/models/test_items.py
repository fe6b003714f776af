"""What a loss is the mean of: parts of a batch, weighed by it, are the whole; and features make the same loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.abilities import Learns, LearnsFromFeatures
from components.catalog import MODELS
from components.config import ConfigError
from components.models.text_bert import IGNORED, hide

BY_TOKENS = ("virtex", "simvlm", "frozen", "flamingo", "visualgpt", "lm", "adapted_lm")
"""Means over tokens, in eval mode a function of the batch alone; `mlm_text` draws the words it hides."""
BY_FEATURES = ("align", "clip")
BY_ROWS = ("vild", "visualbert")


def uneven(batch):
    """Half of the texts are three tokens long, so that a mean of means is not the mean."""
    ends_B1 = batch.tokens_BT.gather(1, batch.lengths_B[:, None] - 1)
    short_BT = torch.zeros_like(batch.tokens_BT)
    short_BT[:, :2] = batch.tokens_BT[:, :2]
    short_BT[:, 2:3] = ends_B1
    tokens_BT = torch.cat([short_BT[:4], batch.tokens_BT[4:]])
    lengths_B = torch.cat([torch.full_like(batch.lengths_B[:4], 3), batch.lengths_B[4:]])
    return replace(batch, tokens_BT=tokens_BT, lengths_B=lengths_B)


def test_each_that_learns_says_what_its_loss_is_a_mean_of():
    learning = {name for name, family in MODELS.items() if issubclass(family, Learns)}
    assert learning == {*BY_TOKENS, *BY_FEATURES, *BY_ROWS, "mlm_text"}
    assert {name for name in learning if issubclass(MODELS[name], LearnsFromFeatures)} == set(
        BY_FEATURES
    )


@pytest.mark.parametrize("name", BY_TOKENS)
def test_parts_weighed_by_their_items_are_the_whole(name, build_tiny, batch_for):
    model = build_tiny(name).eval()
    whole = uneven(batch_for(model.batch_spec(), 8))
    expected = model.loss(whole)
    found = [model.loss(part) for part in whole.split(2)]
    items = torch.stack([part.items for part in found])
    assert items[0] < items[1]
    assert items.sum() == expected.items
    total = sum(part.total * part.items for part in found) / items.sum()
    torch.testing.assert_close(total, expected.total, rtol=2e-6, atol=0)
    mean_of_means = sum(part.total for part in found) / 2
    assert abs(mean_of_means - expected.total) > 10 * abs(total - expected.total)


def test_the_items_of_hidden_words_are_the_hidden_words(build_tiny, batch_for):
    model = build_tiny("mlm_text")
    batch = batch_for(model.batch_spec(), 8)
    torch.manual_seed(0)
    _, labels_BT = hide(model.config, batch.tokens_BT)
    torch.manual_seed(0)
    assert model.loss(batch).items == (labels_BT != IGNORED).sum() > 0


@pytest.mark.parametrize("name", BY_FEATURES)
def test_the_loss_of_features_is_the_loss(name, build_tiny, batch_for):
    model = build_tiny(name).eval()
    batch = batch_for(model.batch_spec(), 8)
    found, expected = model.feature_loss(*model.features(batch), batch), model.loss(batch)
    assert torch.equal(found.total, expected.total)
    assert found.parts.keys() == expected.parts.keys()
    assert found.items is expected.items is None


def test_a_clip_that_cuts_captions_at_random_has_no_features_to_keep(build_tiny, batch_for):
    model = build_tiny("clip", truncate=True)
    batch = batch_for(model.batch_spec(), 8)
    with pytest.raises(ConfigError, match="accumulate=1"):
        model.features(batch)
    assert torch.isfinite(model.loss(batch).total)
