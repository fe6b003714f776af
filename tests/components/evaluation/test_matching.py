"""Matching: its lists hold no second right answer, a model that knows is perfect, one that does not sees chance."""

from __future__ import annotations

import pytest
import torch

from components.data.batches import SplitImages, load_split
from components.evaluation.matching import LIST, RANKS, _lists, matching
from components.evaluation.plan import EvaluationPlan
from components.evaluation.subject import Subject
from components.records import BatchSpec


class Knowing:
    """Scores a pair by what the rows say of the images, whose numbers come as keys."""

    def __init__(
        self, images: list[SplitImages], tokenizer, *, scale: float, read: bool = True
    ) -> None:
        self.said = {row.key: row.sample.captions for split in images for row in split.rows}
        self.tokenizer, self.scale, self.read = tokenizer, scale, read
        self.passes = 0

    def batch_spec(self) -> BatchSpec:
        return BatchSpec(image_px=32, max_tokens=16)

    def match(self, pixels, tokens, lengths, keys=None) -> torch.Tensor:
        self.passes += len(tokens)
        assert len(pixels) == len(tokens) == len(keys)
        texts = [self.tokenizer.decode(row) for row in tokens.tolist()]
        fits = [text in self.said[key // 2] for text, key in zip(texts, keys.tolist(), strict=True)]
        return self.scale * torch.tensor(fits).float() if self.read else torch.zeros(len(fits))


@pytest.fixture
def splits(tiny_shards) -> tuple[SplitImages, SplitImages]:
    return load_split(tiny_shards, "test", 32), load_split(tiny_shards, "train", 32)


def _subject(splits, tokenizer, plan: EvaluationPlan | None = None, **model) -> Subject:
    test, train = splits
    knowing = Knowing([test, train], tokenizer, **{"scale": 1.0, **model})
    return Subject(
        model=knowing, tokenizer=tokenizer, images=test, train=train, plan=plan or EvaluationPlan()
    )


def test_no_image_of_a_list_holds_anothers_caption(splits) -> None:
    _, train = splits
    lists = _lists(train, 4, seed=0)
    # 14 things are drawn four times each, so a list holds every thing once.
    assert [len(chosen) for chosen in lists] == [14]
    chosen = lists[0]
    assert len({index for index, _ in chosen}) == 14
    for index, caption in chosen:
        holders = [other for other, _ in chosen if caption in train.rows[other].sample.captions]
        assert holders == [index]
    assert _lists(train, 4, seed=0) == lists
    assert _lists(train, 4, seed=1) != lists
    assert _lists(train, 0, seed=0) == []


def test_lists_are_full_and_share_no_image_where_there_are_images_enough(splits) -> None:
    _, train = splits
    rows = [_named(row, f"thing {number}") for number, row in enumerate([*train.rows, *train.rows])]
    many = SplitImages(split="train", rows=rows, pixels_NCHW=train.pixels_NCHW.repeat(2, 1, 1, 1))
    lists = _lists(many, 3, seed=0)
    assert [len(chosen) for chosen in lists] == [LIST] * 3
    assert len({index for chosen in lists for index, _ in chosen}) == 3 * LIST


def _named(row, caption: str):
    sample = type(row.sample)(**{**vars(row.sample), "captions": (caption,)})
    return type(row)(**{**vars(row), "sample": sample})


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_a_model_that_knows_is_perfect_and_blind_it_finds_nothing(
    splits, tiny_tokenizer, scale: float
) -> None:
    """At any scale: the threshold is learnt from training pairs."""
    values = matching(_subject(splits, tiny_tokenizer, scale=scale))
    for way in ("image_to_text", "text_to_image"):
        for k in RANKS:
            assert values[f"match_{way}_r{k}"] == 1.0
            assert values[f"chance/match_{way}_r{k}"] == pytest.approx(k / 14)
        assert values[f"image_blind/match_{way}_r1"] == 0.0
    assert values["match_accuracy"] == 1.0
    assert values["image_blind/match_accuracy"] == 0.5
    assert values["chance/match_accuracy"] == 0.5


def test_a_model_that_scores_all_alike_is_at_chance(splits, tiny_tokenizer) -> None:
    values = matching(_subject(splits, tiny_tokenizer, read=False))
    assert values["match_accuracy"] == 0.5
    assert values["match_image_to_text_r1"] == 0.0


def test_every_pair_of_a_list_is_scored_once_and_both_ways_read_it(splits, tiny_tokenizer) -> None:
    subject = _subject(splits, tiny_tokenizer)
    matching(subject)
    assert subject.model.passes == 14**2 + 14**2


def test_a_captioner_ranks_pairs_only_where_the_plan_says_so(splits, tiny_tokenizer) -> None:
    for lists, passes in ((None, 0), (1, 2 * 14**2)):
        subject = _subject(splits, tiny_tokenizer, EvaluationPlan(match_lists=lists))
        subject.model.prefill = subject.model.step = subject.model.logits = lambda *_: None
        assert bool(matching(subject)) == bool(passes)
        assert subject.model.passes == passes


def test_without_lists_or_images_described_differently_the_number_is_not_there(
    splits, tiny_tokenizer
) -> None:
    assert matching(_subject(splits, tiny_tokenizer, EvaluationPlan(match_lists=0))) == {}
    test, train = splits
    alike = SplitImages(
        split="test",
        rows=[_named(row, "a thing") for row in test.rows],
        pixels_NCHW=test.pixels_NCHW,
    )
    assert matching(_subject((alike, train), tiny_tokenizer)) == {}
