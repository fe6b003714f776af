"""Retrieval counts every right pair; chance is what random orders reach; the ensemble is a mean of directions."""

from __future__ import annotations

import pytest
import torch

from components.data.batches import load_split
from components.evaluation.retrieval import chance, class_embeddings, embed_texts, pairs
from components.metrics.retrieval import recall


class Letters:
    """Embeds a text by its token counts: enough to tell texts apart."""

    def embed_texts(self, tokens_BT, lengths_B):
        counts = torch.nn.functional.one_hot(tokens_BT, 512).sum(dim=1).float()
        return torch.nn.functional.normalize(counts, dim=-1)


def test_a_caption_two_images_share_is_one_text_with_two_right_images(tiny_shards):
    images = load_split(tiny_shards, "train", 32)
    texts, matches = pairs(images)
    assert len(texts) == len(set(texts))
    red_circles = [index for index, text in matches if texts[text] == "a red circle"]
    assert len(red_circles) == 4


def test_chance_is_what_random_embeddings_reach():
    matches = [(0, 0), (0, 1), (1, 2), (2, 3), (2, 0), (3, 4), (4, 4), (5, 5), (6, 6)]
    expected = chance(7, 7, matches)
    generator = torch.Generator().manual_seed(0)
    draws = [
        recall(
            torch.randn(7, 64, generator=generator),
            torch.randn(7, 64, generator=generator),
            matches,
            ks=(1, 5, 10),
        )
        for _ in range(600)
    ]
    for name, value in expected.items():
        assert sum(draw[name] for draw in draws) / len(draws) == pytest.approx(value, abs=0.03), (
            name
        )


def test_an_ensemble_of_one_prompt_is_the_plain_embedding(tiny_tokenizer):
    labels = ["red circle", "blue cross"]
    ensemble = class_embeddings(Letters(), tiny_tokenizer, labels, ["a {}"], 16)
    plain = embed_texts(Letters(), tiny_tokenizer, ["a red circle", "a blue cross"], 16)
    torch.testing.assert_close(ensemble, plain)


def test_an_ensemble_has_length_one(tiny_tokenizer):
    ensemble = class_embeddings(
        Letters(), tiny_tokenizer, ["red circle"], ["a {}", "the {} is"], 16
    )
    torch.testing.assert_close(ensemble.norm(dim=-1), torch.ones(1))
