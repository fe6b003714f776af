from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.data.facts import CaptionFacts, ImageFacts, caption_facts, image_facts
from components.data.shards import read_manifest, write_shards
from components.records import Row, Sample, Shards


@pytest.fixture
def row(tiny_shards: Shards) -> Row:
    return read_manifest(tiny_shards)[0]


def of(row: Row, caption: str) -> CaptionFacts:
    (facts,) = caption_facts([replace(row, sample=replace(row.sample, captions=(caption,)))])
    return facts


@pytest.mark.parametrize("caption", ["dog2", "clock1230", "star_32pt05step", "an 18point star"])
def test_machine_tokens_are_counted(caption: str, row: Row) -> None:
    assert of(row, caption).machine_tokens > 0


@pytest.mark.parametrize("caption", ["1st place medal", "a 7 of 9 trees", "don’t", "o’clock 12:30"])
def test_words_and_numbers_of_people_are_no_machine_tokens(caption: str, row: Row) -> None:
    assert of(row, caption).machine_tokens == 0


@pytest.mark.parametrize(
    "caption",
    [
        "Part of the Flat Icon Collection (Wed Aug 25)",
        "see www.example.org",
        "by somebody@example.org",
        "<b>bold</b>",
        "fish &amp; chips",
        "UNTITLED",
    ],
)
def test_boilerplate_is_counted(caption: str, row: Row) -> None:
    assert of(row, caption).boilerplate > 0


@pytest.mark.parametrize("caption", ["a part of the cake", "a <3 heart", "salt & pepper", "@ sign"])
def test_plain_captions_are_no_boilerplate(caption: str, row: Row) -> None:
    assert of(row, caption).boilerplate == 0


@pytest.mark.parametrize(
    ("caption", "count"), [("a\x00b\x1b", 2), ("caf\ufffd", 1), ("👩‍🚒 piñata\u200e", 0)]
)
def test_odd_characters_are_counted(caption: str, count: int, row: Row) -> None:
    assert of(row, caption).odd_characters == count


def test_a_caption_of_ten_megabytes_is_measured(row: Row) -> None:
    facts = of(row, "<@_" * 3_500_000)
    assert (facts.letters, facts.words, facts.characters) == (0, 1, 10_500_000)


def test_one_caption_names_as_many_concepts_as_have_it_in_any_case(row: Row) -> None:
    rows = [
        replace(row, sample=replace(row.sample, concept=concept, captions=(caption,)))
        for concept, caption in [("norway", "No"), ("thumb", "no "), ("thumb", "NO"), ("x", "yes")]
    ]
    assert [facts.concepts for facts in caption_facts(rows)] == [2, 2, 2, 1]


def seeded(tiny_samples: list[Sample], folder: Path) -> list[ImageFacts]:
    """One picture four times: twice alike in train, once renamed there, once in val; and one other in test."""
    first, *_, other = tiny_samples
    samples = [
        replace(first, id="a", split="train"),
        replace(first, id="b", split="train"),
        replace(first, id="c", split="train", captions=("another name",)),
        replace(first, id="d", split="val"),
        replace(other, id="e", split="test"),
    ]
    return image_facts(read_manifest(write_shards(samples, folder)))


def test_twins_are_counted_in_the_split_across_and_by_name(
    tiny_samples: list[Sample], tmp_path: Path
) -> None:
    facts = seeded(tiny_samples, tmp_path / "shards")
    assert [fact.twins_here for fact in facts] == [1, 1, 0, 0, 0]
    assert [fact.twins_across for fact in facts] == [1, 1, 1, 3, 0]
    assert [fact.namings for fact in facts] == [2, 2, 2, 2, 1]


def test_unreadable_images_are_nobodys_twins(tiny_samples: list[Sample], tmp_path: Path) -> None:
    samples = [
        replace(sample, image=b"GIF", split=split)
        for sample, split in zip(tiny_samples, ["train", "test"], strict=False)
    ]
    for facts in image_facts(read_manifest(write_shards(samples, tmp_path / "shards"))):
        assert (facts.pixels_sha256, facts.shorter_side_px, facts.aspect) == (None, None, None)
        assert (facts.twins_here, facts.twins_across, facts.namings) == (0, 0, 0)


def test_a_family_leaks_between_training_and_unseen_concepts_only(row: Row) -> None:
    def leaks(*splits: str) -> list[int]:
        rows = [replace(row, sample=replace(row.sample, split=split)) for split in splits]
        return [facts.family_leaks for facts in image_facts(rows)]

    assert leaks("train", "val", "test") == [0, 0, 0]
    assert leaks("train", "test", "test_concept") == [1, 0, 1]
    assert leaks("val_concept", "test_concept", "test") == [0, 0, 0]
