"""METEOR 1.5 against the reference programme's counts and scores, by hand, and on hostile input."""

from __future__ import annotations

import time
from math import isclose

import numpy as np
import pytest

from components.metrics.meteor import meteor


@pytest.fixture(scope="module")
def stats(golden, meteor_resources):
    return meteor.statistics(golden.candidates, golden.references, meteor_resources)


def test_all_counts_of_all_images_equal_the_reference(golden, stats):
    expected = np.array([image["meteor_stats"] for image in golden.images])
    assert len(expected) == 142 and np.array_equal(stats.counts_N23, expected)


def test_corpus_and_every_image_equal_the_reference(golden, stats):
    expected = np.array([image["METEOR"] for image in golden.images])
    assert np.abs(meteor.per_image(stats) - expected).max() < 1e-12
    assert meteor.score(stats) == pytest.approx(golden.corpus["METEOR"], abs=1e-12)


def test_the_first_reference_alone_equals_the_reference(golden, meteor_resources):
    saved = golden.variants["first_ref_only"]
    first = [several[:1] for several in golden.references]
    stats = meteor.statistics(golden.candidates, first, meteor_resources)
    assert np.abs(meteor.per_image(stats) - np.array(saved["METEOR"])).max() < 1e-12
    assert meteor.score(stats) == pytest.approx(saved["corpus"]["METEOR"], abs=1e-12)


def one(candidate: str, *references: str, resources) -> tuple[list[int], float]:
    stats = meteor.statistics(
        [candidate.split()], [[text.split() for text in references]], resources
    )
    return stats.counts_N23[0].tolist(), float(meteor.per_image(stats)[0])


def test_by_hand(meteor_resources):
    # "the cat" against "the red cat": one function word and one content word match, in two chunks.
    counts, value = one("the cat", "the red cat", resources=meteor_resources)
    assert counts == [2, 3, 1, 1, 1, 1, 1, 1, *[0] * 12, 2, 2, 2]
    precision, recall = 1.0, (0.75 + 0.25) / (0.75 * 2 + 0.25)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert isclose(value, mean * (1 - 0.6 * (2 / 2) ** 0.2))


def test_a_perfect_caption_has_no_chunks_in_the_corpus_only(meteor_resources):
    captions = [["a", "cat"], ["the", "cat"]]
    references = [[["a", "cat"]], [["the", "red", "cat"]]]
    stats = meteor.statistics(captions, references, meteor_resources)
    assert stats.counts_N23[:, 20].tolist() == [1, 2]
    summed = stats.counts_N23.sum(axis=0)
    summed[20] = 2
    alone = meteor.MeteorStatistics(summed[None], "meteor", "golden")
    assert meteor.score(stats) == meteor.per_image(alone)[0]


def test_the_best_reference_counts_and_of_equals_the_first(meteor_resources):
    counts, value = one("a cat", "the dog runs", "a cat", "a dog", resources=meteor_resources)
    assert counts[:2] == [2, 2] and value == 1.0
    counts, value = one("cat", "dog runs", "the old dog", resources=meteor_resources)
    assert counts[:2] == [1, 2] and value == 0.0


@pytest.mark.parametrize(
    ("candidate", "reference", "best"),
    [
        ("", "", 0.0),
        ("", "a cat", 0.0),
        ("a cat", "", 0.0),
        ("! ? !", "a cat", 0.0),
        ("! ?", "! ?", 1.0),
        ("\ud800 \udfff", "\ud800 \udfff", 1.0),
        ("\x1c", "a", 0.0),
    ],
    ids=ascii,
)
def test_empty_and_odd_captions_have_defined_scores(candidate, reference, best, meteor_resources):
    assert one(candidate, reference, resources=meteor_resources)[1] == best


HOSTILE = {
    "10 MB of letters": "a" * 10_000_000,
    "10 MB of short words": "dog cats a " * 1_000_000,
    "hyphens and quotes": "-'.,\u2019" * 100_000,
    "equal words": "a " * 5000,
    "every matcher at once": "dog dogs puppy " * 3000,
    "two words in turn": "dog dogs " * 3000,
    "many different words": " ".join(f"w{number}s" for number in range(200_000)),
    "surrogates": "\ud800\udc00" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_captions_end_soon_and_count_in_full_length(name, meteor_resources):
    words = HOSTILE[name].split()
    started = time.monotonic()
    stats = meteor.statistics([words], [[words, ["a", "dog"]]], meteor_resources)
    assert time.monotonic() - started < 60
    assert 0 <= meteor.per_image(stats)[0] <= 1 and 0 <= meteor.score(stats) <= 1
    assert stats.counts_N23[0, 0] >= len(words)


def test_words_behind_the_first_thousand_count_in_length_alone(meteor_resources):
    long = [f"w{number}" for number in range(1500)] + ["the"] * 3
    counts = meteor.statistics([long], [[long]], meteor_resources).counts_N23[0]
    assert counts[:4].tolist() == [1503, 1503, 3, 3] and counts[20:].tolist() == [1, 1000, 1000]


def test_of_captions_that_match_in_too_many_ways_fifty_words_are_aligned(meteor_resources):
    counts = meteor.statistics([["cat"] * 101], [[["cat"] * 100]], meteor_resources).counts_N23[0]
    assert counts[:2].tolist() == [101, 100] and counts[21:].tolist() == [50, 50]
    within = meteor.statistics([["cat"] * 100], [[["cat"] * 100]], meteor_resources).counts_N23[0]
    assert within[20:].tolist() == [1, 100, 100]
