"""BLEU against the reference programme and against numbers worked by hand."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from components.metrics import bleu


def names(golden_values):
    return [golden_values[f"Bleu_{order}"] for order in (1, 2, 3, 4)]


def test_corpus_and_every_image_equal_the_reference(golden):
    stats = bleu.statistics(golden.candidates, golden.references)
    assert bleu.score(stats) == pytest.approx(names(golden.corpus), abs=1e-9)
    expected = np.array([image["Bleu"] for image in golden.images])
    assert np.abs(bleu.per_image(stats) - expected).max() < 1e-9


def test_first_reference_only_equals_the_reference(golden):
    stats = bleu.statistics(golden.candidates, [several[:1] for several in golden.references])
    expected = names(golden.variants["first_ref_only"]["corpus"])
    assert bleu.score(stats) == pytest.approx(expected, abs=1e-9)


def test_one_image_alone_equals_the_reference(golden):
    for alone in golden.variants["single_image_corpus"]:
        stats = bleu.statistics(*golden.at(alone["id"]))
        assert bleu.score(stats) == pytest.approx(names(alone["corpus"]), abs=1e-9)


def test_words_and_bigrams_by_hand():
    stats = bleu.statistics([["a", "b", "x", "c"]], [[["a", "b", "c", "d", "e"]]])
    assert stats.matched_N4.tolist() == [[3, 1, 0, 0]]
    assert stats.offered_N4.tolist() == [[4, 3, 2, 1]]
    one, two, _, _ = bleu.score(stats)
    assert one == pytest.approx(exp(1 - 5 / 4) * 3 / 4)
    assert two == pytest.approx(exp(1 - 5 / 4) * (3 / 4 * 1 / 3) ** 0.5)


def test_a_repeated_word_counts_as_often_as_one_reference_has_it():
    stats = bleu.statistics([["the"] * 4], [[["the", "the", "cat"], ["the", "dog"]]])
    assert stats.matched_N4[0, 0] == 2


def test_of_two_equally_close_lengths_the_shorter_counts():
    stats = bleu.statistics([["a"] * 4], [[["a"] * 5, ["a"] * 3]])
    assert stats.reference_length_N.tolist() == [3]


def test_a_no_break_space_parts_words():
    split = bleu.statistics([["3\xa01/2", "cups"]], [[["3", "1/2", "cups"]]])
    assert split.matched_N4[0].tolist() == [3, 2, 1, 0]
