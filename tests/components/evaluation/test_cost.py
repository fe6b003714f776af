"""What a sample costs is counted: products by hand, attention too, every tensor that is held."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.catalog import FAMILIES
from components.data.batches import load_split
from components.evaluation.cost import cost
from components.models.blocks import SelfAttention
from components.records import BatchSpec


class OneAttention(nn.Module):
    """Embeds an image of 10 tokens of width 8 by one attention of 2 heads, and a text by a table."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = SelfAttention(8, 2)
        self.register_buffer("anchors", torch.zeros(5, 3))
        self.register_buffer("ids", torch.zeros(5, dtype=torch.int64))

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=32, max_tokens=8)

    def embed_images(self, pixels_BCHW, keys_B=None):
        return self.attend(torch.ones(len(pixels_BCHW), 10, 8))[0].mean(dim=1)

    def embed_texts(self, tokens_BT, lengths_B):
        return torch.ones(len(tokens_BT), 8)


@pytest.fixture(scope="module")
def images(tiny_shards):
    return load_split(tiny_shards, "test", 32)


def test_products_and_attention_are_counted_once_for_one_sample(images, tiny_tokenizer) -> None:
    model = OneAttention().eval()
    found = cost(model, tiny_tokenizer, images)
    inward, outward = 10 * 8 * 24, 10 * 8 * 8
    scores_and_sums = 2 * 10 * 10 * 8
    assert found.macs == inward + outward + scores_and_sums


def test_floats_that_are_no_parameters_count_as_held_and_numbers_of_rows_do_not(
    images, tiny_tokenizer
) -> None:
    model = OneAttention().eval()
    learnt = sum(value.numel() for value in model.parameters())
    assert cost(model, tiny_tokenizer, images).parameters == learnt + 5 * 3


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_a_cost_and_is_not_changed_by_the_look(
    name, build_tiny, tiny_shards, tiny_tokenizer
) -> None:
    model = build_tiny(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    learns = [value.requires_grad for value in model.parameters()]
    images = load_split(tiny_shards, "test", model.batch_spec().image_px)
    found = cost(model, tiny_tokenizer, images)
    assert found.macs > 0
    assert found.latency_ms > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [value.requires_grad for value in model.parameters()] == learns
