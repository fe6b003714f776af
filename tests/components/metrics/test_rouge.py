"""ROUGE-L against the reference programme, by hand, and against the textbook's table of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.metrics import rouge


def test_corpus_and_every_image_equal_the_reference(golden):
    stats = rouge.statistics(golden.candidates, golden.references)
    assert rouge.score(stats) == pytest.approx(golden.corpus["ROUGE_L"], abs=1e-9)
    expected = np.array([image["ROUGE_L"] for image in golden.images])
    assert np.abs(rouge.per_image(stats) - expected).max() < 1e-9


def test_first_reference_only_equals_the_reference(golden):
    stats = rouge.statistics(golden.candidates, [several[:1] for several in golden.references])
    expected = golden.variants["first_ref_only"]["corpus"]["ROUGE_L"]
    assert rouge.score(stats) == pytest.approx(expected, abs=1e-9)


def test_one_image_alone_equals_the_reference(golden):
    for alone in golden.variants["single_image_corpus"]:
        stats = rouge.statistics(*golden.at(alone["id"]))
        assert rouge.score(stats) == pytest.approx(alone["corpus"]["ROUGE_L"], abs=1e-9)


def test_best_precision_and_best_recall_may_come_from_different_references():
    # "a b c d" has all of "a b" (recall 1, precision 1/2); all 4 words are in the long one (precision 1).
    stats = rouge.statistics(
        [["a", "b", "c", "d"]], [[["a", "b"], ["a", "x", "b", "x", "c", "x", "d", "x"]]]
    )
    assert (stats.precision_N[0], stats.recall_N[0]) == (1.0, 1.0)
    assert rouge.score(stats) == 1.0


def test_f_weighs_recall_by_beta_squared():
    stats = rouge.statistics([["a", "b"]], [[["a", "c", "d", "e"]]])
    precision, recall, beta = 1 / 2, 1 / 4, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert rouge.score(stats) == pytest.approx(expected)


def test_two_empty_captions_earn_nothing():
    assert rouge.score(rouge.statistics([[]], [[[]]])) == 0.0


def longest_common(left, right):
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


sentence = st.lists(st.sampled_from("abcd"), max_size=12).flatmap(
    lambda words: st.integers(1, 17).map(
        lambda times: words * times
    )  # up to 204: four machine words
)


@settings(max_examples=60)
@given(st.lists(st.tuples(sentence, sentence), min_size=1, max_size=4))
def test_lengths_equal_the_textbooks_table(pairs):
    stats = rouge.statistics([left for left, _ in pairs], [[right] for _, right in pairs])
    for index, (left, right) in enumerate(pairs):
        common = longest_common(left, right)
        assert stats.precision_N[index] == pytest.approx(common / max(len(left), 1))
        assert stats.recall_N[index] == pytest.approx(common / max(len(right), 1))
