"""CIDEr and CIDEr-D against the reference programmes and by hand, with the references' and with saved frequencies."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from components.metrics import cider
from components.metrics.frequencies import DocumentFrequencies, document_frequencies
from components.metrics.metric import MetricInputError

VARIANTS = {"CIDEr_D": "cider_d", "CIDEr": "cider"}


@pytest.mark.parametrize("reference_name", VARIANTS)
def test_corpus_and_every_image_equal_the_reference(golden, reference_name):
    stats = cider.statistics(golden.candidates, golden.references)
    variant = VARIANTS[reference_name]
    assert cider.score(stats, variant=variant) == pytest.approx(
        golden.corpus[reference_name], abs=1e-9
    )
    expected = np.array([image[reference_name] for image in golden.images])
    assert np.abs(cider.per_image(stats, variant=variant) - expected).max() < 1e-9


def test_first_reference_only_equals_the_reference(golden):
    stats = cider.statistics(golden.candidates, [several[:1] for several in golden.references])
    saved = golden.variants["first_ref_only"]
    assert np.abs(cider.per_image(stats) - np.array(saved["CIDEr_D"])).max() < 1e-9
    for name, variant in VARIANTS.items():
        assert cider.score(stats, variant=variant) == pytest.approx(saved["corpus"][name], abs=1e-9)


def test_one_image_alone_scores_nothing(golden):
    for alone in golden.variants["single_image_corpus"]:
        stats = cider.statistics(*golden.at(alone["id"]))
        assert cider.score(stats) == alone["corpus"]["CIDEr_D"] == 0.0


def test_saved_frequencies_equal_the_reference(golden):
    saved = golden.variants["cider_d_external_df"]
    ids = [image["id"] for image in golden.images]
    even = [
        several for number, several in zip(ids, golden.references, strict=True) if number % 2 == 0
    ]
    odd = [place for place, number in enumerate(ids) if number % 2]
    record = DocumentFrequencies.from_bytes(document_frequencies(even).to_bytes())
    stats = cider.statistics(
        [golden.candidates[place] for place in odd],
        [golden.references[place] for place in odd],
        record,
    )
    assert cider.score(stats) == pytest.approx(saved["corpus"], abs=1e-9)
    assert np.abs(cider.per_image(stats) - np.array(saved["per_image"])).max() < 1e-9
    assert (stats.frequencies, stats.frequency_images) == (record.digest, len(even))


def test_frequencies_of_the_same_references_change_nothing(golden):
    own = cider.statistics(golden.candidates, golden.references)
    saved = cider.statistics(
        golden.candidates, golden.references, document_frequencies(golden.references)
    )
    assert np.array_equal(cider.per_image(own), cider.per_image(saved))
    assert own.frequencies == "references" and saved.frequencies != "references"


def test_by_hand():
    # Two images, no n-gram shared: every weight is log 2. Candidate "a a", reference "a b": words 2a against a + b,
    # so cosine 2 / (2 sqrt 2) and, clipped at 1, 1 / (2 sqrt 2); no bigram in common; both have one bigram.
    stats = cider.statistics([["a", "a"], ["c"]], [[["a", "b"]], [["c"]]])
    assert cider.per_image(stats, variant="cider")[0] == pytest.approx(10 / 4 * 2 / (2 * 2**0.5))
    assert cider.per_image(stats)[0] == pytest.approx(10 / 4 * 1 / (2 * 2**0.5))
    # "c" alone has no bigram: a quarter of the ten points.
    assert cider.per_image(stats)[1] == pytest.approx(10 / 4)


def test_length_costs_only_cider_d():
    # The candidate repeats the reference's words: bigram counts 3 and 1, so CIDEr-D pays exp(-2^2 / 72).
    stats = cider.statistics([["a", "b", "a", "b"], ["c"]], [[["a", "b"]], [["c"]]])
    words = 1.0  # (2, 2) and (1, 1) point the same way
    bigrams = 2 / (5**0.5)  # 2 "a b" and 1 "b a" against 1 "a b"
    assert cider.per_image(stats, variant="cider")[0] == pytest.approx(10 / 4 * (words + bigrams))
    clipped = 2 / (8**0.5 * 2**0.5) + 1 / 5**0.5
    assert cider.per_image(stats)[0] == pytest.approx(10 / 4 * clipped * exp(-4 / 72))


def test_a_word_every_image_has_weighs_nothing():
    stats = cider.statistics([["the"], ["the"]], [[["the", "x"]], [["the", "y"]]])
    assert cider.per_image(stats).tolist() == [0.0, 0.0]


def test_an_unknown_word_weighs_most():
    record = document_frequencies([[["the"]], [["the", "cat"]]])
    stats = cider.statistics([["the", "dog"]], [[["dog"]]], record)
    # "the" is in both images: weight 0. "dog" is in none: log 2, as if in one.
    assert log(2) > 0 and cider.per_image(stats, variant="cider")[0] == pytest.approx(10 / 4)


def test_an_image_counts_a_word_once():
    record = document_frequencies([[["a", "a"], ["a"]], [["b"]]])
    counts = dict(zip(record.words, record.counts[0].tolist(), strict=True))
    assert counts == {"a": 1, "b": 1} and record.images == 2


def test_equal_records_have_equal_bytes_and_other_bytes_are_refused():
    one, other = (document_frequencies([[["a", "é\ud800"]], [["b"]]]) for _ in range(2))
    assert one.to_bytes() == other.to_bytes() and one.digest == other.digest
    assert DocumentFrequencies.from_bytes(one.to_bytes()).words == one.words
    with pytest.raises(MetricInputError, match="no saved DocumentFrequencies"):
        DocumentFrequencies.from_bytes(b"something else")
